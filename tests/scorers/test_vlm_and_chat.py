"""Scorers that ask for a number in words: the real classes on small weights and on a loopback server."""

from pathlib import Path

import pytest
import yaml
from benchmarks.vendors.faults import Faults
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image
from tests.chat.tiny_llava import write_tiny_llava

from redaes.calls import Transient
from redaes.errors import UserError
from redaes.inference import Score, ScorerProtocol, combined
from redaes.registry import create
from redaes.scorers.questions import Question

# NIMA and RED-Aes open what a training wrote, and pyiqa is a package of its own: other tests read their configurations.
ELSEWHERE = ("nima", "pyiqa-", "redaes-")
CONFIGS = sorted(
    path for path in Path("configs/benchmarks/scorers").glob("*.yaml") if not path.stem.startswith(ELSEWHERE)
)


@pytest.fixture
def photos():
    photo = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    return [photo.rotate(90 * k, expand=True) for k in range(3)]


def test_a_number_of_the_native_range_is_mapped_and_anything_else_is_none():
    question = Question("aes_r1.v1", low=1, high=5)
    assert question.read("<think>Soft light.</think><answer>3.00</answer>") == Score(
        5.0, "Soft light.", "<think>Soft light.</think><answer>3.00</answer>"
    )
    assert question.read("<answer>1</answer> no, <answer>5</answer>").value == 10.0
    for text in ("3", "<answer>7</answer>", "<answer>3 or 4</answer>", "<answer>nan</answer>", ""):
        assert question.read(text).value is None


def test_samples_give_mean_and_deviation_of_those_that_could_be_read():
    drawn = combined([Score(None, "", "?"), Score(4.0, "a", "4"), Score(6.0, "b", "6")])
    assert (drawn.value, drawn.std, drawn.reasoning) == (5.0, pytest.approx(2**0.5), "a")
    assert combined([Score(None, "", "?")]).value is None


def test_any_chat_model_is_asked_in_batches_as_if_alone(photos):
    settings = {"model": "nano", "dtype": "float32", "max_new_tokens": 120, "low": 0.0, "device": "cpu"}
    settings["prompt"] = "score.v1"
    scorer = create("scorers", {"class_path": "hf_vlm", "init_args": settings})
    together = scorer.score(photos)
    assert [scorer.score([photo])[0].text for photo in photos] == [score.text for score in together]
    assert all(score.value is not None and 0 <= score.value <= 10 and score.reasoning for score in together)


def test_sampled_answers_spread_and_come_again(photos):
    settings = {"dtype": "float32", "max_new_tokens": 120, "low": 0.0, "device": "cpu", "prompt": "score.v1"}
    settings |= {"samples": 3, "sampling": {"temperature": 1.0}}
    scorer = create("scorers", "hf_vlm", model="nano", **settings)
    scores = scorer.score(photos)
    assert scores == scorer.score(photos)
    assert any(score.std for score in scores)
    assert not scorer.deterministic


def test_a_model_of_another_family_in_a_folder_is_asked(photos, tmp_path):
    model = str(write_tiny_llava(tmp_path / "llava"))
    scorer = create("scorers", "hf_vlm", model=model, max_new_tokens=4, device="cpu")
    assert len(scorer.score(photos)) == len(photos)


def test_aes_r1_asks_its_own_question(photos):
    scorer = create("scorers", "aes_r1", model="nano", device="cpu", sampling={}, max_new_tokens=8)
    assert scorer.question.words.startswith("You are an aesthetic expert.")
    before, image, after = scorer.question.parts(photos[0])
    assert before.endswith("this picture ")
    assert image is photos[0]
    assert after.endswith("<answer>...</answer>")
    assert [score.value for score in scorer.score(photos[:1])] == [None]  # eight tokens hold no answer


def test_the_fingerprint_follows_what_answers_depend_on_and_nothing_else():
    def fingerprint(**settings):
        return create("scorers", "hf_vlm", model="nano", **settings).fingerprint

    assert fingerprint() == fingerprint(batch_size=2, device="cpu", seed=3)
    others = [{"prompt": "score.v1"}, {"low": 0.0}, {"max_new_tokens": 9}, {"sampling": {"temperature": 1.0}}]
    assert len({fingerprint(), *(fingerprint(**other) for other in others)}) == 5


@pytest.fixture(params=["openai_compatible", "anthropic"])
def scored_by(request, photos, tmp_path):
    """Scores of the photographs by a vendor's scorer on a loopback server."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text('Judge. Answer with one JSON object: {"score": 0 to 10}')
    asked = {"model": "m", "prompt": str(prompt), "pattern": r'"score": ([\d.]+)', "low": 0.0}

    def scored(vendors, **settings):
        with running(vendors) as address:
            client = {"base_url": address + "/v1" * (request.param == "openai_compatible"), "key_variable": ""}
            return create("scorers", request.param, **asked, **settings, settings=client).score(photos)

    return scored


def test_a_model_behind_an_address_gives_each_photograph_the_mean_of_its_samples(scored_by):
    scores = scored_by(Vendors(), samples=2)
    assert all(score.value is not None and score.std == 0 for score in scores)
    assert len({score.value for score in scores}) > 1


def test_a_model_behind_an_address_is_asked_again_after_a_fault_that_passes(scored_by):
    vendors = Vendors(faults=Faults(kinds=("500", "503"), share=1.0, in_a_row=1))
    assert scored_by(vendors) == scored_by(Vendors())
    assert sum(vendors.faults.injected.values()) == 3


def test_a_fault_that_does_not_pass_is_told_after_the_last_try(scored_by):
    vendors = Vendors(faults=Faults(kinds=("503",), share=1.0, in_a_row=9))
    with pytest.raises(Transient):
        scored_by(vendors, tries=1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_configurations_make_their_scorer_without_a_network(path):
    config = yaml.safe_load(path.read_text())
    assert config["name"] == path.stem
    scorer = create("scorers", config["scorer"])
    assert isinstance(scorer, ScorerProtocol)


@pytest.mark.parametrize("settings", [{"samples": 2}, {"low": 11.0}, {"pattern": "("}, {"prompt": "none.v9"}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError):
        create("scorers", "hf_vlm", model="nano", **settings)
