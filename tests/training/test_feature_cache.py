"""The stages with kept image features: the same training, whatever was kept, and every image looked at once."""

import csv

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from redaes.data.modules import CalibrationData, ComparativeData, GroupData
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, FeatureCaching, export, open_model
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.grpo import GRPO
from redaes.training.sft import ComparativeSFT

FAST = Optimisation(lr=3e-3, schedule="constant", warmup=0.0)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def backbone(request, tmp_path_factory):
    model, processor = build_nano(["Detail is crisper."], request.param, hidden=64, layers=2, vision=64)
    return str(export(model, processor, tmp_path_factory.mktemp("model") / request.param))


def fit(module, data, root, steps, ckpt_path=None, **options):
    trainer = Trainer(
        default_root_dir=root,
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=CSVLogger(root, name="", version=""),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 0, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return [p.detach().clone() for p in module.model.parameters()]


def column(root, name):
    with (root / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def equal(a, b):
    return all(map(torch.equal, a, b))


def histories(folder):
    """Ways of keeping features: each finds other images at hand than the others."""
    return {
        "memory": FeatureCaching("memory"),
        "evicting": FeatureCaching("memory", max_gb=3e-5),
        "disk": FeatureCaching("disk", str(folder)),
        "warm": FeatureCaching("disk", str(folder)),
    }


def test_stage_1_learns_the_same_with_and_without_a_cache(backbone, dataset, tmp_path):
    """To the last bits only: without a cache the images of a step go through the tower together."""
    losses = {}
    for name, features in {"off": FeatureCaching(), "memory": FeatureCaching("memory")}.items():
        module = ComparativeSFT(Backbone(backbone, features=features), FAST)
        fit(module, ComparativeData(str(dataset), batch_size=8, swap_prob=1.0), tmp_path / name, 5)
        losses[name] = column(tmp_path / name, "train/loss")
    assert len(losses["off"]) == 5
    # Rounding is 1e-7 of a feature; AdamW makes of it at most 1e-7 of a step wherever the gradient is not itself noise.
    assert losses["memory"] == pytest.approx(losses["off"], rel=1e-5)


def test_what_was_kept_before_changes_no_weight(backbone, dataset, tmp_path):
    weights, cache = {}, {}
    for name, features in histories(tmp_path / "features").items():
        module = Calibration(Backbone(backbone, features=features), FAST, max_new_tokens=4)
        options = {"limit_val_batches": 1, "check_val_every_n_epoch": 1}
        weights[name] = fit(module, CalibrationData(str(dataset), batch_size=8), tmp_path / name, 4, **options)
        cache[name] = module.feature_cache
    assert all(equal(weights["memory"], other) for other in weights.values())
    assert cache["memory"].hits == cache["disk"].hits > 0
    assert cache["evicting"].store.evictions > 0
    assert cache["warm"].misses == 0


def test_resuming_does_not_depend_on_what_is_still_kept(backbone, dataset, tmp_path):
    first = Calibration(Backbone(backbone, features=FeatureCaching("disk", str(tmp_path / "features"))), FAST)
    saving = ModelCheckpoint(tmp_path, filename="two", every_n_train_steps=2, save_top_k=-1)
    data = {"enable_checkpointing": True, "callbacks": [saving]}
    fit(first, CalibrationData(str(dataset), batch_size=8), tmp_path / "first", 2, **data)
    weights = {}
    for name, features in histories(tmp_path / "features").items():
        module = Calibration(Backbone(backbone, features=features), FAST)
        checkpoint = str(tmp_path / "two.ckpt")
        weights[name] = fit(module, CalibrationData(str(dataset), batch_size=8), tmp_path / name, 4, checkpoint)
    assert all(equal(weights["memory"], other) for other in weights.values())
    assert not equal(weights["memory"], first.model.parameters())


def test_the_share_of_images_found_is_logged_in_every_stage(backbone, dataset, tmp_path):
    features = FeatureCaching("disk", str(tmp_path / "features"))
    model = Backbone(backbone, features=features)
    stages = {
        "sft": (ComparativeSFT(model, FAST), ComparativeData(str(dataset), batch_size=8)),
        "calibration": (Calibration(model, FAST), CalibrationData(str(dataset), batch_size=8)),
        "grpo": (GRPO(model, optimisation=FAST, k=2, max_new_tokens=4), GroupData(str(dataset))),
    }
    shares = {}
    for name, (module, data) in stages.items():
        fit(module, data, tmp_path / name, 8)
        shares[name] = column(tmp_path / name, "train/feature_cache_hits")
    assert shares["sft"][0] == 0
    assert all(0 <= share <= 1 for found in shares.values() for share in found)
    # 16 samples, 8 in a step; 6 groups, one in a step: from the second epoch on every image is known.
    assert shares["calibration"][2:] == [1.0] * 6
    assert shares["grpo"][6:] == [1.0] * 2


def test_a_trained_tower_learns_and_logs_no_share(backbone, dataset, tmp_path):
    module = ComparativeSFT(Backbone(backbone, freeze_vision=False, features=FeatureCaching("memory")), FAST)
    fit(module, ComparativeData(str(dataset), batch_size=8), tmp_path, 2)
    before, _ = open_model(Backbone(backbone))
    assert not equal(module.model.model.visual.parameters(), before.model.visual.parameters())
    assert module.feature_cache.hits == module.feature_cache.misses == 0
    assert "feature_cache_hits" not in (tmp_path / "metrics.csv").read_text()
