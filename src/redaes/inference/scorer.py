"""The scorer of our own checkpoints: scores, comparisons and predictions of edits, each with the model's reasons.

The three questions are those that training asks: `score` (stages 2 and 3), `compare` (PT-O1) and `predict_edit` (PT-O2,
Sec. 3.2). Decoding is greedy, so the same image always gets the same answer, alone or in a batch; several samples are
drawn at a temperature from a seed, and are the same every time too.
"""

import hashlib
import json
import os
import statistics
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from redaes.errors import UserError
from redaes.inference import Difference, Ranked, Score, combined, ranked
from redaes.inference.asking import BATCH_SIZE
from redaes.inference.images import ImageLike, Images, listed, opened
from redaes.inference.listing import fingerprint
from redaes.models.vlm import Backbone, open_model
from redaes.prompts import DELTA_RANGE, PROMPT_VERSION, SCORE_RANGE, parse_answer, parse_reasoning, render
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.inference.reward import Reward

__all__ = ["Difference", "Ranked", "Score", "Scorer"]

DType = Literal["float32", "bfloat16"]
Quantisation = Literal["none", "4bit", "8bit"]
_OPENING_THREADS = min(8, os.cpu_count() or 1)
SMALL_MODEL = 50_000_000
"""Below so many parameters a CPU answers fastest with one thread: the others are better used to open images."""

Asked = tuple[Sequence[tuple[str, ImageLike]], str]
"""Images with what they are called in an error, and a question."""


