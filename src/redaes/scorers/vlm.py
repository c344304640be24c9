"""Any chat vision-language model of Hugging Face, asked for a number as its maker recommends: `hf_vlm`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.chat.local import DType, Local, LocalModel
from redaes.errors import UserError
from redaes.inference import Score, combined
from redaes.scorers.questions import ANSWER, Question, digest, model_path, opened, require_samples

if TYPE_CHECKING:
    from PIL.Image import Image


class HfVlmScorer:
    """Generates an answer and reads the number in it. Weights are opened at the first use.

    Args:
        model: `nano`, a checkpoint directory or a hub id.
        batch_size: images generated for together.
        device: where the model runs; None takes a GPU if there is one, `auto` spreads it over all.
        prompt: a template of the package, or a text file.
        pattern: finds the number in the answer; see `Question`.
        low: lowest score of the range that the prompt asks for.
        high: highest score of it.
        samples: answers drawn for each image; more than one need `sampling`.
        sampling: arguments of `generate` such as `{temperature: 0.7, top_p: 0.8, top_k: 20}`; none: greedy.
        seed: of the sampling; the same batches then get the same answers.
        max_new_tokens: longest answer.
        dtype: of the weights; `auto`: as they were saved.
        longer_side: pixels that an image has at most.
        trust_remote_code: run code that comes with the checkpoint.
        revision: of a hub id.

    Raises:
        UserError: a setting that cannot be.
    """

    def __init__(
        self,
        model: str,
        batch_size: int = 8,
        device: str | None = None,
        prompt: str = "rate.v1",
        pattern: str = ANSWER,
        low: float = 1.0,
        high: float = 10.0,
        samples: int = 1,
        sampling: Mapping[str, Any] | None = None,
        seed: int = 0,
        max_new_tokens: int = 1024,
        dtype: DType = "auto",
        longer_side: int = 1024,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> None:
        require_samples(samples, batch_size)
        if samples > 1 and not sampling:
            raise UserError(
                f"samples is {samples}, and greedy answers are all alike; give sampling: {{temperature: 1}}"
            )
        self.batch_size = batch_size
        self.samples = samples
        self.seed = seed
        self.sampling = dict(sampling or {})
        self.deterministic = not self.sampling
        self.question = Question(prompt, pattern, low, high)
        self._local = Local(
            model_path(model),
            revision,
            dtype,
            device,
            trust_remote_code=trust_remote_code,
            max_tokens=max_new_tokens,
            longer_side=longer_side,
        )

    @property
    def fingerprint(self) -> str:
        """All that its answers depend on."""
        drawn = {"samples": self.samples, "sampling": self.sampling, "seed": self.seed if self.sampling else None}
        local = {"model": self._local.model, **self._local.parameters, **self._local.preparation.identity()}
        return digest(self._local.model, {**self.question.identity(), **local, **drawn})

    @cached_property
    def _model(self) -> LocalModel:
        return LocalModel(self._local.settings)

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order.

        Raises:
            ImageError: a path that cannot be read as an image.
            UserError: the model cannot be opened.
        """
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            batch = [self._local.preparation.resized(opened(i)) for i in images[start : start + self.batch_size]]
            texts = self._generated(batch)
            scores += [combined([self.question.read(text) for text in drawn]) for drawn in texts]
        return scores

    def _generated(self, images: "list[Image]") -> list[list[str]]:
        """For each image the answers drawn for it."""
        import torch

        network, processor = self._model.model, self._model.processor
        inputs = processor([[_message(self.question.parts(image))] for image in images]).to(network.device)
        devices = [network.device] if network.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            out = network.generate(
                **inputs,
                max_new_tokens=self._local.max_tokens,
                do_sample=bool(self.sampling),
                num_return_sequences=self.samples,
                pad_token_id=processor.tokenizer.pad_token_id,
                **({"temperature": None, "top_p": None, "top_k": None} | self.sampling),
            )
        answers = out[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [texts[at : at + self.samples] for at in range(0, len(texts), self.samples)]


def _message(parts: "Sequence[str | Image]") -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": "user", "content": content}
