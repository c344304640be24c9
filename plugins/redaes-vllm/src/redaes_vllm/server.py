"""The rollout `vllm_server`: an engine on other GPUs, or on another machine, asked over HTTP.

Prompts go to `/v1/chat/completions`, images as PNG, one request a prompt. The server renders its own chat template and
answers with the prompt's token ids, which are compared with ours: a server of another checkpoint, or one that resizes
images, is found at the first step and not in the curves.

Weights go by the file system. vLLM documents two ways into a running server: its weight transfer engines (NCCL, CUDA
IPC), which need vLLM and a GPU in the trainer too, and `reload_weights` through `/collective_rpc`, which reads
safetensors from a folder. The second works from any trainer that shares a folder with the server, leaves a file that
can be looked at, and is what is used here; a folder in memory (/dev/shm) costs a copy. Each update has a folder of its
own, as vLLM was seen to reuse what it had read from a path (vllm-project/vllm issue 32718).
"""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from redaes.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.models.processor import VisionTextBatch, VisionTextProcessor
    from redaes.rollout import Completions, Sampling
    from redaes_vllm.client import Client
    from redaes_vllm.exchange import Answer

# Bytes of one weight file: what is held in memory besides the model while it is written.
SHARD_BYTES = 4 * 2**30


class ServerRollout:
    """Asks a vLLM server, which is given the policy's weights whenever they have changed.

    Args:
        url: of the server.
        folder: where weights are handed over; server and trainer must both see it under this path. None takes the
            system's temporary one, for a server on the same machine.
        dtype: of the weights handed over; None leaves them as they are trained.
        timeout: seconds that an answer, or the loading of weights, may take.
        attempts: how often a request is made before giving up.
        pause: seconds before the second attempt, doubled for each further one.
        concurrency: prompts under way at a time.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        folder: str | None = None,
        dtype: Literal["bfloat16", "float16", "float32"] | None = None,
        timeout: float = 600.0,
        attempts: int = 5,
        pause: float = 1.0,
        concurrency: int = 64,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"url is {url!r}; it must be an address as http://localhost:8000")
        if attempts < 1 or concurrency < 1 or timeout <= 0:
            raise ValueError(
                f"attempts is {attempts}, concurrency {concurrency}, timeout {timeout}; they must be above 0"
            )
        self.url = url
        self.folder = folder
        self.dtype = dtype
        self.timeout = timeout
        self.attempts = attempts
        self.pause = pause
        self.concurrency = concurrency
        self._client: Client | None = None
        self._model = ""
        self._on_cpu = False
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
        from redaes_vllm.exchange import chat_request, completions, sampling_parameters

        client = self._connect()
        self._update(client, model)
        never = suppressed_tokens(model)
        images = iter(processor.images(prompts))
        expected = [
            [token for token, real in zip(ids, mask, strict=True) if real]
            for ids, mask in zip(prompts.input_ids.tolist(), prompts.attention_mask.tolist(), strict=True)
        ]
        requests = []
        for i, (question, ids) in enumerate(zip(processor.questions(prompts), expected, strict=True)):
            count = ids.count(processor.image_token_id) // processor.tokens_per_image
            parameters = sampling_parameters(sampling, never, processor.eos_id, None if seeds is None else seeds[i])
            requests.append(chat_request(question, [next(images) for _ in range(count)], parameters, self._model))
        with ThreadPoolExecutor(min(self.concurrency, len(requests))) as threads:
            answers = list(threads.map(lambda request, ids: self._ask(client, request, ids), requests, expected))
        return completions(answers, sampling, processor, prompts.input_ids.device)

    def _ask(self, client: "Client", request: dict[str, Any], expected: list[int]) -> "list[Answer]":
        from redaes_vllm.exchange import answers_of_chat

        response = client.post("/v1/chat/completions", request)
        seen = response.get("prompt_token_ids")
        if seen != expected:
            raise UserError(
                f"the vLLM server at {self.url} made {len(seen or [])} tokens of a prompt of {len(expected)}: it must "
                "serve the checkpoint that is trained, with its chat template and images left at their size"
            )
        return answers_of_chat(response)

    def _connect(self) -> "Client":
        """The client, once the server was found and found fit."""
        from redaes_vllm.client import HOW_TO_START, Client

        if self._client is None:
            client = Client(self.url, self.timeout, self.attempts, self.pause)
            try:
                self._model = client.get("/v1/models")["data"][0]["id"]
                config = client.get("/server_info", config_format="json")["vllm_config"]
            except (KeyError, TypeError, IndexError) as error:
                raise UserError(f"what answers at {self.url} is not a vLLM server: {HOW_TO_START}") from error
            self._on_cpu = config.get("device_config", {}).get("device") == "cpu"
            mode = config.get("model_config", {}).get("logprobs_mode", "processed_logprobs")
            if mode != "processed_logprobs":
                raise UserError(
                    f"the vLLM server at {self.url} gives {mode}, not the probabilities it samples by: {HOW_TO_START}"
                )
            self._client = client
        return self._client

    def _update(self, client: "Client", model: Any) -> None:
        """Hand the weights over if they are not those of the last time."""
        from redaes.models.sharding import is_first_process
        from redaes_vllm.weights import checkpoint_weights, fingerprint, on_any_process

        now = fingerprint(model)
        device = next(model.parameters()).device
        if not on_any_process(self._sent is None or not now.equal(self._sent), device):
            return
        weights = checkpoint_weights(model, tied_twice=self._on_cpu)
        failure: UserError | None = None
        if is_first_process():
            try:
                self._hand_over(client, weights)
            except UserError as error:
                failure = error
        for _ in weights:  # what is gathered must be gathered everywhere
            pass
        if on_any_process(failure is not None, device):
            raise failure or UserError("another process could not hand the weights to the vLLM server")
        self._sent = now

    def _hand_over(self, client: "Client", weights: "Iterable[tuple[str, Tensor]]") -> None:
        folder = self._new_folder()
        try:
            self._write(folder, weights)
            client.post("/pause", mode="wait")
            try:
                client.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
                # What was computed by the old weights, of prompts and of images, must not be used again.
                for cache in ("/reset_prefix_cache", "/reset_encoder_cache"):
                    # An older vLLM answers nothing.
                    if not (client.post(cache) or {"success": True})["success"]:
                        raise UserError(f"the vLLM server at {self.url} refused {cache}: something else is using it")
            finally:
                client.post("/resume")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Weights as safetensors files of bounded size."""
        import torch
        from safetensors.torch import save_file

        def save() -> None:
            file = folder / f"model-{len(list(folder.iterdir())):05d}.safetensors"
            save_file(shard, file)
            file.chmod(0o644)
            shard.clear()

        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        shard: dict[str, Tensor] = {}
        try:
            for name, weight in weights:
                shard[name] = weight.to("cpu", dtype).contiguous()
                if sum(part.nbytes for part in shard.values()) >= SHARD_BYTES:
                    save()
            if shard:
                save()
        except OSError as error:
            raise UserError(f"cannot write weights to {folder}: {error.strerror or error} (rollout.folder)") from error

    def _new_folder(self) -> Path:
        """A folder of this update alone, which the server can read even as another user."""
        root = Path(self.folder or tempfile.gettempdir()).expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="redaes-weights-", dir=root))
            folder.chmod(0o755)
        except OSError as error:
            raise UserError(f"cannot write weights to {root}: {error.strerror or error} (rollout.folder)") from error
        return folder
