"""The three LightningModules learn, log what they promise, and leave alone what they must."""

import json
import math
import shutil
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from redaes.data.manifest import read_records
from redaes.data.modules import CalibrationData, ComparativeData, GroupData
from redaes.errors import UserError
from redaes.models.vlm import Backbone, Lora, open_model
from redaes.records import GroupRecord, ScoreRecord
from redaes.rollout import Completions
from redaes.rollout.in_process import InProcessRollout
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.callbacks import AnswerTable, CompletionTable, ExportCheckpoint
from redaes.training.grpo import GRPO
from redaes.training.sft import ComparativeSFT

FAST = Optimisation(lr=3e-3, schedule="constant", warmup=0.0)


def fit(module, data, root, steps, **options):
    trainer = Trainer(
        default_root_dir=root,
        max_steps=steps,
        accelerator="cpu",
        logger=CSVLogger(root, name="", version=""),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 0, "max_epochs": -1, **options},
    )
    trainer.fit(module, data)
    return trainer


def column(root, name):
    import csv

    with (root / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_stage_1_learns_from_both_objectives_and_exports_a_plain_checkpoint(dataset, checkpoint, tmp_path):
    module = ComparativeSFT(Backbone(str(checkpoint), freeze_vision=False), FAST)
    data = ComparativeData(str(dataset), batch_size=8)
    fit(module, data, tmp_path, 25, callbacks=[ExportCheckpoint()])
    assert {s.objective for s in data.samples("train")} == {"compare", "predict_edit"}
    losses = column(tmp_path, "train/loss")
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    exported, _ = open_model(Backbone(str(tmp_path / "model")))
    before, _ = open_model(Backbone(str(checkpoint)))
    assert not torch.equal(exported.model.visual.patch_embed.proj.weight, before.model.visual.patch_embed.proj.weight)


def test_a_frozen_tower_does_not_move_in_stage_2_and_rankings_are_measured(dataset, checkpoint, tmp_path):
    module = Calibration(Backbone(str(checkpoint)), FAST, max_new_tokens=12)
    options = {"limit_val_batches": 1.0, "check_val_every_n_epoch": 2}
    trainer = fit(module, CalibrationData(str(dataset), batch_size=8), tmp_path, 4, **options)
    before, _ = open_model(Backbone(str(checkpoint)))
    for name, parameter in module.model.model.visual.named_parameters():
        assert torch.equal(parameter, before.model.visual.get_parameter(name))
    assert not torch.equal(module.model.lm_head.weight, before.lm_head.weight)
    assert 0 <= trainer.callback_metrics["val/parse_failure_rate"] <= 1
    assert {"val/srcc", "val/plcc", "val/krcc", "val/srcc_within", "val/pairwise_accuracy"} <= set(
        trainer.callback_metrics
    )


@pytest.mark.parametrize(
    ("stage", "data", "objectives"),
    [(ComparativeSFT, ComparativeData, {"compare", "predict_edit"}), (Calibration, CalibrationData, {"calibrate"})],
)
def test_supervised_stages_keep_a_table_of_answers_beside_what_was_expected(
    dataset, checkpoint, tmp_path, stage, data, objectives
):
    module = stage(Backbone(str(checkpoint)), FAST, max_new_tokens=12)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    fit(module, data(str(dataset), batch_size=2), tmp_path, 4, callbacks=[AnswerTable(samples=6)], **options)
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2] * (len(rows) // 2) + [4] * (len(rows) // 2)
    assert {row["objective"] for row in rows} == objectives
    assert all("<answer>" in row["expected"] and isinstance(row["text"], str) for row in rows)


class Pieces(CalibrationData):
    """All samples in one batch; or the same ones one after the other, some without any answer."""

    def __init__(self, root, sizes):
        super().__init__(str(root), batch_size=16)
        self.sizes = sizes

    def train_dataloader(self):
        loader = super().train_dataloader()
        items = [loader.dataset[i] for i in range(sum(self.sizes))]
        ends = list(accumulate(self.sizes))
        batches = [loader.collate_fn(items[b - n : b]) for b, n in zip(ends, self.sizes, strict=True)]
        return DataLoader(batches, batch_size=None)


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_accumulated_batches_take_the_step_of_one(dataset, checkpoint, tmp_path, clip):
    """Answers of different lengths, batches of different sizes, an epoch that ends before the last group is whole."""
    optimisation = Optimisation(lr=1e-3, schedule="constant", warmup=0.0, clip_grad_norm=clip)

    def trained(folder, sizes, batches):
        module, gradients = Calibration(Backbone(str(checkpoint)), optimisation), []
        clip_gradients_and_log = module.clip_gradients_and_log

        def listening():
            clip_gradients_and_log()
            gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

        module.clip_gradients_and_log = listening
        data = Pieces(dataset, sizes)
        fit(module, data, tmp_path / folder, -1, max_epochs=1, accumulate_grad_batches=batches)
        return gradients

    expected = trained("whole", [6, 4], 1)
    found = trained("parts", [1, 3, 2, 3, 1], 3)
    assert len(expected) == len(found) == 2
    # Of the first step: from the second on, AdamW blows up what rounding leaves of a gradient of zero.
    for name, gradient in expected[0].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-6)
    for name in ("loss", "token_accuracy", "grad_norm"):
        a, b = (column(tmp_path / folder, f"train/{name}") for folder in ("whole", "parts"))
        assert a == pytest.approx(b, rel=1e-4), name