class Scorer:
    """Scores, compares and ranks photographs with a trained checkpoint, and predicts what edits would gain.

    Images are Pillow images of any mode, paths, numpy arrays (H, W) or (H, W, C), or torch tensors (H, W) or (C, H, W),
    with 1, 3 or 4 channels, uint8 or floats in [0, 1] (`redaes.inference.images`). Any number of threads may use one
    scorer: their images are opened side by side, the model answers one batch at a time.

    Args:
        model: `nano` (shipped with the package), a checkpoint directory, or a hub id.
        batch_size: questions in one forward pass; None: 64 of a model of less than 50 million parameters, whose steps
            take about as long for many as for few, else 16.
        max_new_tokens: longest answer; a longer one counts as a parse failure.
        device: `cpu`, `cuda`, `cuda:1`, ...; None takes a GPU if there is one.
        dtype: of the weights; None: float32 on a CPU, bfloat16 elsewhere.
        quantisation: hold the language part in 4 bits (NF4) or 8 bits (LLM.int8); needs bitsandbytes.
        image_size: side of the square images are resized to; None takes what the checkpoint was trained with.
        samples: answers drawn for each question; above 1 values are their means and come with a `std`.
        temperature: at which several samples are drawn, above 0; a single answer is greedy.
        seed: of the samples.

    Raises:
        UserError: `model` is not a checkpoint that redaes can open, or a setting cannot be.

    Example:
        >>> from redaes import Scorer
        >>> from PIL import Image
        >>> scorer = Scorer("nano", device="cpu")
        >>> score, = scorer.score([Image.new("RGB", (64, 64), "grey")])
        >>> score.status, 0 <= score.value <= 10
        ('ok', True)
    """

    def __init__(
        self,
        model: str | Path = "nano",
        *,
        batch_size: int | None = None,
        max_new_tokens: int = 256,
        device: str | None = None,
        dtype: DType | None = None,
        quantisation: Quantisation = "none",
        image_size: int | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens), ("samples", samples)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if seed < 0:
            raise UserError(f"seed is {seed}; it must be 0 or more")
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}; it must be above 0 (a single sample is greedy)")
        self.device = _device(device)
        self.dtype = _one_of("dtype", dtype or ("float32" if self.device.type == "cpu" else "bfloat16"), DType)
        self.quantisation = _one_of("quantisation", quantisation, Quantisation)
        self.seed = seed
        self._sampling = Sampling(samples, temperature if samples > 1 else 0.0, max_new_tokens)
        self._name = str(model)
        backbone = Backbone(self._name, image_size, dtype=self.dtype, quantization=self.quantisation)
        self.model: Any
        self.model, self.processor = open_model(backbone, inference_on=str(self.device))
        self._model_lock = threading.Lock()
        small = sum(parameter.numel() for parameter in self.model.parameters()) < SMALL_MODEL
        self.batch_size = batch_size or (4 * BATCH_SIZE if small else BATCH_SIZE)
        alone = small and self.device.type == "cpu"
        self._threads: AbstractContextManager[None] = _ONE_THREAD if alone else nullcontext()

    @property
    def view_side(self) -> int:
        """The longer side, in pixels, at which images are opened: twice the square that the model looks at."""
        return 2 * self.processor.image_size

    @cached_property
    def fingerprint(self) -> str:
        """A name that differs when anything differs that answers depend on: `<name>@<hash>`.

        That is the weights, the prompts, the image size, the numbers' type and the sampling. Devices and batch sizes
        are no part of it, though they may change the last bits of a sum.
        """
        weights = fingerprint(self._name)
        settings = {
            "model": weights,
            "revision": getattr(self.model.config, "_commit_hash", None),
            "prompts": PROMPT_VERSION,
            "image_size": self.processor.image_size,
            "dtype": self.dtype,
            "quantisation": self.quantisation,
            "sampling": vars(self._sampling),
            "seed": self.seed if self._sampling.k > 1 else None,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{weights.partition('@')[0]}@{digest[:12]}"

    def score(self, images: Images) -> list[Score]:
        """Score each image seen alone, in order.

        Args:
            images: a sequence of images, an array (N, H, W, C) or a tensor (N, C, H, W).

        Returns:
            One `Score` per image; its value is in [0, 10], or None where no answer could be parsed.

        Raises:
            ImageError: a path that cannot be read as an image, or an array that is none; it is named.
            UserError: something else than images.
        """
        asked = [([(f"image {i}", image)], render("score")) for i, image in enumerate(listed(images))]
        return [combined([_score(text) for text in texts]) for texts in self._answers(asked)]

    def rank(self, images: Images) -> list[Ranked]:
        """Score images and order them best first, equal scores as they came; those without a score last.

        Args:
            images: as of `score`.

        Raises:
            ImageError: as of `score`.
        """
        return ranked(self.score(images))

    def compare(self, first: ImageLike, second: ImageLike) -> Difference:
        """By how much the second image is better than the first; see `compare_pairs`."""
        return self.compare_pairs([(first, second)])[0]

    def compare_pairs(self, pairs: Sequence[tuple[ImageLike, ImageLike]]) -> list[Difference]:
        """By how much the second image of each pair is better than the first (PT-O1).

        The model is asked in both orders, and the value is half the difference of its two answers: it changes its sign
        when the images change places, and is 0 of two that are alike, whatever the model prefers of positions.

        Args:
            pairs: of images, as of `score`.

        Returns:
            One `Difference` per pair, in [-10, 10]; `disagreement` says how far apart the two orders were, and the
            value is None where either could not be parsed. The words are those of the given order.

        Raises:
            ImageError: as of `score`; the first image of pair 0 is called "pair 0, image 0".
            UserError: something else than pairs of images.
        """
        asked: list[Asked] = []
        for number, pair in enumerate(pairs):
            first, second = _two(pair, f"pair {number}", "two images")
            before, after = (f"pair {number}, image 0", first), (f"pair {number}, image 1", second)
            asked += [([before, after], render("compare")), ([after, before], render("compare"))]
        answers = self._answers(asked, together=2)
        return [_in_both_orders(*texts) for texts in zip(answers[::2], answers[1::2], strict=True)]

    def predict_edit(self, image: ImageLike, instruction: str) -> Difference:
        """By how much an image would be better after an edit that is not made; see `predict_edits`."""
        return self.predict_edits([(image, instruction)])[0]

    def predict_edits(self, edits: Sequence[tuple[ImageLike, str]]) -> list[Difference]:
        """By how much each image would be better after an edit, from its instruction alone (PT-O2).

        Args:
            edits: images, as of `score`, with instructions such as "Brighten the shadows slightly.".

        Returns:
            One `Difference` per edit, in [-10, 10], None where it could not be parsed.

        Raises:
            ImageError: as of `score`; the image of edit 0 is called "edit 0".
            UserError: something else than images with instructions; an instruction that is no text, is blank or holds
                the model's image placeholder.
        """
        asked: list[Asked] = []
        for number, edit in enumerate(edits):
            image, instruction = _two(edit, f"edit {number}", "an image and an instruction")
            if not isinstance(instruction, str) or not instruction.strip() or not _is_unicode(instruction):
                raise UserError(f"the instruction of edit {number} is {instruction!r}; it must say what to do")
            asked.append(([(f"edit {number}", image)], render("predict_edit", instruction)))
        return [combined([_difference(text) for text in texts]) for texts in self._answers(asked)]

    def as_reward(self) -> "Reward":
        """A reward function for trainers of text-to-image models; see `redaes.inference.reward.Reward`."""
        from redaes.inference.reward import Reward

        return Reward(self)

    def _answers(self, asked: Sequence[Asked], together: int = 1) -> list[list[str]]:
        """Completions, `samples` of each question, in the order of the questions.

        Questions of like length go into the same batch, so that little of it is padding.

        Args:
            asked: the questions.
            together: how many consecutive questions stay in one batch, neighbours in it.
        """
        units = [list(range(at, at + together)) for at in range(0, len(asked), together)]
        units.sort(key=lambda unit: len(asked[unit[0]][1]))
        size = max(1, self.batch_size // together)
        batches = [[i for unit in units[at : at + size] for i in unit] for at in range(0, len(units), size)]
        texts: list[list[str]] = [[] for _ in asked]
        with ThreadPoolExecutor(_OPENING_THREADS) as pool:
            upcoming = self._opening(pool, [asked[index] for index in batches[0]]) if batches else []
            for number, batch in enumerate(batches):
                squares, following = upcoming, batches[number + 1] if number + 1 < len(batches) else []
                upcoming = self._opening(pool, [asked[index] for index in following])
                images = [[square.result() for square in those] for those in squares]
                for index, drawn in zip(batch, self._generated(images, [asked[i][1] for i in batch]), strict=True):
                    texts[index] = drawn
        return texts

    def _opening(self, pool: ThreadPoolExecutor, batch: Sequence[Asked]) -> "list[list[Future[Image]]]":
        """The squares of a batch's images under way, each image once however many questions are about it."""
        squares: dict[int, Future[Image]] = {}
        for images, _ in batch:
            for name, image in images:
                if id(image) not in squares:
                    squares[id(image)] = pool.submit(self._square, image, name)
        return [[squares[id(image)] for _, image in images] for images, _ in batch]

    def _square(self, image: ImageLike, name: str) -> "Image":
        """The image as the model sees it."""
        return self.processor.squares([opened(image, name, max_side=self.view_side)])[0]

    def _generated(self, images: "Sequence[Sequence[Image]]", questions: Sequence[str]) -> list[list[str]]:
        prompts = self.processor.batch(images, questions)
        seeds = [self.seed] * len(questions)  # the same for all, so that no answer depends on its place
        with self._model_lock, self._threads:
            made = InProcessRollout()(self.model, self.processor, prompts.to(self.device), self._sampling, seeds)
        k = self._sampling.k
        return [made.texts[at : at + k] for at in range(0, len(made.texts), k)]


class _OneThread(AbstractContextManager[None]):
    """Lets torch compute with one thread; may be entered from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 1

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._before)


_ONE_THREAD = _OneThread()


def _score(text: str) -> Score:
    return Score(parse_answer(text, SCORE_RANGE), parse_reasoning(text), text)


def _difference(text: str) -> Difference:
    return Difference(parse_answer(text, DELTA_RANGE), parse_reasoning(text), text)


def _in_both_orders(texts: Sequence[str], swapped_texts: Sequence[str]) -> Difference:
    """One difference from the samples of both orders; a sample counts if it could be parsed in both."""
    drawn = [(_difference(text), _difference(swapped)) for text, swapped in zip(texts, swapped_texts, strict=True)]
    said, swapped = next((both for both in drawn if None not in (both[0].value, both[1].value)), drawn[0])
    numbers = [(a.value, b.value) for a, b in drawn if a.value is not None and b.value is not None]
    values = [(a - b) / 2 for a, b in numbers]
    return Difference(
        statistics.fmean(values) if values else None,
        said.reasoning,
        f"{said.text}\n{swapped.text}",
        std=statistics.stdev(values) if len(values) > 1 else None,
        disagreement=abs(statistics.fmean(a + b for a, b in numbers)) / 2 if numbers else None,
    )


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it: a string may have half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _two(item: Any, name: str, what: str) -> tuple[Any, Any]:
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        raise UserError(f"{name} is a {type(item).__name__}; it must be {what}, in a tuple or list of two")
    return item[0], item[1]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; it must be such as cpu, cuda or cuda:1") from error
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # the second: torch was built without CUDA
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device {name!r} cannot be used here ({reason}); leave it out to take what there is"
        ) from error
    return device


def _one_of(name: str, value: Any, literal: Any) -> Any:
    known = literal.__args__
    if value not in known:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    return value
