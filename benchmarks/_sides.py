"""The two sides of each comparison, each run in a process of its own by `grpo_step.py`.

Ours is the project as a user runs it: its LightningModule, its data module, Lightning's Trainer. The peer is what the
same user would run otherwise: TRL's GRPOTrainer.train(), a plain transformers loop for SFT, `generate` for scoring.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

from _machine import Clock, hide_torchvision, require_trl, serve
from _workload import Shape, letter_share

# --- ours -------------------------------------------------------------------------------------------------------------


def fit(module: Any, data: Any, shape: Shape, folder: Path, steps: int) -> dict[str, Any]:
    """Train for a warm-up step and `steps` more with Lightning's Trainer."""
    from lightning.pytorch import Callback, Trainer

    clock = Clock(shape.device)

    class EndOfStep(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if rollout := getattr(pl_module, "rollout", None):
                # A subclass on the spot: whatever the module asks of its rollout is still there.
                kind = type(rollout)
                rollout.__class__ = type(kind.__name__, (kind,), {"__call__": clock.timed("rollout", kind.__call__)})
            pl_module.backward = clock.timed("backward", pl_module.backward)

        def on_train_batch_end(self, *_: Any) -> None:
            clock.end_step()

    trainer = Trainer(
        max_steps=1 + steps,
        max_epochs=-1,
        accelerator="gpu" if shape.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        callbacks=[EndOfStep()],
        default_root_dir=folder / "ours",
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**clock.report(), "logged": logged}


def ours_grpo(shape: Shape, folder: Path, steps: int, beta: float, **_: Any) -> dict[str, Any]:
    """Stage 3."""
    from redaes.data.modules import GroupData
    from redaes.models.vlm import Backbone
    from redaes.training.base import Optimisation
    from redaes.training.grpo import GRPO

    module = GRPO(
        backbone=Backbone(path=str(folder / "model"), image_size=shape.image_size, dtype=shape.dtype),
        reward={"class_path": "_workload.LetterShare"},
        rollout={"class_path": "in_process", "init_args": {"stop_at_answer": False}},
        optimisation=Optimisation(lr=1e-6, schedule="constant", warmup=0.0),
        k=shape.k,
        max_new_tokens=shape.new_tokens,
        kl_coef=beta,
    )
    found = fit(module, GroupData(str(folder / "data"), group_size=None), shape, folder, steps)
    length = found["logged"]["train/completion_length"]
    assert length == shape.new_tokens, f"completions have {length} tokens instead of {shape.new_tokens}"
    return found


def ours_sft(shape: Shape, folder: Path, steps: int, **_: Any) -> dict[str, Any]:
    """Stage 1's module on the calibration samples, all of them in every batch."""
    from redaes.data.modules import CalibrationData
    from redaes.models.vlm import Backbone
    from redaes.training.base import Optimisation
    from redaes.training.sft import ComparativeSFT

    module = ComparativeSFT(
        backbone=Backbone(path=str(folder / "model"), image_size=shape.image_size, dtype=shape.dtype),
        optimisation=Optimisation(schedule="constant", warmup=0.0),
    )
    found = fit(module, CalibrationData(str(folder / "data"), batch_size=shape.images), shape, folder, steps)
    return found | {"loss": found["logged"]["train/loss"]}


def ours_score(shape: Shape, folder: Path, steps: int, **_: Any) -> dict[str, Any]:
    """The scorer on image files; a step is all N images."""
    from redaes.data.manifest import Manifest
    from redaes.inference.scorer import Scorer

    images = scored_images(Manifest(folder / "data"))
    scorer = Scorer(str(folder / "model"), max_new_tokens=shape.new_tokens, device=shape.device, dtype=shape.dtype)
    clock, texts = Clock(shape.device), []
    for _step in range(1 + steps):
        texts = [score.text for score in scorer.score(images)]
        clock.end_step()
    return clock.report() | {"texts": texts}


def scored_images(manifest: Any) -> list[Path]:
    """The images of the first group."""
    return [manifest.path(member.image) for member in manifest.groups("train")[0].members]


# --- TRL --------------------------------------------------------------------------------------------------------------


def processor_without_video(shape: Shape, path: str) -> Any:
    """transformers' own processor of the family, less its video half, which cannot be made without torchvision."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen3VLProcessor

    base = Qwen2_5_VLProcessor if shape.family == "qwen2_5_vl" else Qwen3VLProcessor

    class PhotographProcessor(base):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def __init__(self, image_processor: Any, tokenizer: Any) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            super(base, self).__init__(image_processor, tokenizer, chat_template=tokenizer.chat_template)

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    return PhotographProcessor(Qwen2VLImageProcessorPil.from_pretrained(path), tokenizer)


def trl_grpo(shape: Shape, folder: Path, steps: int, beta: float, vllm: bool = False) -> dict[str, Any]:
    """The same step by TRL: `GRPOTrainer.train()` with its processor, generation, reference and fused head."""
    require_trl(vllm)
    from datasets import Dataset, Image
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from redaes.data.manifest import Manifest
    from redaes.prompts import render

    # The trainer moves the model to its device.
    clock, (model, processor) = Clock(shape.device), open_plainly(shape, folder, device="cpu")
    manifest = Manifest(folder / "data")
    images = [str(manifest.path(m.image)) for group in manifest.groups("train") for m in group.members]
    question = [{"role": "user", "content": render("score")}]
    rows = Dataset.from_dict({"prompt": [question] * len(images), "image": images}).cast_column("image", Image())
    check_prompt(processor, rows[0]["image"], shape, folder)

    class EndOfStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end_step()

    def reward(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths = {len(ids) for ids in completion_ids}
        assert lengths == {shape.new_tokens}, f"completions have {lengths} tokens instead of {shape.new_tokens}"
        return [letter_share(str(completion[0]["content"])) for completion in completions]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=trl_config(shape, folder, steps, beta, vllm),
        train_dataset=rows,
        processing_class=processor,
        callbacks=[EndOfStep()],
    )
    if vllm:
        let_vllm_expand(trainer.vllm_generation, processor.image_token_id)
    for name, phase in (
        ("_generate_single_turn", "rollout"),
        ("_get_per_token_logps_and_entropies", "reference and forward"),
    ):
        setattr(trainer, name, clock.timed(phase, getattr(trainer, name)))
    trainer.accelerator.backward = clock.timed("backward", trainer.accelerator.backward)
    trainer.train()
    return clock.report()


def let_vllm_expand(generation: Any, image_token: int) -> None:
    """Give vLLM prompts with one placeholder an image, which it repeats itself.

    TRL 1.16 gives it the repeated ones; vLLM 0.30 expands the first of them again, to more than the trainer's prompt.
    """
    send = generation.generate

    def generate(prompts: list[list[int]], **rest: Any) -> Any:
        # No two images follow each other without a marker between them.
        shorter = [
            [id_ for token, run in groupby(ids) for id_ in ([token] if token == image_token else run)]
            for ids in prompts
        ]
        return send(prompts=shorter, **rest)

    generation.generate = generate


def trl_config(shape: Shape, folder: Path, steps: int, beta: float, vllm: bool) -> Any:
    """One whole step in a batch, the objective of ours, nothing logged or saved."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=1 + steps,
        per_device_train_batch_size=shape.completions,
        gradient_accumulation_steps=1,
        num_generations=shape.k,
        max_completion_length=shape.new_tokens,
        temperature=1.0,
        beta=beta,
        loss_type="grpo",
        use_bias_correction_kl=False,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        adam_beta2=0.95,
        gradient_checkpointing=False,
        bf16=shape.dtype == "bfloat16",
        use_cpu=shape.device == "cpu",
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=shape.device == "cuda",
        use_vllm=vllm,
        **({"vllm_mode": "colocate", "generation_kwargs": {"ignore_eos": True}} if vllm else {}),
    )


