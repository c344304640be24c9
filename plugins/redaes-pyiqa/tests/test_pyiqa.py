"""The scorer over the real pyiqa: metrics that need no weights, and one whose weights are made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from redaes.errors import UserError
from redaes.inference import ScorerProtocol

pyiqa = pytest.importorskip("pyiqa", reason="pyiqa is not installed; run `nox -s pyiqa`")

from redaes_pyiqa import NOT_OF_ONE_PHOTOGRAPH, PyiqaScorer, _range  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:pyiqa is licensed")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise that grows, of two sizes."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    paths = []
    for index, (spread, size) in enumerate([(2, (96, 128)), (20, (96, 128)), (60, (160, 120))]):
        pixels = np.clip(128 + spread * random.standard_normal((*size, 3)), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize(("metric", "high", "lower_better"), [("entropy", 8, False), ("piqe", 100, True)])
def test_a_score_is_pyiqas_own_number_on_ten_points(
    photographs: list[Path], metric: str, high: float, lower_better: bool
) -> None:
    scorer, theirs = PyiqaScorer(metric, device="cpu"), pyiqa.create_metric(metric, device="cpu")
    assert isinstance(scorer, ScorerProtocol)
    for path, score in zip(photographs, scorer.score(photographs), strict=True):
        native = float(theirs(str(path)))
        share = 1 - native / high if lower_better else native / high
        assert score.value == pytest.approx(10 * min(max(share, 0), 1), abs=1e-4)
        assert float(score.text) == pytest.approx(native, rel=1e-4)


def test_more_entropy_is_a_higher_score_and_pillow_images_score_as_their_files(photographs: list[Path]) -> None:
    scorer = PyiqaScorer(model="entropy", device="cpu")
    values = [score.value for score in scorer.score(photographs)]
    assert values == sorted(values)
    assert [score.value for score in scorer.score([Image.open(path) for path in photographs])] == values


def test_a_network_runs_with_weights_from_a_file(photographs: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = pyiqa.create_metric("cnniqa", device="cpu", pretrained=None)
    torch.save({"params": source.net.state_dict()}, tmp_path / "weights.pth")
    scorer = PyiqaScorer("cnniqa", weights=str(tmp_path / "weights.pth"), score_range=(-1, 1), device="cpu")
    expected = [float(source(str(path))) for path in photographs]
    assert [float(score.text) for score in scorer.score(photographs)] == pytest.approx(expected, rel=1e-3)
    other = PyiqaScorer("cnniqa", weights=str(tmp_path / "weights.pth"), score_range=(-2, 1), device="cpu")
    assert scorer.fingerprint != other.fingerprint


def test_every_metric_of_single_photographs_has_a_range_or_asks_for_one() -> None:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    ranges = {name: DEFAULT_CONFIGS[name].get("score_range") for name in pyiqa.list_models(metric_mode="NR")}
    assert ranges.pop("pi") == "~0, ~"
    found = [_range(name, text) for name, text in ranges.items() if name not in NOT_OF_ONE_PHOTOGRAPH]
    assert len(found) > 60
    assert all(low < high for low, high in found)
    with pytest.raises(UserError, match="set score_range"):
        _range("pi", "~0, ~")


def test_the_licence_is_said_whenever_a_scorer_is_made() -> None:
    with pytest.warns(UserWarning, match="non-commercial use only"):
        PyiqaScorer("entropy", device="cpu")


@pytest.mark.parametrize(
    ("metric", "message"),
    [("entrpy", "did you mean 'entropy'"), ("psnr", "unknown no-reference metric"), ("fid", "compares sets of images")],
)
def test_a_metric_that_scores_no_photograph_is_refused(metric: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PyiqaScorer(metric, device="cpu")


def test_a_number_that_is_none_is_no_score() -> None:
    assert PyiqaScorer("entropy", device="cpu").points(float("nan")) is None
