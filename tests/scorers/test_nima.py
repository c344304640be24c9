"""NIMA: its distance equals the definition, it trains by the command line, the scorer opens what was trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm, wasserstein_distance
from tests.data.benchmarks import layouts
from transformers import ResNetConfig

from redaes.cli import main
from redaes.data.benchmarks import Benchmark, Item
from redaes.data.votes import normal_votes, votes_of
from redaes.errors import UserError
from redaes.models.nima import Nima, NimaConfig, load_nima, moments
from redaes.registry import create
from redaes.scorers.nima import NimaScorer
from redaes.training.objectives import emd_loss

SCORES = np.arange(1, 11)
shares = st.lists(st.floats(0.01, 1), min_size=10, max_size=10).map(lambda w: np.array(w) / sum(w))


class BrightSquares:
    """A benchmark of grey squares: the brighter, the better."""

    about = None

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def load(self) -> Benchmark:
        items = [
            Item(path.stem, path, 1 + 9 * int(path.stem) / 255, tuple(_counts(int(path.stem))))
            for path in sorted(self.root.glob("*.png"))
        ]
        return Benchmark("bright", "train", (1, 10), items, len(items))


def _counts(grey: int) -> list[int]:
    return [round(100 * share) for share in normal_votes(1 + 9 * grey / 255, 1.0).tolist()]


@given(shares, shares)
def test_the_distance_equals_the_definition(p: np.ndarray, q: np.ndarray) -> None:
    both = torch.tensor(p[None]), torch.tensor(q[None])
    cumulative = np.abs(np.cumsum(p) - np.cumsum(q))
    assert float(emd_loss(*both)) == pytest.approx(np.sqrt(np.mean(cumulative**2)), abs=1e-9)
    assert float(emd_loss(*both, r=1)) == pytest.approx(wasserstein_distance(SCORES, SCORES, p, q) / 10, abs=1e-9)
    assert float(emd_loss(*both)) == pytest.approx(float(emd_loss(*reversed(both))))


def test_the_distance_knows_the_order_of_scores_and_stays_trainable_at_zero() -> None:
    one = torch.eye(10)
    assert emd_loss(one[:1], one[1:2]) < emd_loss(one[:1], one[9:])
    logits = torch.zeros(1, 10, requires_grad=True)
    emd_loss(logits.softmax(-1), torch.full((1, 10), 0.1)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_distance_of_other_shapes_or_of_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="votes"):
        emd_loss(torch.eye(10), torch.eye(5))
    with pytest.raises(ValueError, match="must be > 0"):
        emd_loss(torch.eye(10), torch.eye(10), r=0)


@given(shares)
def test_moments_are_those_of_the_distribution(p: np.ndarray) -> None:
    mean, std = moments(torch.tensor(np.log(p))[None])
    expected = (p * SCORES).sum()
    assert float(mean) == pytest.approx(expected, abs=1e-4)
    assert float(std) == pytest.approx(np.sqrt((p * (SCORES - expected) ** 2).sum()), abs=1e-3)


def test_a_mean_alone_becomes_a_discretised_normal() -> None:
    edges = norm.cdf(np.arange(1, 10) + 0.5, 6.3, 1.4)
    assert np.allclose(normal_votes(6.3, 1.4), np.diff([0, *edges, 1]), atol=1e-6)


def test_counted_votes_are_taken_as_they_are_and_others_refused() -> None:
    scale = Benchmark("b", "train", (0, 1), [], 0)
    item = Item("x", Path("x"), 0.5, (0, 0, 0, 1, 3, 0, 0, 0, 0, 0))
    assert votes_of(item, scale, 1.4)[3:5].tolist() == [0.25, 0.75]
    assert int(votes_of(Item("x", Path("x"), 1.0), scale, 0.0).argmax()) == 9
    with pytest.raises(UserError, match="counts of ten scores"):
        votes_of(Item("x", Path("x"), 0.5, (1, 2)), scale, 1.4)
    with pytest.raises(UserError, match="must be in"):
        votes_of(Item("x", Path("x"), 7.0), scale, 1.4)


def test_the_training_list_of_ava_gives_its_counted_votes(tmp_path: Path) -> None:
    layouts.write_ava(tmp_path, train=5)
    listing = tmp_path / "aesthetics_image_lists" / "generic_ls_train.jpgl"
    ava = create("benchmarks", {"class_path": "ava", "init_args": {"root": str(tmp_path), "list_file": str(listing)}})
    found = ava.load()
    assert [item.id for item in found.items] == listing.read_text().split()
    for item in found.items:
        assert float(votes_of(item, found, 1.4) @ torch.arange(1.0, 11)) == pytest.approx(item.mos, abs=1e-4)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    folder = tmp_path / "squares"
    folder.mkdir()
    for grey in range(0, 256, 17):
        Image.new("RGB", (48, 40), (grey, grey, grey)).save(folder / f"{grey}.png")
    return folder


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    """The configuration of a very small ResNet."""
    folder = tmp_path / "backbone"
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic").save_pretrained(folder)
    return f"transformers:{folder}"


def test_training_by_the_command_line_learns_an_easy_set_and_the_scorer_opens_it(
    squares: Path, backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = {"class_path": f"{__name__}.BrightSquares", "init_args": {"root": str(squares)}}
    words = [
        "fit",
        "--config=baselines/nima.yaml",
        f"--model.network.backbone={backbone}",
        "--model.network.image_size=32",
        "--model.network.dropout=0.0",
        "--model.pretrained=false",
        "--model.optimisation.lr=0.01",
        "--model.optimisation.backbone_lr=0.01",
        f"--data.benchmark={json.dumps(benchmark)}",
        "--data.batch_size=13",
        "--data.num_workers=0",
        "--data.augment=false",
        "--data.validation_share=0.2",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=60",
        "--trainer.enable_progress_bar=false",
    ]
    assert main(words) == 0
    scorer = NimaScorer(str(tmp_path / "run" / "model"), device="cpu", batch_size=4)
    files = sorted(squares.glob("*.png"), key=lambda path: int(path.stem))
    scores = scorer.score(files)
    values = [score.value for score in scores]
    assert np.corrcoef(values, range(len(values)))[0, 1] > 0.9
    assert all(score.std is not None and score.std > 0 for score in scores)
    assert "val/srcc" in (tmp_path / "run" / "metrics.csv").read_text()


def test_a_saved_model_scores_as_before_alone_or_in_a_batch(backbone: str, squares: Path, tmp_path: Path) -> None:
    model = Nima(NimaConfig(backbone, image_size=32)).eval()
    model.save(tmp_path / "saved")
    files = sorted(squares.glob("*.png"))
    with torch.no_grad():
        expected, _ = moments(model(model.pixels([Image.open(file) for file in files])))
    scorer = NimaScorer(str(tmp_path / "saved"), device="cpu")
    together = [score.value for score in scorer.score(files)]
    assert together == pytest.approx(((expected - 1) * 10 / 9).tolist(), abs=1e-4)
    assert [scorer.score([file])[0].value for file in files] == pytest.approx(together, abs=1e-4)
    assert scorer.fingerprint == NimaScorer(str(tmp_path / "saved"), device="cpu").fingerprint


def test_a_backbone_of_timm_is_built_saved_and_opened(tmp_path: Path) -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    for name in ("mobilenetv2_050", "mobilenetv3_small_050"):
        model = Nima(NimaConfig(f"timm:{name}", image_size=64)).eval()
        model.save(tmp_path / name)
        pixels = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(load_nima(tmp_path / name)(pixels), model(pixels))


@pytest.mark.parametrize("name", ["resnet50", "timm:", "keras:vgg16"])
def test_a_backbone_that_nobody_has_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="timm:NAME or transformers:FOLDER_OR_ID"):
        Nima(NimaConfig(name))


def test_a_folder_without_a_model_or_with_a_damaged_one_is_named(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no trained NIMA"):
        NimaScorer(str(tmp_path))
    Nima(NimaConfig(backbone, image_size=32)).save(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="is no trained NIMA"):
        NimaScorer(str(tmp_path / "saved"))