def check_prompt(processor: Any, image: Any, shape: Shape, folder: Path) -> None:
    """The peer's processor must give the model what ours gives it.

    Raises:
        AssertionError: other tokens, or other pixels.
    """
    import torch

    from redaes.models.vlm import open_processor
    from redaes.prompts import render

    ours = open_processor(str(folder / "model"), shape.image_size).batch([[image]], [render("score")])
    theirs = processor(images=[[image]], text=[chat(processor, render("score"))], return_tensors="pt")
    assert torch.equal(theirs["input_ids"], ours.input_ids), "the two sides see different prompts"
    assert torch.allclose(theirs["pixel_values"], ours.pixel_values, atol=1e-5), "the two sides see different images"
    assert ours.input_ids.shape[1] == shape.prompt_tokens


# --- transformers -----------------------------------------------------------------------------------------------------


def transformers_sft(shape: Shape, folder: Path, steps: int, **_: Any) -> dict[str, Any]:
    """The loop of transformers' own fine-tuning examples: `model(**inputs, labels=labels).loss` over whole rows."""
    hide_torchvision()
    import torch
    from PIL import Image

    from redaes.data.manifest import Manifest
    from redaes.data.samples import calibrate

    manifest, clock = Manifest(folder / "data"), Clock(shape.device)
    samples = [calibrate(record) for record in manifest.calibration()]
    model, processor = open_plainly(shape, folder, shape.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    for _step in range(1 + steps):
        images = [[Image.open(manifest.path(path)).convert("RGB") for path in sample.images] for sample in samples]
        prompts = [chat(processor, sample.question) for sample in samples]
        answers = [sample.answer + processor.tokenizer.eos_token for sample in samples]
        texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        inputs = processor(images=images, text=texts, padding=True, return_tensors="pt").to(model.device)
        lengths = [len(ids) for ids in processor.tokenizer(answers, add_special_tokens=False)["input_ids"]]
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, length in enumerate(lengths):
            labels[row, -length:] = inputs["input_ids"][row, -length:]
        with clock.phase("forward"):
            loss = model(**inputs, labels=labels).loss
        with clock.phase("backward"):
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.end_step()
    return clock.report() | {"loss": float(loss.detach())}


def transformers_score(shape: Shape, folder: Path, steps: int, **_: Any) -> dict[str, Any]:
    """`generate` on one image after another; a step is all N images."""
    hide_torchvision()
    import torch
    from PIL import Image

    from redaes.data.manifest import Manifest
    from redaes.prompts import render

    images, clock, texts = scored_images(Manifest(folder / "data")), Clock(shape.device), []
    model, processor = open_plainly(shape, folder, shape.device)
    config = model.config
    never = [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
    model.eval()
    for _step in range(1 + steps):
        texts = []
        for path in images:
            image = Image.open(path).convert("RGB")
            inputs = processor(images=[[image]], text=[chat(processor, render("score"))], return_tensors="pt")
            inputs = inputs.to(model.device)
            with torch.no_grad():
                made = model.generate(**inputs, max_new_tokens=shape.new_tokens, do_sample=False, suppress_tokens=never)
            answer = made[0, inputs["input_ids"].shape[1] :]
            texts.append(processor.tokenizer.decode(answer, skip_special_tokens=True))
        clock.end_step()
    return clock.report() | {"texts": texts}


def open_plainly(shape: Shape, folder: Path, device: str) -> tuple[Any, Any]:
    """Model and processor as transformers opens them, the tower frozen."""
    import torch
    from transformers import AutoModelForImageTextToText

    path = str(folder / "model")
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, shape.dtype)).to(device)
    model.model.visual.requires_grad_(False)
    return model, processor_without_video(shape, path)


def chat(processor: Any, question: str) -> str:
    """The text of a prompt about one image."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


TASKS = {
    "grpo/ours": ours_grpo,
    "grpo/trl": trl_grpo,
    "sft/ours": ours_sft,
    "sft/transformers": transformers_sft,
    "score/ours": ours_score,
    "score/transformers": transformers_score,
}

if __name__ == "__main__":
    serve(TASKS)
