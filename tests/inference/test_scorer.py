"""The scorer of our checkpoints: every kind of image, every question, the same answers whatever the circumstances."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from redaes import Scorer
from redaes.data.images import ImageError
from redaes.errors import UserError
from redaes.inference import ComparerProtocol, EditPredictorProtocol, Score, ScorerProtocol, ranked


def photograph(seed: int, width: int = 150, height: int = 100) -> Image.Image:
    """Smooth shapes and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8))
    noise = rng.integers(-9, 9, (height, width, 3))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


PHOTOGRAPHS = [photograph(seed, 120 + 10 * seed) for seed in range(7)]


@pytest.fixture(scope="module")
def nano() -> Scorer:
    return Scorer("nano", device="cpu", batch_size=4)


def test_it_satisfies_all_three_contracts(nano: Scorer) -> None:
    assert isinstance(nano, ScorerProtocol)
    assert isinstance(nano, ComparerProtocol)
    assert isinstance(nano, EditPredictorProtocol)


class Marked(torch.Tensor):
    """As torchvision's images are."""


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _saved(image: Image.Image, folder: Path) -> Path:
    image.save(folder / "photograph.png")
    return folder / "photograph.png"


KINDS: dict[str, Callable[[Image.Image, Path], object]] = {
    "a path": _saved,
    "the text of a path": lambda image, folder: str(_saved(image, folder)),
    "an image still to be decoded": lambda image, folder: Image.open(_saved(image, folder)),
    "opaque RGBA": lambda image, _: image.convert("RGBA"),
    "an array of 8 bits": lambda image, _: np.asarray(image),
    "an array with alpha": lambda image, _: np.asarray(image.convert("RGBA")),
    "an array of floats": lambda image, _: np.asarray(image, dtype=np.float32) / 255,
    "an array of doubles, in Fortran's order": lambda image, _: np.asfortranarray(np.asarray(image) / 255.0),
    "a tensor of 8 bits": lambda image, _: _tensor(image),
    "a tensor of floats": lambda image, _: _tensor(image).float() / 255,
    "a tensor with a gradient": lambda image, _: (_tensor(image).float() / 255).requires_grad_(),
    "a tensor of another class": lambda image, _: _tensor(image).as_subclass(Marked),
    "a tensor of half precision": lambda image, _: _tensor(image).half() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_the_same_image(nano: Scorer, tmp_path: Path, kind: str) -> None:
    image = PHOTOGRAPHS[0]
    assert nano.score([KINDS[kind](image, tmp_path)]) == nano.score([image])  # type: ignore[list-item]


def test_gray_in_two_dimensions_and_in_one_channel(nano: Scorer) -> None:
    gray = PHOTOGRAPHS[1].convert("L")
    flat = np.asarray(gray)
    kinds = [gray, flat, flat[:, :, None], torch.tensor(flat), torch.tensor(flat)[None]]
    assert len({score.text for score in nano.score(kinds)}) == 1


def test_a_turned_photograph_is_seen_upright_from_a_file_and_from_memory(nano: Scorer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    PHOTOGRAPHS[2].transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    with Image.open(path) as lazily:
        assert nano.score([path, lazily, lazily.copy()]) == nano.score([PHOTOGRAPHS[2]] * 3)


def test_batches_as_one_tensor_or_array(nano: Scorer) -> None:
    batch = np.stack([np.asarray(photograph(seed)) for seed in range(5)])
    one_by_one = nano.score(list(batch))
    assert nano.score(batch) == one_by_one
    assert nano.score(torch.tensor(batch).permute(0, 3, 1, 2)) == one_by_one


REFUSED = {
    "has shape (3, 8, 8); an array is (H, W) or (H, W, C) with 1, 3 or 4 channels": np.zeros((3, 8, 8), np.uint8),
    "has shape (8, 8, 3); a tensor is (H, W) or (C, H, W) with 1, 3 or 4 channels": torch.zeros(8, 8, 3),
    "has shape (8, 0); an array is (H, W)": np.zeros((8, 0), np.uint8),
    "is of type int64; give uint8 in 0..255 or floats in 0..1": np.zeros((8, 8), np.int64),
    "holds values from -1 to 1; floats must be in 0..1": torch.linspace(-1, 1, 64).view(1, 8, 8),
    "holds values from 0 to 255; floats must be in 0..1": np.linspace(0, 255, 64).reshape(8, 8),
    "holds values that are not finite": torch.full((1, 8, 8), float("nan")),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_image_is_named_by_its_number(nano: Scorer, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        nano.score([PHOTOGRAPHS[0], PHOTOGRAPHS[0], REFUSED[words]])
    assert str(caught.value).startswith(f"image 2: {words}")
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_one_line_too(nano: Scorer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image 0 is a dict; an image is a path, a Pillow image"):
        nano.score([{}])  # type: ignore[list-item]
    for single in (PHOTOGRAPHS[0], "a.jpg"):
        with pytest.raises(UserError, match="put it in a list"):
            nano.score(single)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a batch has shape \(3, 8, 8\).*put a single image in a list"):
        nano.score(torch.zeros(3, 8, 8))
    for none in (None, 3, {"a": PHOTOGRAPHS[0]}, iter(PHOTOGRAPHS)):
        with pytest.raises(UserError, match="was given where images are expected: put them in a list"):
            nano.score(none)  # type: ignore[arg-type]
    for pair in (PHOTOGRAPHS[:3], PHOTOGRAPHS[0], "ab"):
        with pytest.raises(UserError, match=r"pair 0 is a .*; it must be two images, in a tuple or list of two"):
            nano.compare_pairs([pair])  # type: ignore[list-item]
    with pytest.raises(UserError, match="edit 0 is a Image; it must be an image and an instruction"):
        nano.predict_edits(PHOTOGRAPHS)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        nano.score([PHOTOGRAPHS[0], tmp_path / "gone.png"])
    with pytest.raises(ImageError, match="pair 1, image 0: has shape"):
        nano.compare_pairs([(PHOTOGRAPHS[0], PHOTOGRAPHS[1]), (np.zeros(3), PHOTOGRAPHS[1])])
    with pytest.raises(UserError, match="the instruction of edit 0 is ' '; it must say what to do"):
        nano.predict_edit(PHOTOGRAPHS[0], " ")
    with pytest.raises(UserError, match=r"the instruction of edit 0 is 'Blur \\ud800'; it must say what to do"):
        nano.predict_edit(PHOTOGRAPHS[0], "Blur \ud800")


def test_a_failure_leaves_the_scorer_usable(nano: Scorer) -> None:
    with pytest.raises(ImageError):
        nano.score([np.zeros((2, 2, 2))])
    assert nano.score(PHOTOGRAPHS[:1])[0].status == "ok"


def test_answers_do_not_depend_on_the_batch(nano: Scorer) -> None:
    alone = Scorer("nano", device="cpu", batch_size=1)
    assert nano.score(PHOTOGRAPHS) == alone.score(PHOTOGRAPHS)
    edits = [(image, "Brighten it." + " Sharpen it too." * k) for k, image in enumerate(PHOTOGRAPHS)]
    assert nano.predict_edits(edits) == alone.predict_edits(edits)


def test_scores_are_in_range_with_words_and_no_images_give_none(nano: Scorer) -> None:
    for score in nano.score(PHOTOGRAPHS):
        assert score.status == "ok"
        assert score.value is not None
        assert 0 <= score.value <= 10
        assert score.reasoning
        assert score.std is None
    assert nano.score([]) == nano.rank([]) == nano.compare_pairs([]) == nano.predict_edits([]) == []


def test_an_answer_that_is_cut_off_is_no_score() -> None:
    score = Scorer("nano", device="cpu", max_new_tokens=2).score(PHOTOGRAPHS[:1])[0]
    assert (score.value, score.status) == (None, "unparsed")
    assert score.text


def test_a_ranking_is_best_first_and_says_where_each_stood(nano: Scorer) -> None:
    scores = nano.score(PHOTOGRAPHS)
    places = nano.rank(PHOTOGRAPHS)
    assert sorted(place.index for place in places) == list(range(len(PHOTOGRAPHS)))
    assert [place.score for place in places] == [scores[place.index] for place in places]
    values = [place.score.value for place in places]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]


def test_without_a_score_comes_last_and_equal_scores_as_they_came() -> None:
    values = [None, 3.0, 0.0, 3.0, None]
    assert [place.index for place in ranked([Score(v, "", "") for v in values])] == [1, 3, 2, 0, 4]


def test_a_comparison_changes_its_sign_with_the_order_and_is_0_of_the_same(nano: Scorer) -> None:
    pairs = [(PHOTOGRAPHS[k], PHOTOGRAPHS[k + 1]) for k in range(6)]
    there = nano.compare_pairs(pairs)
    back = nano.compare_pairs([(b, a) for a, b in pairs])
    for one, other in zip(there, back, strict=True):
        assert one.status == other.status
        if one.value is not None and other.value is not None:
            assert one.value == -other.value
            assert -10 <= one.value <= 10
            assert one.disagreement == other.disagreement
    same = nano.compare_pairs([(image, image) for image in PHOTOGRAPHS])
    assert {difference.value for difference in same} <= {0.0, None}
    assert any(difference.value is not None for difference in same)


def test_the_two_orders_and_how_far_they_are_apart(nano: Scorer) -> None:
    from redaes.prompts import DELTA_RANGE, parse_answer

    found = nano.compare(PHOTOGRAPHS[0], PHOTOGRAPHS[1])
    first, second = (parse_answer(line, DELTA_RANGE) for line in found.text.split("\n"))
    assert first is not None
    assert second is not None
    assert found.disagreement is not None
    assert found.value == pytest.approx((first - second) / 2)
    assert found.disagreement == pytest.approx(abs(first + second) / 2)


def test_a_predicted_edit_is_a_difference_or_no_answer(nano: Scorer) -> None:
    edits = [(image, instruction) for image in PHOTOGRAPHS for instruction in ("Blur it.", "Brighten the shadows.")]
    predicted = nano.predict_edits(edits)
    assert len(predicted) == len(edits)
    assert all(p.value is None or -10 <= p.value <= 10 for p in predicted)
    assert nano.predict_edit(*edits[0]) == predicted[0]


def test_samples_have_a_spread_and_are_the_same_every_time() -> None:
    five = Scorer("nano", device="cpu", samples=5, batch_size=3)
    scores = five.score(PHOTOGRAPHS)
    assert all(score.std is not None for score in scores)
    assert any(score.std for score in scores)
    again = Scorer("nano", device="cpu", samples=5, batch_size=16)
    assert again.score(PHOTOGRAPHS[::-1]) == scores[::-1]
    assert Scorer("nano", device="cpu", samples=5, seed=1).score(PHOTOGRAPHS) != scores
    difference = five.compare(PHOTOGRAPHS[0], PHOTOGRAPHS[0])
    assert difference.value == 0.0


def test_eight_threads_get_what_one_gets(nano: Scorer) -> None:
    def answers(shift: int) -> tuple[object, ...]:
        images = (PHOTOGRAPHS * 2)[shift : shift + 3]
        return (
            nano.score(images),
            nano.compare(images[0], images[1]),
            nano.predict_edits([(images[0], "Blur it."), (images[1], "Crop it to the face.")]),
        )

    serial = [answers(shift) for shift in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answers, range(8))) == serial


def test_the_fingerprint_differs_with_what_answers_depend_on_and_with_nothing_else(nano: Scorer) -> None:
    assert Scorer("nano", device="cpu", batch_size=7).fingerprint == nano.fingerprint
    others = (
        Scorer("nano", device="cpu", samples=2),
        Scorer("nano", device="cpu", samples=2, seed=1),
        Scorer("nano", device="cpu", max_new_tokens=9),
        Scorer("nano", device="cpu", dtype="bfloat16"),
        Scorer("nano", device="cpu", image_size=140),
    )
    assert len({nano.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert nano.fingerprint.startswith("nano@")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_weights_still_answer(nano: Scorer, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    small = Scorer("nano", device="cpu", quantisation=bits)  # type: ignore[arg-type]
    kinds = {type(module).__name__ for module in small.model.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits] in kinds
    scores = small.score(PHOTOGRAPHS)
    pairs = [(a.value, b.value) for a, b in zip(scores, nano.score(PHOTOGRAPHS), strict=True)]
    assert sum(a is not None for a, _ in pairs) >= 6
    assert small.fingerprint != nano.fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"dtype": "float8"}, "dtype is 'float8'; it must be one of float32, bfloat16"),
        ({"quantisation": "2bit"}, "quantisation is '2bit'; it must be one of none, 4bit, 8bit"),
        ({"device": "gpu"}, "device is 'gpu'; it must be such as cpu, cuda or cuda:1"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
        ({"device": "mps:9"}, "device 'mps:9' cannot be used here"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"image_size": 100}, "image_size 100 is not a multiple of 28"),
        ({"model": "/nowhere/model"}, "no checkpoint directory at /nowhere/model"),
    ],
)
def test_a_setting_that_cannot_be_says_what_would_be_right(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Scorer(**settings)  # type: ignore[arg-type]


def test_threads_of_torch_are_left_as_they_were(nano: Scorer) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(nano.score, [PHOTOGRAPHS[:2]] * 8))
            Scorer("nano", device="cpu").score(PHOTOGRAPHS[:1])
            assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    page = Path(__file__).parents[2] / "docs" / "scorer.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    PHOTOGRAPHS[0].save(tmp_path / "beach.jpg")
    PHOTOGRAPHS[1].save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert len(capsys.readouterr().out.splitlines()) == 5
