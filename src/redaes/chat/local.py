"""A Hugging Face vision-language model in this process. Questions of several threads are answered in one batch.

The model is opened when it is first asked, by a thread of its own, which then takes what has gathered: up to `batch`
questions, of those that come within `gather_seconds` of the first. A batch that does not fit into memory is halved.
Plug-ins of one process with the same settings share one model. A batch's composition depends on who asks when, and in
half precision it may change a digit: where every answer must be the same again, set `batch` to 1 [ours].
"""

import hashlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from redaes.calls import Declined, UnusableAnswer, note
from redaes.chat import Turn
from redaes.chat.pictures import Preparation
from redaes.chat.reading import clean
from redaes.errors import UserError

DType = Literal["auto", "float32", "bfloat16", "float16"]
_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_IMAGE = "<|image_pad|>"


class Spoken(NamedTuple):
    """What the model said: its words, tokens read and written, and whether it came to an end."""

    text: str
    read: int
    written: int
    ended: bool


class Settings(NamedTuple):
    """What a model is opened with; see `Local`."""

    model: str
    revision: str | None
    dtype: DType
    device: str | None
    quantization: Literal["none", "4bit", "8bit"]
    trust_remote_code: bool
    batch: int
    gather_seconds: float
    max_tokens: int
    temperature: float


class Local:
    """A model opened here.

    Args:
        model: a checkpoint directory or a hub id of a model for images and text.
        revision: of a hub id.
        dtype: of the weights; `auto`: as they were saved.
        device: such as `cuda:1`; None: the GPU if there is one; `auto` spreads the model over all of them.
        quantization: weights in 4 or 8 bits; needs bitsandbytes.
        trust_remote_code: run code that comes with the checkpoint.
        batch: questions answered together at most.
        gather_seconds: to wait for more questions after the first.
        temperature: of sampling; 0 takes the likeliest token.
        max_tokens: of one answer.
        longer_side: pixels that a picture has at most.

    Raises:
        UserError: a setting that cannot be.
    """

    endpoint = "local"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: DType = "auto",
        device: str | None = None,
        quantization: Literal["none", "4bit", "8bit"] = "none",
        trust_remote_code: bool = False,
        batch: int = 8,
        gather_seconds: float = 0.05,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        longer_side: int = 1024,
    ) -> None:
        for name, value, known in (
            ("dtype", dtype, ("auto", "float32", "bfloat16", "float16")),
            ("quantization", quantization, ("none", "4bit", "8bit")),
        ):
            if value not in known:
                raise UserError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        if batch < 1 or max_tokens < 1 or gather_seconds < 0 or temperature < 0:
            raise UserError("batch and max_tokens must be at least 1, gather_seconds and temperature at least 0")
        weights = fingerprint(Path(model))
        self.model = Path(model).name if weights else model
        self.max_tokens = max_tokens
        self.preparation = Preparation(longer_side, "png")  # pixels go in as they are, as from a file without loss
        self.settings = Settings(
            model,
            revision,
            dtype,
            device,
            quantization,
            trust_remote_code,
            batch,
            gather_seconds,
            max_tokens,
            temperature,
        )
        self.parameters: dict[str, Any] = {
            "weights": weights or revision or "main",
            "dtype": dtype,
            "quantization": quantization,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }

    def ask(self, turns: Sequence[Turn], form: type[BaseModel]) -> str:
        """See `redaes.chat.Chat.ask`; the form is asked for in words alone."""
        said = worker_of(self.settings).answer([self._prepared(turn) for turn in turns])
        note(clean(said.text), model=self.model, input_tokens=said.read, output_tokens=said.written)
        if not said.ended:
            raise UnusableAnswer(f"{self.model} was cut off after {self.max_tokens} tokens")
        if not said.text.strip():
            raise UnusableAnswer(f"{self.model} answered nothing")
        return clean(said.text)

    def _prepared(self, turn: Turn) -> Turn:
        parts = (part if isinstance(part, str) else self.preparation.resized(part) for part in turn.parts)
        return Turn(turn.side, tuple(parts))


