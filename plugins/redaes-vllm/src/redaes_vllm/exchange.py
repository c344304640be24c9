"""What is asked of vLLM, and what its answers become: pure functions that know neither HTTP nor the engine.

A completion ends at `</answer>`, whose tokens are kept, or at the end of the turn; image, video and vision markers are
never sampled. Everything that a checkpoint's `generation_config.json` would change behind the trainer's back (top_p,
top_k, repetition penalty) is asked for explicitly, for the loss takes the sampled distribution to be the whole one.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from redaes.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from redaes.models.processor import VisionTextProcessor
    from redaes.rollout import Completions, Sampling

# What OpenAI's protocol allows at most; e^-100 is no probability in any precision that a model runs in.
NEVER = -100.0


def sampling_parameters(
    sampling: "Sampling", suppressed: Sequence[int], end_of_turn: int, seed: int | None
) -> dict[str, Any]:
    """The fields that `vllm.SamplingParams` and the chat endpoint have in common.

    Args:
        sampling: how completions are drawn; a greedy prompt is asked once, since vLLM refuses several equal answers.
        suppressed: ids that must never be sampled.
        end_of_turn: id of the end-of-turn token.
        seed: of this prompt; vLLM gives its row k the seed + k. None draws a fresh one.
    """
    from redaes.rollout.in_process import ANSWER_END

    return {
        "n": sampling.k if sampling.temperature > 0 else 1,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": sampling.max_new_tokens,
        "seed": None if seed is None else engine_seed(seed),
        "stop": [ANSWER_END],
        "include_stop_str_in_output": True,
        # A stop is looked for in the text, and the tags of small tokenizers are special tokens.
        "skip_special_tokens": False,
        "stop_token_ids": [end_of_turn],
        "logit_bias": dict.fromkeys(suppressed, NEVER),
    }


def engine_seed(seed: int) -> int:
    """A seed of any size within the 64 signed bits of vLLM's, with room for adding k."""
    return seed % 2**62


def chat_request(question: str, images: "Sequence[Image]", parameters: dict[str, Any], model: str) -> dict[str, Any]:
    """The body of `POST /v1/chat/completions` for one prompt.

    Args:
        question: the text after the images.
        images: exact squares, sent without loss.
        parameters: from `sampling_parameters`.
        model: the name the server gives its model.
    """
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {
        "model": model,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        "chat_template_kwargs": {"add_vision_id": len(images) > 1},
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        **parameters,
    }


def data_url(image: "Image") -> str:
    """An image as a PNG in a URL."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Answer:
    """One sampled completion.

    Attributes:
        tokens: ids, with those of the end.
        logprobs: of each token by the sampling engine; NaN where it could not tell.
        finished: False if it was cut at the longest length.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


def answers_of_chat(response: dict[str, Any]) -> list[Answer]:
    """The n completions in the JSON of a chat response.

    Raises:
        UserError: the response lacks token ids or their log-probabilities.
    """
    try:
        return [
            _answer(
                choice["token_ids"],
                [entry["logprob"] for entry in choice["logprobs"]["content"]],
                choice["finish_reason"],
            )
            for choice in sorted(response["choices"], key=lambda choice: choice["index"])
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the answer of the vLLM server cannot be read ({type(error).__name__}: {error}): it must give token ids "
            "and logprobs, as vLLM >= 0.22 does"
        ) from error


def answers_of_engine(output: Any) -> list[Answer]:
    """The n completions of a `vllm.RequestOutput`."""
    return [
        _answer(
            list(one.token_ids),
            [at[token].logprob for at, token in zip(one.logprobs, one.token_ids, strict=True)],
            one.finish_reason,
        )
        for one in sorted(output.outputs, key=lambda one: one.index)
    ]


def _answer(tokens: list[int], logprobs: Sequence[float | None], finish_reason: str) -> Answer:
    if finish_reason not in ("stop", "length"):
        raise UserError(f"vLLM ended a completion with {finish_reason!r}, not at its end: see vLLM's log")
    if len(tokens) != len(logprobs) or not tokens:
        raise UserError(f"vLLM answered with {len(tokens)} tokens and {len(logprobs)} log-probabilities")
    known = [float("nan") if logprob is None else float(logprob) for logprob in logprobs]
    return Answer(tokens, known, finish_reason == "stop")


def completions(
    answers: Sequence[Sequence[Answer]], sampling: "Sampling", processor: "VisionTextProcessor", device: "torch.device"
) -> "Completions":
    """The answers of N prompts as tensors on a device.

    Raises:
        UserError: a prompt has another number of answers than were asked for.
    """
    import torch

    from redaes.rollout import Completions

    rows: list[Answer] = []
    for prompt in answers:
        if len(prompt) != (sampling.k if sampling.temperature > 0 else 1):
            raise UserError(f"vLLM gave {len(prompt)} completions of a prompt; {sampling.k} were asked for")
        rows.extend(prompt if sampling.temperature > 0 else list(prompt) * sampling.k)
    length = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), length), processor.pad_id)
    logprobs = torch.zeros(len(rows), length)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        used = len(row.tokens)
        tokens[i, :used], logprobs[i, :used] = torch.tensor(row.tokens), torch.tensor(row.logprobs)
        mask[i, :used] = 1
    truncated = torch.tensor([not row.finished for row in rows])
    texts = processor.decode(tokens)
    return Completions(tokens.to(device), mask.to(device), logprobs.to(device), truncated.to(device), texts)
