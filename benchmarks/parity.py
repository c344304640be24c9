"""That the fast step is the same step: largest differences between its log-probabilities and gradients and others'.

    python benchmarks/parity.py --json              exit code 1 if a difference is above the limits

For both model families, both layouts of the shared prefix, and one and two images in a prompt, N = 3 prompts of
different length with K = 3 completions of different length are scored

- by the shared-prefix pass (`branch_logprobs`), which is what training runs;
- by the plain pass over whole rows, the prompt repeated for every completion (`answer_logprobs`);
- by TRL 1.16, whose `_get_per_token_logps_and_entropies` and `_compute_loss` are called unbound on a copy of the model
  with TRL's fused head.

`logprob` is the largest absolute difference of a token's log-probability, in nats. Of the gradient of the GRPO loss
(beta 0.04, `grpo` aggregation) in every trained weight, `gradient` is the largest absolute difference, in a gradient
whose largest elements are about 0.2, and `gradient_relative` the norm of the difference over the norm of the gradient.
`trl_loss`, `trl_gradient` and `trl_gradient_relative` are the same of the whole loss, ours against TRL's. All in
float32, where two orders of summing the same numbers differ by 1e-7 of the sum.
"""

import argparse
import copy
import json
import random
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from _machine import require_trl
from _workload import photograph, words
from torch import Tensor

LIMITS = {
    "logprob": 1e-5,
    "gradient": 1e-6,
    "gradient_relative": 1e-6,
    "trl_loss": 1e-5,
    "trl_gradient": 1e-6,
    "trl_gradient_relative": 1e-6,
}
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
BACKENDS = ("packed/sdpa", "packed/eager", "cache/sdpa")
N, K, BETA = 3, 3, 0.04


@dataclass(frozen=True)
class Case:
    """N prompts with K completions each, and what enters the loss beside the policy.

    Attributes:
        images: of each prompt.
        questions: N.
        answers: N * K.
        tokens: (N*K, T), padded on the right.
        mask: (N*K, T).
        reference: (N*K, T) log-probabilities.
        advantages: (N*K,).
    """

    images: list[list[Any]]
    questions: list[str]
    answers: list[str]
    tokens: Tensor
    mask: Tensor
    reference: Tensor
    advantages: Tensor


def make_case(processor: Any, per_prompt: int) -> Case:
    """Ragged prompts and completions, from a fixed seed."""
    rng = random.Random(per_prompt)
    pictures = [photograph(seed, processor.image_size) for seed in range(N * per_prompt)]
    answers = [words(seed, rng.randint(1, 12)) for seed in range(N * K)]
    ids = [torch.tensor(processor.answer_ids(answer)) for answer in answers]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=processor.pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    generator = torch.Generator().manual_seed(0)
    return Case(
        images=[pictures[i * per_prompt : (i + 1) * per_prompt] for i in range(N)],
        questions=[words(100 + i, 3 + 4 * i) for i in range(N)],
        answers=answers,
        tokens=tokens,
        mask=mask,
        reference=-5 - torch.rand(tokens.shape, generator=generator),
        advantages=torch.randn(N * K, generator=generator),
    )


def shared_pass(model: Any, processor: Any, case: Case, layout: Any) -> Tensor:
    """(N*K, T) log-probabilities, each prompt computed once."""
    from redaes.models.forward import branch_logprobs

    prompts = processor.batch(case.images, case.questions)
    logps: Tensor = branch_logprobs(model, prompts, case.tokens, case.mask, layout=layout)[0]
    return logps


def plain_pass(model: Any, processor: Any, case: Case) -> Tensor:
    """(N*K, T) log-probabilities, the prompt repeated for every completion."""
    from redaes.models.forward import answer_logprobs

    images = [images for images in case.images for _ in range(K)]
    questions = [question for question in case.questions for _ in range(K)]
    logps, _, mask = answer_logprobs(model, processor.batch(images, questions, case.answers))
    return torch.zeros(case.tokens.shape, dtype=logps.dtype).masked_scatter(case.mask.bool(), logps[mask])


def loss_of(logps: Tensor, case: Case) -> Tensor:
    """Our GRPO loss."""
    from redaes.training.objectives import grpo_loss

    return grpo_loss(logps, None, case.reference, case.advantages, case.mask, kl_coef=BETA)[0]