def fingerprint(folder: Path) -> str:
    """Sixteen digits of a checkpoint directory: its configuration, and size and last megabyte of its weights."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")]):
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - 2**20))
            digest.update(f"{path.relative_to(folder)}/{size}/".encode() + file.read())
    return digest.hexdigest()[:16]


@cache
def _shared(settings: Settings) -> "Worker":
    return Worker(settings)


_making = threading.Lock()


def worker_of(settings: Settings) -> "Worker":
    """The one worker of these settings in this process."""
    with _making:
        return _shared(settings)


class Worker:
    """The thread that holds a model and answers what has gathered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sizes: Counter[int] = Counter()
        """How many batches there were of each size."""
        self._waiting: queue.Queue[tuple[list[Turn], Future[Spoken]]] = queue.Queue()
        threading.Thread(target=self._work, name=f"model {settings.model}", daemon=True).start()

    def answer(self, turns: list[Turn]) -> Spoken:
        """Wait for the model's next turn."""
        future: Future[Spoken] = Future()
        self._waiting.put((turns, future))
        return future.result()

    def _work(self) -> None:
        model: LocalModel | None = None
        while True:
            gathered = self._gather()
            self.sizes[len(gathered)] += 1
            try:
                model = model or LocalModel(self.settings)
                for (_, future), said in zip(gathered, model.generate([t for t, _ in gathered]), strict=True):
                    future.set_result(said)
            except Exception as error:  # whatever it is, those who wait are told, and the next batch is tried
                for _, future in gathered:
                    if not future.done():
                        future.set_exception(error)

    def _gather(self) -> list[tuple[list[Turn], Future[Spoken]]]:
        gathered = [self._waiting.get()]
        until = time.monotonic() + self.settings.gather_seconds
        while len(gathered) < self.settings.batch:
            try:
                gathered.append(self._waiting.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return gathered


class LocalModel:
    """A model and its processor.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText
        from transformers.utils import logging

        from redaes.models.adapters import quantisation_config

        self.settings = settings
        source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        compute = "bfloat16" if settings.dtype == "auto" else settings.dtype
        quantised = quantisation_config(settings.quantization, compute, adapted=True)
        placed = {"device_map": device} if device == "auto" or quantised else {}
        logging.disable_progress_bar()
        try:
            kind = AutoConfig.from_pretrained(settings.model, **source).model_type
            self.model: Any = AutoModelForImageTextToText.from_pretrained(
                settings.model,
                dtype="auto" if settings.dtype == "auto" else getattr(torch, settings.dtype),
                quantization_config=quantised,
                use_safetensors=True,
                **placed,
                **source,
            )
            self.processor = _open_processor(settings.model, kind, source)
        except (OSError, ValueError, ImportError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"cannot open the model {settings.model!r}: {first}") from error
        if not placed:
            self.model.to(device)
        self.model.eval()

    def generate(self, conversations: list[list[Turn]]) -> list[Spoken]:
        """The next turn of each conversation.

        Raises:
            Declined: words that this model would take for the marks between turns, or more than memory holds.
        """
        import torch

        try:
            return self._generate(conversations)
        except torch.OutOfMemoryError as error:
            if len(conversations) == 1:
                raise Declined(f"one question to {self.settings.model} does not fit into memory") from error
        torch.cuda.empty_cache()
        half = len(conversations) // 2
        return self.generate(conversations[:half]) + self.generate(conversations[half:])

    def _generate(self, conversations: list[list[Turn]]) -> list[Spoken]:
        import torch

        inputs = self.processor([[_message(turn) for turn in turns] for turns in conversations])
        inputs = inputs.to(self.model.device)
        hot = self.settings.temperature > 0
        decoding = {"do_sample": hot, "temperature": self.settings.temperature if hot else None}
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                max_new_tokens=self.settings.max_tokens,
                top_p=None,
                top_k=None,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                **decoding,
            )
        length = inputs["input_ids"].shape[1]
        read = inputs["attention_mask"].sum(1).tolist()
        return [self._spoken(row[length:].tolist(), n) for row, n in zip(out, read, strict=True)]

    def _spoken(self, tokens: list[int], read: int) -> Spoken:
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        ended = next((k for k, token in enumerate(tokens) if token in ends), None)
        said = tokens if ended is None else tokens[:ended]
        text = self.processor.tokenizer.decode(said, skip_special_tokens=True)
        return Spoken(text, read, len(said), ended is not None)


def _message(turn: Turn) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in turn.parts
    ]
    return {"role": turn.side, "content": parts}


def _pictures(messages: list[dict[str, Any]]) -> list[Any]:
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def _open_processor(path: str, kind: str, source: dict[str, Any]) -> Any:
    """Words and pictures to model inputs. The combined processors of Qwen's models insist on a video half, which needs
    torchvision: theirs is put together from tokenizer and image processor."""
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    if kind in _QWEN:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        return _QwenProcessor(tokenizer, AutoImageProcessor.from_pretrained(path, **source))
    return _AnyProcessor(AutoProcessor.from_pretrained(path, **source))


class _Processor:
    """Base of the two processors: conversations in, a padded batch out."""

    tokenizer: Any

    def __call__(self, conversations: list[list[dict[str, Any]]]) -> Any:
        """The batch, padded on the left.

        Raises:
            Declined: words that hold one of the tokenizer's special tokens: they would pass for marks between turns.
        """
        words = [p["text"] for c in conversations for m in c for p in m["content"] if p["type"] == "text"]
        for token in self.tokenizer.all_special_tokens:
            if any(token in text for text in words):
                raise Declined(f"the question holds the special token {token!r}")
        return self.batch(conversations)

    def batch(self, conversations: list[list[dict[str, Any]]]) -> Any:
        """The same without the check."""
        raise NotImplementedError


class _AnyProcessor(_Processor):
    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def batch(self, conversations: list[list[dict[str, Any]]]) -> Any:
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )


class _QwenProcessor(_Processor):
    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_id = tokenizer.convert_tokens_to_ids(_IMAGE)

    def batch(self, conversations: list[list[dict[str, Any]]]) -> Any:
        from transformers import BatchFeature

        images = [picture for messages in conversations for picture in _pictures(messages)]
        seen = self.image_processor(images=images, return_tensors="pt") if images else {}
        unit = self.image_processor.merge_size**2
        counts = iter((seen["image_grid_thw"].prod(-1) // unit).tolist() if images else ())
        texts = []
        for messages in conversations:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            first, *rest = text.split(_IMAGE)
            texts.append(first + "".join(_IMAGE * next(counts) + part for part in rest))
        encoded = self.tokenizer(
            texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
        )
        # Without the kinds of token, positions silently lose their second and third dimension.
        kinds = (encoded["input_ids"] == self.image_id).long() * encoded["attention_mask"]
        return BatchFeature({**encoded, **seen, "mm_token_type_ids": kinds})
