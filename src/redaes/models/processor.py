"""Images and a question in, model inputs out: a thin processor over the model's own image processor and tokenizer.

transformers' combined processors insist on a video half that needs torchvision. Ours joins only what a photograph
needs: Pillow resizes to a fixed square, the model's PIL image processor cuts patches, the checkpoint's chat template
and tokenizer make the text, and the image placeholder is repeated once per image token.

What went in can be had back (`images`, `collapsed_ids`, `questions`), for engines that take pictures and text.

Every batch is padded on the left, so that all answers end in the same column: the last T columns are the answer,
for training, for rollouts and for scoring alike. Prompts are never truncated.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image as PILImage
from PIL.Image import Image
from torch import Tensor

from redaes.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUT_BY = (
    "patch_size",
    "merge_size",
    "temporal_patch_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
"""Settings of an image processor that decide the patches of a square."""


@dataclass
class VisionTextBatch:
    """Model inputs for B sequences with left padding; I images in all, in order of appearance.

    Attributes:
        input_ids: (B, L) long.
        attention_mask: (B, L) long, 0 on padding.
        mm_token_type_ids: (B, L) long, 1 on image tokens. Without it mRoPE silently falls back to one dimension.
        pixel_values: (patches, channels) float.
        image_grid_thw: (I, 3) long, patches in time, height and width.
        labels: (B, L) long, -100 outside the answers; None for prompts alone.
        image_keys: I keys; images of the same key have the same patches (see `VisionTextProcessor.image_key`).
    """

    input_ids: Tensor
    attention_mask: Tensor
    mm_token_type_ids: Tensor
    pixel_values: Tensor
    image_grid_thw: Tensor
    labels: Tensor | None = None
    image_keys: list[str] | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`; from page-locked memory nobody waits for a card."""
        later = torch.device(device).type != "cpu"
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=later) if isinstance(v, Tensor) else v for k, v in vars(self).items()
        }
        return replace(self, **moved)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory (called by the data loader)."""
        pinned: dict[str, Any] = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return replace(self, **pinned)

    def rows(self, chosen: Tensor) -> Self:
        """The sequences at the indices `chosen`, in their order, for a batch with one image in each.

        Args:
            chosen: (n,) long.

        Raises:
            ValueError: the batch has another number of images.
        """
        if len(self.image_grid_thw) != len(self.input_ids):
            raise ValueError(
                f"{len(self.input_ids)} sequences with {len(self.image_grid_thw)} images; one in each needed"
            )
        patches: list[Tensor] = list(self.pixel_values.split(self.image_grid_thw.prod(-1).tolist()))
        taken = {
            name: value[chosen]
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "pixel_values"
        }
        pixels = torch.cat([patches[i] for i in chosen.tolist()])
        keys = self.image_keys and [self.image_keys[i] for i in chosen.tolist()]
        return replace(self, pixel_values=pixels, image_keys=keys, **taken)

    @property
    def answer_length(self) -> int:
        """T: the number of columns from the first answer token of any row to the end; 1 if no row has a label."""
        if self.labels is None:
            return 0
        columns = (self.labels != -100).any(0).nonzero()
        return self.labels.shape[1] - int(columns[0]) if len(columns) else 1


class VisionTextProcessor:
    """Turns (images, question, answer) into a `VisionTextBatch`.

    Args:
        tokenizer: the checkpoint's tokenizer, with a chat template.
        image_processor: the checkpoint's image processor (PIL back-end).
        image_size: side in pixels of the square every image is resized to; a multiple of patch x merge.
        image_token: the placeholder that the chat template writes for an image.

    Raises:
        UserError: `image_size` is not a multiple of patch x merge (512 on Qwen2.5-VL would be resampled again).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        image_processor: Any,
        image_size: int,
        image_token: str = "<|image_pad|>",
    ) -> None:
        unit = image_processor.patch_size * image_processor.merge_size
        if image_size < unit or image_size % unit:
            below = max(unit, image_size // unit * unit)
            raise UserError(
                f"image_size {image_size} is not a multiple of {unit} (patch x merge of this model); "
                f"use {below} or {below + unit}"
            )
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_size = image_size
        self.image_token = image_token
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(image_token))
        self.tokens_per_image = (image_size // unit) ** 2
        self.pad_id = int(tokenizer.pad_token_id)
        self.eos_id = int(tokenizer.eos_token_id)
        self._texts: dict[int, str] = {}

    @classmethod
    def from_pretrained(cls, path: str | Path, image_size: int) -> Self:
        """Open the tokenizer and the image processor of a checkpoint directory or hub id."""
        from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

        tokenizer = AutoTokenizer.from_pretrained(path)
        return cls(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(path), image_size)

    def save_pretrained(self, path: str | Path) -> None:
        """Write tokenizer, chat template and image processor beside the weights."""
        self.tokenizer.save_pretrained(path)
        self.image_processor.save_pretrained(path)

    def prompt_text(self, question: str, n_images: int = 1) -> str:
        """The chat-formatted prompt, images first, up to where the answer begins.

        Several images are told apart as `Picture 1: `, `Picture 2: `, by the switch of Qwen's own chat templates.
        """
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
            add_vision_id=n_images > 1,
        )
        return text

    def prompt_ids(self, question: str, n_images: int = 1) -> list[int]:
        """Token ids of a prompt, each image placeholder repeated once per image token.

        Raises:
            UserError: the question itself contains the image placeholder.
        """
        if self.image_token in question:
            raise UserError(f"the question contains the image placeholder {self.image_token!r}")
        ids: list[int] = self.tokenizer(self.prompt_text(question, n_images), add_special_tokens=False)["input_ids"]
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * (self.tokens_per_image if token == self.image_token_id else 1))
        return expanded

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer with the end-of-turn token."""
        ids: list[int] = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self.eos_id]

    def pixels(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Resize to the square and cut patches: (patches, channels) float and the grid (images, 3) long."""
        features = self.image_processor(images=self.squares(images), do_resize=False, return_tensors="pt")
        return features["pixel_values"], features["image_grid_thw"]

    def squares(self, images: Sequence[Image]) -> list[Image]:
        """The images at the size the model looks at."""
        side = (self.image_size, self.image_size)
        return [i if i.size == side else i.resize(side, PILImage.Resampling.BICUBIC, reducing_gap=3.0) for i in images]

    def image_key(self, square: Image) -> str:
        """32 hexadecimal digits that stand for the patches of an image: a hash of its pixels and of how they are cut.

        Args:
            square: from `squares`.
        """
        cut = [getattr(self.image_processor, name) for name in CUT_BY]
        digest = hashlib.blake2b(json.dumps([square.mode, square.size, cut]).encode(), digest_size=16)
        digest.update(square.tobytes())
        return digest.hexdigest()

    def images(self, batch: VisionTextBatch) -> list[Image]:
        """The inverse of `pixels`: the very squares that the patches of a batch were cut from.

        Returns:
            I RGB images in order of appearance.
        """
        cut = self.image_processor
        merge, patch, channels = cut.merge_size, cut.patch_size, len(cut.image_mean)
        mean, std = (torch.tensor(x, dtype=torch.float64) for x in (cut.image_mean, cut.image_std))
        squares = []
        grids = batch.image_grid_thw.tolist()
        for rows, (_, down, right) in zip(
            batch.pixel_values.cpu().split([t * h * w for t, h, w in grids]), grids, strict=True
        ):
            # Patches are listed merge block by merge block; a photograph is repeated along the axis of time.
            blocks = rows.view(down // merge, right // merge, merge, merge, channels, -1, patch, patch)[
                :, :, :, :, :, 0
            ]
            square = blocks.permute(0, 2, 5, 1, 3, 6, 4).reshape(down * patch, right * patch, channels)
            levels = ((square.double() * std + mean) / cut.rescale_factor).round().clamp(0, 255)
            squares.append(PILImage.fromarray(levels.byte().numpy()))
        return squares

    def collapsed_ids(self, batch: VisionTextBatch) -> list[list[int]]:
        """Token ids of each of B sequences without padding, and with one placeholder for each image."""
        collapsed = []
        for row, real in zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True):
            ids, placeholders = [], 0
            for token in (token for token, kept in zip(row, real, strict=True) if kept):
                if token != self.image_token_id:
                    ids.append(token)
                    continue
                if placeholders % self.tokens_per_image == 0:
                    ids.append(token)
                placeholders += 1
            collapsed.append(ids)
        return collapsed

    def questions(self, batch: VisionTextBatch) -> list[str]:
        """The B questions that prompts were made from.

        Raises:
            UserError: a prompt that this processor does not make from any question.
        """
        asked, marker = [], "\ufffc"
        for ids in self.collapsed_ids(batch):
            before, _, after = self.prompt_text(marker, ids.count(self.image_token_id)).partition(marker)
            text: str = self.tokenizer.decode(ids)
            if not text.startswith(before) or not text.endswith(after):
                raise UserError(
                    f"the prompt {text!r} is not one of this model's chat template, {before!r} ... {after!r}"
                )
            asked.append(text[len(before) : len(text) - len(after)])
        return asked

    def batch(
        self, images: Sequence[Sequence[Image]], questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> VisionTextBatch:
        """Encode B samples.

        Args:
            images: for each sample its images, in the order the question speaks of them.
            questions: B questions.
            answers: B answers to learn, or None to encode prompts for generation.
        """
        squares = self.squares([image for sample in images for image in sample])
        pixel_values, grid = self.pixels(squares)
        encoded = self.batch_without_pixels([len(sample) for sample in images], questions, answers)
        keys = [self.image_key(square) for square in squares]
        return replace(encoded, pixel_values=pixel_values, image_grid_thw=grid, image_keys=keys)

    def batch_without_pixels(
        self, counts: Sequence[int], questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> VisionTextBatch:
        """Encode B samples whose image features are at hand; `pixel_values` is empty, all else as in `batch`.

        Args:
            counts: how many images each sample has.
            questions: B questions.
            answers: B answers to learn, or None to encode prompts for generation.
        """
        prompts = [self.prompt_ids(q, n) for q, n in zip(questions, counts, strict=True)]
        replies = [self.answer_ids(a) for a in answers] if answers is not None else [[] for _ in prompts]
        length = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
        ids = torch.full((len(prompts), length), self.pad_id)
        labels = torch.full((len(prompts), length), -100)
        mask = torch.zeros((len(prompts), length), dtype=torch.long)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            tokens = torch.tensor(prompt + reply)
            ids[row, length - len(tokens) :] = tokens
            mask[row, length - len(tokens) :] = 1
            if reply:
                labels[row, length - len(reply) :] = tokens[len(prompt) :]
        side = self.image_size // self.image_processor.patch_size
        return VisionTextBatch(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == self.image_token_id).long() * mask,
            pixel_values=torch.empty(0),
            image_grid_thw=torch.tensor([[1, side, side]]).expand(sum(counts), 3),
            labels=labels if answers is not None else None,
        )

    def token_text(self, token: int) -> str:
        """The text of one token, remembered: decoding one takes as long as sampling many."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token])
        return self._texts[token]

    def decode(self, ids: Tensor) -> list[str]:
        """Text of each row of (B, T) completions, up to its end token, special tokens left out."""
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]
