"""The rollout `vllm`: an engine in the training process, on the same GPU, that sleeps while the model learns.

A step is: wake the memory for weights, load the policy's, wake the memory for keys and values, sample, sleep. Asleep
(level 2) the engine holds next to nothing, so that training has the memory; what it forgot, it is given at the next
step anyway. Every process of a distributed training has an engine of its own (`external_launcher`), which samples for
the images of that process.
"""

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redaes.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.models.processor import VisionTextBatch, VisionTextProcessor
    from redaes.rollout import Completions, Sampling


class ColocatedRollout:
    """Samples by vLLM in this process; needs the package vllm, and a GPU for anything but a trial.

    Args:
        gpu_memory_utilization: share of the GPU's memory that the engine may use while it is awake, in (0, 1).
        max_model_len: longest prompt and completion together, in tokens; None takes the model's, which needs more
            memory for keys and values than a photograph and its answer do.
        sleep: free the engine's memory between rollouts; vLLM cannot on a CPU.
        checkpoint: what the engine is opened from; None takes the policy's own path. Its weights are replaced.
        engine: further settings of `vllm.LLM`.
    """

    def __init__(
        self,
        gpu_memory_utilization: float = 0.4,
        max_model_len: int | None = 4096,
        sleep: bool = True,
        checkpoint: str | None = None,
        engine: dict[str, Any] | None = None,
    ) -> None:
        if not 0 < gpu_memory_utilization < 1:
            raise ValueError(f"gpu_memory_utilization is {gpu_memory_utilization}; it is a share above 0 and below 1")
        self.gpu_memory_utilization = gpu_memory_utilization
        self.max_model_len = max_model_len
        self.sleep = sleep
        self.checkpoint = checkpoint
        self.engine = engine or {}
        self._llm: Any = None
        self._asleep = False
        self._sent: Tensor | None = None

    def __call__(
        self,
        model: Any,
        processor: "VisionTextProcessor",
        prompts: "VisionTextBatch",
        sampling: "Sampling",
        seeds: Sequence[int] | None = None,
        features: Any = None,
    ) -> "Completions":
        """K completions for each of N prompts; see `Completions` for shapes. `features` are not used."""
        from redaes.rollout.in_process import suppressed_tokens
        from redaes_vllm.exchange import answers_of_engine, completions, sampling_parameters

        parameters_of = _vllm().SamplingParams
        if self._llm is None:
            self._llm = self._open(model)
        never = suppressed_tokens(model)
        parameters = [
            # logprobs=0: of the sampled token alone.
            parameters_of(
                logprobs=0,
                **sampling_parameters(sampling, never, processor.eos_id, None if seeds is None else seeds[i]),
            )
            for i in range(len(prompts.input_ids))
        ]
        self._wake(model)
        outputs = self._llm.generate(engine_prompts(processor, prompts), parameters, use_tqdm=False)
        if self.sleep:
            self._llm.sleep(level=2)
            self._asleep = True
        return completions(
            [answers_of_engine(output) for output in outputs], sampling, processor, prompts.input_ids.device
        )

    def _open(self, model: Any) -> Any:
        from redaes.models.vlm import bare

        for name, alone in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
            os.environ.setdefault(name, alone)
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        path = self.checkpoint or bare(model).config.name_or_path
        if not path:
            raise UserError("the policy was not opened from a checkpoint: name one as rollout.checkpoint")
        try:
            return _vllm().LLM(**engine_settings(self, path))
        except ValueError as error:
            raise UserError(f"vLLM refuses the settings of the rollout: {error}") from error

    def _wake(self, model: Any) -> None:
        """Give the engine the weights that it lacks, before it takes memory for keys and values."""
        import torch

        from redaes_vllm.weights import checkpoint_weights, fingerprint, on_any_process

        now = fingerprint(model)
        if self._asleep:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._llm.wake_up(tags=["weights"])
        lacking = self._asleep or self._sent is None or not now.equal(self._sent)
        if on_any_process(lacking, next(model.parameters()).device):
            on_cpu = self._llm.llm_engine.vllm_config.device_config.device_type == "cpu"
            weights = checkpoint_weights(model, tied_twice=on_cpu)
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            if not self._llm.reset_prefix_cache():
                raise UserError("vLLM keeps what it computed of prompts by the old weights: see its log")
            self._llm.llm_engine.reset_encoder_cache()
            self._sent = now
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False


def engine_settings(rollout: ColocatedRollout, checkpoint: str) -> dict[str, Any]:
    """What `vllm.LLM` is opened with."""
    return {
        "model": checkpoint,
        "gpu_memory_utilization": rollout.gpu_memory_utilization,
        "max_model_len": rollout.max_model_len,
        "enable_sleep_mode": rollout.sleep,
        # In this process, so that weights are handed over as tensors.
        "distributed_executor_backend": "external_launcher",
        # Log-probabilities at the temperature that is sampled at, not at 1.
        "logprobs_mode": "processed_logprobs",
        # Else the checkpoint's top_p and repetition penalty would be the defaults of every request.
        "generation_config": "vllm",
        "seed": int(os.environ["RANK"]),
        **rollout.engine,
    }


def engine_prompts(processor: "VisionTextProcessor", prompts: "VisionTextBatch") -> list[dict[str, Any]]:
    """N prompts for `vllm.LLM.generate`: ids with one placeholder an image, which vLLM expands, and the images."""
    images = iter(processor.images(prompts))
    return [
        {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": [next(images) for _ in range(ids.count(processor.image_token_id))]},
        }
        for ids in processor.collapsed_ids(prompts)
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"the rollout 'vllm' needs vLLM, which cannot be imported ({error}): pip install 'redaes-vllm[vllm]' on "
            "Linux with a GPU, or take the rollout vllm_server or in_process"
        ) from error
    return vllm
