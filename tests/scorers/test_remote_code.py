"""Checkpoints with code of their own: none runs unless it is asked for, and then it is asked as its authors ask."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.scorers.tiny_internvl import write_tiny_internvl

from redaes.errors import UserError
from redaes.models.vlm import checkpoint_path
from redaes.registry import create
from redaes.scorers.remote_code import ARTIMUSE_QUESTION, TOKENS, UNIPERCEPT_QUESTION

PHOTOS = [Image.new("RGB", (60, 40), colour) for colour in ("black", "orange", "white")]


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers copies a checkpoint's code to; one that it used before in this process is forgotten."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_internvl(tmp_path_factory.mktemp("hub") / "tiny_artimuse")


def made(name: str, folder: Path, **settings):
    return create("scorers", name, model=str(folder), device="cpu", trust_remote_code=True, **settings)


@pytest.mark.parametrize("name", ["artimuse", "unipercept"])
def test_remote_code_needs_consent(name, hub):
    for settings in ({}, {"model": str(hub)}):
        with pytest.raises(UserError, match="trust_remote_code"):
            create("scorers", name, **settings).score(PHOTOS)


def test_scores_are_written_as_the_authors_write_them():
    known = {0: "aa", 25: "az", 26: "ca", 50: "cy", 51: "da", 75: "dy", 76: "ea", 100: "ey"}
    assert {score: TOKENS[score] for score in known} == known
    assert len(set(TOKENS)) == 101


@pytest.mark.parametrize(("name", "question"), [("artimuse", ARTIMUSE_QUESTION), ("unipercept", UNIPERCEPT_QUESTION)])
def test_without_a_score_of_its_own_the_expectation_is_that_of_the_next_token(name, question, hub):
    scorer = made(name, hub)
    scores = scorer.score(PHOTOS)
    model, tokenizer, _ = scorer._opened
    for photo, score in zip(PHOTOS, scores, strict=True):
        channels = [(value / 255 - mean) / std for value, mean, std in zip(
            photo.getpixel((0, 0)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]  # fmt: skip
        pixels = torch.tensor(channels).view(1, 3, 1, 1).expand(1, 3, 448, 448).to(torch.bfloat16)
        with torch.inference_mode():
            embeddings = model.embedded(tokenizer, pixels, question)
            logits = model.language_model(inputs_embeds=embeddings).logits[0, -1].double()
        shares = logits[[tokenizer.get_vocab()[token] for token in TOKENS]].softmax(-1)
        expected = sum(k * share for k, share in enumerate(shares.tolist()))
        assert score.value * 10 == pytest.approx(expected, abs=0.6)  # bfloat16 has 8 bits
        assert float(score.text) == pytest.approx(score.value * 10)
    assert len({score.value for score in scores}) == len(PHOTOS)


def test_the_same_photograph_has_the_same_score_alone_and_among_others(hub):
    scorer = made("artimuse", hub)
    together = [score.value for score in scorer.score(PHOTOS)]
    assert [scorer.score([photo])[0].value for photo in PHOTOS] == together


def test_a_score_of_the_checkpoints_own_is_used(tmp_path):
    own = write_tiny_internvl(tmp_path / "own_score", "repository")
    assert [s.value for s in made("artimuse", own).score(PHOTOS)] == [6.25] * 3
    listed = write_tiny_internvl(
        tmp_path / "listed_score", "repository", "[torch.tensor(40.0 * (desc == 'aesthetics'))]"
    )
    assert made("unipercept", listed).score(PHOTOS[:1])[0].value == 4.0


def test_a_number_outside_the_range_is_no_score(tmp_path):
    strange = write_tiny_internvl(tmp_path / "strange_score", "repository", "float('nan')")
    (score,) = made("artimuse", strange).score(PHOTOS[:1])
    assert (score.value, score.text) == (None, "nan")


def test_another_models_checkpoint_is_refused_in_one_line():
    with pytest.raises(UserError, match="is it ArtiMuse"):
        made("artimuse", Path(checkpoint_path("nano"))).score(PHOTOS[:1])


def test_the_two_are_told_apart_and_so_are_checkpoints(hub):
    marks = {made(name, folder).fingerprint for name in ("artimuse", "unipercept") for folder in (hub, Path("other"))}
    assert len(marks) == 4