def grpo(checkpoint, **options):
    settings = {"optimisation": FAST, "k": 4, "max_new_tokens": 10, **options}
    backbone = checkpoint if isinstance(checkpoint, Backbone) else Backbone(str(checkpoint))
    return GRPO(backbone, **settings)


def test_stage_3_logs_every_metric_and_a_table_of_completions(dataset, checkpoint, tmp_path):
    trainer = fit(grpo(checkpoint), GroupData(str(dataset)), tmp_path, 3, callbacks=[CompletionTable(every_n_steps=2)])
    for name in [
        "loss",
        "reward",
        "reward_std",
        "advantage_abs",
        "frac_zero_std",
        "kl",
        "entropy",
        "clip_low",
        "clip_high",
        "ratio",
        "grad_norm",
        "parse_failure_rate",
        "score_mean",
        "score_std",
        "completion_length",
        "truncated_rate",
    ]:
        assert len(column(tmp_path, f"train/{name}")) == 3 or name == "score_mean", name
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 3}
    assert all(row["image"] and isinstance(row["text"], str) for row in rows)
    assert trainer.global_step == 3


def test_outputs_nobody_can_parse_train_on_without_nan_and_are_counted(dataset, checkpoint, tmp_path):
    """An untrained model writes no score at all: zero reward, zero advantage, only the KL term is left."""
    module = grpo(checkpoint)
    fit(module, GroupData(str(dataset)), tmp_path, 2)
    assert column(tmp_path, "train/parse_failure_rate") == [1.0, 1.0]
    assert column(tmp_path, "train/frac_zero_std") == [1.0, 1.0]
    assert all(torch.isfinite(p).all() for p in module.model.parameters())


def test_a_reward_raises_the_behaviour_it_pays_for(dataset, checkpoint, tmp_path):
    """The whole loop is right only if it moves the policy: pay for short completions, and they get shorter."""
    reward = {"class_path": "tests.training.rewards.Brevity"}
    module = grpo(checkpoint, reward=reward, kl_coef=0.0, max_new_tokens=16, k=6)
    fit(module, GroupData(str(dataset)), tmp_path, 30)
    lengths = column(tmp_path, "train/completion_length")
    assert sum(lengths[-5:]) < 0.8 * sum(lengths[:5])


def test_the_reference_is_neither_trained_nor_saved(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint)
    fit(module, GroupData(str(dataset)), tmp_path, 2)
    (reference,) = module._reference
    before, _ = open_model(Backbone(str(checkpoint)))
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), before.parameters(), strict=True))
    assert not any("reference" in key for key in module.state_dict())


def test_the_first_step_starts_at_zero_kl_and_ratio_one(dataset, checkpoint, tmp_path):
    fit(grpo(checkpoint), GroupData(str(dataset)), tmp_path, 1)
    assert column(tmp_path, "train/kl")[0] == pytest.approx(0.0, abs=1e-6)
    assert column(tmp_path, "train/ratio")[0] == pytest.approx(1.0, abs=1e-6)


def test_several_inner_epochs_move_the_ratio_off_one(dataset, checkpoint, tmp_path):
    reward = {"class_path": "tests.training.rewards.Brevity"}
    trainer = fit(grpo(checkpoint, inner_epochs=3, reward=reward), GroupData(str(dataset)), tmp_path, 3)
    assert trainer.global_step == 3
    assert abs(column(tmp_path, "train/ratio")[-1] - 1) > 1e-4