def trl_loss(model: Any, processor: Any, case: Case) -> Tensor:
    """TRL's GRPO loss of the same completions, by its own forward pass on `model`, which gets its fused head."""
    from contextlib import nullcontext

    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    per_prompt = len(case.images[0])
    images = [images for images in case.images for _ in range(K)]
    prompts = processor.batch(images, [question for question in case.questions for _ in range(K)])
    trainer = SimpleNamespace(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=BETA,
        loss_type="grpo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=case.tokens.shape[1],
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
        accelerator=SimpleNamespace(
            num_processes=1,
            is_main_process=True,
            gather=lambda t: t,
            reduce=lambda t, reduction: t,
            autocast=nullcontext,
        ),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1, report_to=[]),
    )
    trainer._get_per_token_logps_and_entropies = lambda *given, **named: GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, *given, **named
    )
    types = torch.cat([prompts.mm_token_type_ids, torch.zeros_like(case.tokens)], dim=1)
    inputs = {
        "prompt_ids": prompts.input_ids,
        "prompt_mask": prompts.attention_mask,
        "completion_ids": case.tokens,
        "completion_mask": case.mask,
        "advantages": case.advantages,
        "num_items_in_batch": case.mask.sum(),
        "ref_per_token_logps": case.reference,
        "pixel_values": prompts.pixel_values,
        "image_grid_thw": prompts.image_grid_thw,
        "num_images": [per_prompt] * (N * K),
        "mm_token_type_ids": types,
    }
    loss: Tensor = GRPOTrainer._compute_loss(trainer, model, inputs)
    return loss


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of every trained weight; the model is left without."""
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distances(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, float]:
    """Largest difference of any element, and the norm of the difference over the norm of the gradient.

    Raises:
        SystemExit: they are not gradients of the same weights, or are zero.
    """
    mine, other = (torch.cat([g[name].flatten() for name in sorted(g)]).double() for g in (ours, theirs))
    if ours.keys() != theirs.keys() or not other.norm() > 0:
        raise SystemExit(f"not gradients of the same weights: {sorted(ours.keys() ^ theirs.keys())}")
    return float((mine - other).abs().max()), float((mine - other).norm() / other.norm())


def compare(family: Any, backend: str, per_prompt: int, against_trl: bool) -> dict[str, float]:
    """The differences of one model family with one layout and attention implementation."""
    from redaes.models.nano import build_nano

    model, processor = build_nano([words(0, 500)], family)
    layout, attention = backend.split("/")
    model.set_attn_implementation(attention)
    model.model.visual.requires_grad_(False)
    case = make_case(processor, per_prompt)
    copied = copy.deepcopy(model)
    shared, plain = shared_pass(model, processor, case, layout), plain_pass(model, processor, case)
    on = case.mask.bool()
    loss = loss_of(shared, case)
    ours = gradients(model, loss)
    found = {"logprob": float((shared - plain)[on].detach().abs().max())}
    found["gradient"], found["gradient_relative"] = distances(ours, gradients(model, loss_of(plain, case)))
    if against_trl:
        theirs = trl_loss(copied, processor, case)
        found["trl_loss"] = float((loss - theirs).detach().abs())
        found["trl_gradient"], found["trl_gradient_relative"] = distances(ours, gradients(copied, theirs))
    return found


def compare_all(against_trl: bool) -> dict[str, dict[str, float]]:
    """The differences of every model family, back-end and number of images."""
    if against_trl:
        require_trl()
    return {
        f"{family}/{backend}/{per_prompt} image{'s' * (per_prompt > 1)}": compare(
            family, backend, per_prompt, against_trl
        )
        for family, backend, per_prompt in product(FAMILIES, BACKENDS, (1, 2))
    }


def main() -> int:
    """Compare everything, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    # Some libraries log to stdout when they are imported; it is for the result alone.
    with redirect_stdout(sys.stderr):
        cases = compare_all(against_trl=not options.no_trl)
    worst = {name: max(case[name] for case in cases.values()) for name in next(iter(cases.values()))}
    passed = all(value <= LIMITS[name] for name, value in worst.items())
    if options.json:
        limits = {name: LIMITS[name] for name in worst}
        print(json.dumps({**worst, "limits": limits, "passed": passed, "cases": cases}))
    else:
        print(
            "\n".join(
                f"{name:28} " + "  ".join(f"{k} {v:.1e}" for k, v in case.items()) for name, case in cases.items()
            )
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