def gradients_of(checkpoint, dataset, root, steps=1, rollout=None, data=None, **options):
    reward = {"class_path": "tests.training.rewards.Brevity"}
    optimisation = Optimisation(lr=1e-3, schedule="constant", warmup=0.0, clip_grad_norm=0.0)
    module = grpo(checkpoint, reward=reward, optimisation=optimisation, **options)
    module.rollout = rollout or module.rollout
    # AdamW's first step is the sign of the gradient, which tells too little: the gradient itself is compared.
    gradients = {}
    module.on_before_optimizer_step = lambda _: gradients.update(
        {n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None}
    )
    fit(module, data or GroupData(str(dataset)), root, steps)
    return gradients


@pytest.mark.parametrize("aggregation", ["grpo", "dr_grpo", "dapo", "bnpo"])
@pytest.mark.parametrize("freeze_vision", [True, False])
def test_accumulation_gives_the_gradient_of_the_whole(dataset, checkpoint, tmp_path, aggregation, freeze_vision):
    whole, parts = (
        gradients_of(
            Backbone(str(checkpoint), freeze_vision=freeze_vision),
            dataset,
            tmp_path / str(accumulate),
            accumulate=accumulate,
            aggregation=aggregation,
        )
        for accumulate in (1, 3)
    )
    assert whole.keys() == parts.keys()
    assert any("visual" in name for name in whole) == (not freeze_vision)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)
    for name in ("loss", "entropy", "grad_norm"):
        a, b = (column(tmp_path / folder, f"train/{name}") for folder in ("1", "3"))
        assert a == pytest.approx(b, rel=0.05 if name == "entropy" else 1e-3, abs=1e-5)


def test_mini_batches_are_optimiser_steps_on_their_share_of_the_images(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint, inner_epochs=2, mini_batches=3)
    trainer = fit(module, GroupData(str(dataset)), tmp_path, 6)
    assert trainer.global_step == 6
    assert column(tmp_path, "train/ratio")[0] == pytest.approx(1.0, abs=0.05)


def test_the_sampling_pass_gives_the_old_logprobs(dataset, checkpoint, tmp_path):
    """With a learning rate of nothing the policy stays, so that every ratio of every pass is 1."""
    still = Optimisation(lr=0.0, weight_decay=0.0, schedule="constant", warmup=0.0)
    fit(grpo(checkpoint, optimisation=still, inner_epochs=2, temperature=0.7), GroupData(str(dataset)), tmp_path, 2)
    assert column(tmp_path, "train/ratio") == pytest.approx([1.0], abs=1e-5)
    assert column(tmp_path, "train/kl") == pytest.approx([0.0], abs=1e-5)


def test_truncated_completions_teach_nothing_where_they_are_masked(dataset, checkpoint, tmp_path):
    gradients = gradients_of(checkpoint, dataset, tmp_path, rollout=Canned(truncated=True), mask_truncated=True)
    assert column(tmp_path, "train/truncated_rate") == [1.0]
    assert all((g == 0).all() for g in gradients.values())


def test_a_loss_that_is_no_number_stops_training_and_leaves_its_batch(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint)
    module.configure_model()
    with torch.no_grad():
        module.model.model.language_model.norm.weight.fill_(float("nan"))
    module.rollout = Canned()
    with pytest.raises(UserError, match=r"loss is nan at step 0; its batch is in .*nonfinite.json"):
        fit(module, GroupData(str(dataset)), tmp_path, 1)
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == 0
    assert all(image["texts"] == ["<answer>5.0</answer>"] * 4 for image in found["images"])


def test_images_whose_outputs_are_all_rewarded_alike_are_sampled_anew(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint, reward={"class_path": "tests.training.rewards.Lucky"}, max_resamples=8)
    fit(module, GroupData(str(dataset)), tmp_path / "anew", 2)
    fit(
        grpo(checkpoint, reward={"class_path": "tests.training.rewards.Lucky"}),
        GroupData(str(dataset)),
        tmp_path / "once",
        2,
    )
    assert sum(column(tmp_path / "anew", "train/frac_zero_std")) < sum(column(tmp_path / "once", "train/frac_zero_std"))
    assert sum(column(tmp_path / "anew", "train/resampled")) > 0


def test_resampling_in_vain_ends(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint, max_resamples=2)
    trainer = fit(module, GroupData(str(dataset)), tmp_path, 1)
    images = sum(1 for _ in module.completion_rows)
    assert column(tmp_path, "train/resampled") == [2.0 * images]
    assert trainer.global_step == 1


class Spoiled(GroupData):
    """The second image of every batch's first set cannot be read; in every second batch that is so of all sets."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def spoil(items):
            batch = collate(items)
            for name in set(batch.sets) if self.all_sets else {batch.sets[0]}:
                batch.unreadable[batch.sets.index(name) + 1] = True
            return batch

        loader.collate_fn = spoil
        return loader


def test_a_batch_after_one_that_nothing_was_learnt_from_draws_other_numbers(dataset, checkpoint, tmp_path):
    seeds = []

    class Listening(Canned):
        def __call__(self, model, processor, prompts, sampling, given=None, features=None):
            seeds.append(given)
            return super().__call__(model, processor, prompts, sampling)

    module, data = grpo(checkpoint), Spoiled(str(dataset))
    module.rollout, data.all_sets = Listening(), True
    trainer = fit(module, data, tmp_path, -1, max_epochs=2, limit_train_batches=2)
    assert trainer.global_step == 0
    assert len(seeds) == 4
    assert len({seed for given in seeds for seed in given}) == sum(map(len, seeds))


@pytest.mark.parametrize(("aggregation", "scale"), [("grpo", "group"), ("dr_grpo", "none"), ("dapo", "batch")])
def test_a_group_with_an_unreadable_image_is_left_out_of_the_step(dataset, checkpoint, tmp_path, aggregation, scale):
    """The gradient is that of a step without the group, and the count is logged."""

    class Without(GroupData):
        def train_dataloader(self):
            loader = super().train_dataloader()
            collate = loader.collate_fn
            # Positions stay, so that the other group's completions are the same.
            loader.collate_fn = lambda items: collate([i for i in items if i[2].group != items[0][2].group])
            return loader

    found = []
    for data in (Spoiled(str(dataset), groups_per_batch=2), Without(str(dataset), groups_per_batch=2)):
        data.all_sets = False
        root = tmp_path / type(data).__name__
        found.append(gradients_of(checkpoint, dataset, root, data=data, aggregation=aggregation, scale_rewards=scale))
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-6)
    assert column(tmp_path / "Spoiled", "train/left_out")[0] >= 2
    assert column(tmp_path / "Without", "train/left_out") == [0.0]


def test_a_step_of_unreadable_groups_alone_moves_nothing(dataset, checkpoint, tmp_path):
    module = grpo(checkpoint, reward={"class_path": "tests.training.rewards.Brevity"})
    data = Spoiled(str(dataset))
    data.all_sets = True
    fit(module, data, tmp_path, 1, max_epochs=1)
    before, _ = open_model(Backbone(str(checkpoint)))
    assert all(torch.equal(a, b) for a, b in zip(module.model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_an_image_without_anything_to_compare_trains_on_and_is_counted(dataset, checkpoint, tmp_path, scale):
    """One image of its group: no reward, advantages of exactly 0, and nothing that is no number."""

    class Alone(GroupData):
        def train_dataloader(self):
            loader = super().train_dataloader()
            collate = loader.collate_fn
            loader.collate_fn = lambda items: collate(items[:1])
            return loader

    module = grpo(checkpoint, scale_rewards=scale, mini_batches=4, accumulate=4)
    module.rollout = Canned()
    fit(module, Alone(str(dataset)), tmp_path, 2)
    assert column(tmp_path, "train/frac_zero_std") == [1.0, 1.0]
    assert column(tmp_path, "train/advantage_abs") == [0.0, 0.0]
    assert column(tmp_path, "train/parse_failure_rate") == [0.0, 0.0]
    assert all(torch.isfinite(p).all() for p in module.model.parameters())


def test_both_layouts_of_the_shared_prefix_take_the_same_step(dataset, checkpoint, tmp_path):
    packed, cached = (
        gradients_of(checkpoint, dataset, tmp_path / layout, shared_prefix=layout) for layout in ("packed", "cache")
    )
    for name, gradient in packed.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_cache_refuses_activation_checkpointing(checkpoint):
    with pytest.raises(UserError, match="set shared_prefix to packed"):
        grpo(Backbone(str(checkpoint), gradient_checkpointing=True), shared_prefix="cache")


def test_the_schedule_counts_every_optimiser_step_on_a_rollout(dataset, checkpoint, tmp_path):
    falling = Optimisation(lr=1e-3, schedule="linear", warmup=0.0)
    module = grpo(checkpoint, optimisation=falling, inner_epochs=2, mini_batches=2)
    trainer = fit(module, GroupData(str(dataset)), tmp_path, -1, max_epochs=1, limit_train_batches=2)
    assert trainer.global_step == 8
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    assert trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0](6) == pytest.approx(2 / 8)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_sampling_needs_a_temperature(checkpoint, temperature):
    with pytest.raises(UserError, match="it must be above 0"):
        grpo(checkpoint, temperature=temperature)


def test_packed_rows_refuse_an_attention_without_masks(checkpoint):
    with pytest.raises(UserError, match="set it to sdpa or flex_attention"):
        grpo(Backbone(str(checkpoint), attention="flash_attention_2"))


def test_an_adapters_reference_is_the_model_under_it(dataset, checkpoint, tmp_path):
    module = grpo(
        Backbone(str(checkpoint), lora=Lora(r=4, alpha=8)), reward={"class_path": "tests.training.rewards.Brevity"}
    )
    fit(module, GroupData(str(dataset)), tmp_path, 3)
    assert module._reference == ()
    kl = column(tmp_path, "train/kl")
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[-1] > 1e-6


def test_another_engines_sampling_is_corrected_and_measured(dataset, checkpoint, tmp_path):
    """The same tokens, said to be twice as probable as they are: weights of a half."""

    class Elsewhere(InProcessRollout):
        def __call__(self, *args, **kwargs):
            out = super().__call__(*args, **kwargs)
            return replace(out, exact=False, logprobs=out.logprobs + math.log(2) * out.mask)

    options = {"kl_coef": 0.0, "clip_low": 10.0, "clip_high": 10.0}
    plain = gradients_of(checkpoint, dataset, tmp_path / "plain", **options)
    halved = gradients_of(checkpoint, dataset, tmp_path / "halved", rollout=Elsewhere(), **options)
    for name, gradient in plain.items():
        torch.testing.assert_close(halved[name], gradient / 2, rtol=1e-3, atol=1e-6)
    difference = column(tmp_path / "halved", "train/sampling_logp_difference_mean")
    assert difference == pytest.approx([math.log(2)], abs=1e-4)
    assert column(tmp_path / "halved", "train/importance_sampling_ratio_mean") == pytest.approx([0.5], abs=1e-4)


class Canned:
    """A rollout that says the same whatever the model's state."""

    def __init__(self, truncated=False):
        self.truncated = truncated

    def __call__(self, model, processor, prompts, sampling, seeds=None, features=None):
        ids = torch.tensor([processor.answer_ids("<answer>5.0</answer>")]).repeat(
            len(prompts.input_ids) * sampling.k, 1
        )
        cut = torch.full((len(ids),), self.truncated)
        texts = ["<answer>5.0</answer>"] * len(ids)
        return Completions(ids, torch.ones_like(ids), torch.zeros(ids.shape), cut, texts, exact=True)


@pytest.mark.parametrize("batching", ["consistent", "shuffled"])
def test_the_same_seed_gives_the_same_weights(dataset, checkpoint, tmp_path, batching):
    def weights(folder):
        module = grpo(checkpoint, seed=5)
        fit(module, GroupData(str(dataset), batching=batching), tmp_path / folder, 2)
        return list(module.model.parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights("a"), weights("b"), strict=True))


def test_unreadable_images_are_counted_and_a_batch_of_nothing_else_is_no_nan(dataset, checkpoint, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "data")
    samples = list(read_records(copy / "calibration.jsonl", ScoreRecord))
    for record in samples[2:]:
        (copy / record.source.image).write_bytes(b"no picture")
    module = Calibration(Backbone(str(checkpoint)), FAST)
    with pytest.warns(UserWarning, match="unreadable image, nothing is learnt from it: .*is not an image"):
        fit(module, CalibrationData(str(copy), batch_size=4), tmp_path, 4)
    unreadable, losses = column(tmp_path, "train/unreadable"), column(tmp_path, "train/loss")
    assert sum(unreadable) == len(samples) - 2
    assert 4.0 in unreadable
    for count, loss in zip(unreadable, losses, strict=True):
        assert (loss == 0) == (count == 4)
    assert all(torch.isfinite(p).all() for p in module.model.parameters())


def test_an_unreadable_image_is_left_out_of_the_rankings(dataset, checkpoint, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "data")
    group = next(g for g in read_records(copy / "groups.jsonl", GroupRecord) if g.source.split == "validation")
    (copy / group.members[1].image).write_bytes(b"no picture")
    module = Calibration(Backbone(str(checkpoint)), FAST, max_new_tokens=4)
    data = CalibrationData(str(copy))
    counted = []
    log = module.log_ranking
    module.log_ranking = lambda: (counted.append(sum(map(len, module.ranking["srcc"].predictions))), log())
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.warns(UserWarning, match="unreadable image"):
        trainer.validate(module, data, verbose=False)
    assert counted == [sum(map(len, data.groups("validation"))) - 1]
