"""A stand-in for vLLM in which a real nano model samples: its HTTP protocol, and the part of its Python API we use.

It starts in a second, fails on demand and keeps to the seeds of `in_process`; test_real_engine.py has vLLM itself. What
is false here is the engine alone; requests, images, answers and weights are what they would be, and log-probabilities
leave out what is never sampled. Where vLLM is strict, so is this: equal greedy answers, sampling while asleep and
foreign weights are refused, and sleeping at level 2 does destroy the weights. It is stricter in two points: weights
that were not sent, and fields of a request that the server does not know, are errors; vLLM logs the former and passes
over the latter.
"""

import base64
import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import torch
from PIL import Image
from safetensors.torch import load_file

from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout, suppressed_tokens
from reference import engine_logprobs

SAMPLING_FIELDS = {
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "seed",
    "stop",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "stop_token_ids",
    "logit_bias",
}
CHAT_FIELDS = SAMPLING_FIELDS | {
    "model",
    "messages",
    "chat_template_kwargs",
    "logprobs",
    "top_logprobs",
    "return_token_ids",
    "return_tokens_as_token_ids",
}


class Refused(Exception):
    """What vLLM answers with status 400, or raises."""


class NanoEngine:
    """Samples as vLLM would for one prompt; knows nothing of the trainer but what it is given.

    On the device `cpu` its head is a copy, as vLLM's kernels for CPUs pack one even of a head tied to the embedding.
    """

    def __init__(self, model, processor, device="cuda"):
        self.model = copy.deepcopy(model).eval()
        if device == "cpu":
            self.model.lm_head.weight = torch.nn.Parameter(self.model.lm_head.weight.detach().clone())
        self.processor = processor
        self.reloads = 0
        self.lock = threading.Lock()

    def sample(self, question, images, parameters):
        """The prompt's token ids and n completions: (token ids, log-probabilities, finish reason)."""
        self._check(parameters)
        batch = self.processor.batch([images], [question])
        seed = parameters["seed"]
        sampling = Sampling(parameters["n"], parameters["temperature"], parameters["max_tokens"])
        with self.lock:
            out = InProcessRollout()(self.model, self.processor, batch, sampling, None if seed is None else [seed])
            logprobs = engine_logprobs((self.model, self.processor), batch, out, sampling.temperature)
        rows = zip(out.tokens, logprobs, out.mask.bool(), out.truncated.tolist(), strict=True)
        return batch.input_ids[0].tolist(), [
            (tokens[real].tolist(), logprobs[real].tolist(), "length" if cut else "stop")
            for tokens, logprobs, real, cut in rows
        ]

    def _check(self, parameters):
        if parameters["n"] > 1 and parameters["temperature"] == 0:
            raise Refused("n must be 1 when using greedy sampling")
        if parameters["seed"] is not None and not -(2**63) <= parameters["seed"] + parameters["n"] < 2**63:
            raise Refused("seed is not a long")
        never = {int(token) for token, bias in parameters["logit_bias"].items() if bias == -100}
        assert never == set(suppressed_tokens(self.model))
        assert parameters["stop"] == ["</answer>"]
        assert parameters["stop_token_ids"] == [self.processor.eos_id]
        assert parameters["include_stop_str_in_output"]
        assert not parameters["skip_special_tokens"]
        whole = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        assert {name: parameters[name] for name in whole} == whole

    def load_weights(self, weights):
        """Replace every weight by one of its name and shape."""
        left = dict(self.model.named_parameters())
        for name, weight in weights:
            if name not in left or left[name].shape != weight.shape:
                raise Refused(f"there is no parameter {name} of shape {tuple(weight.shape)}")
            with torch.no_grad():
                left.pop(name).copy_(weight)
        if left:
            raise Refused(f"not loaded: {sorted(left)}")
        self.reloads += 1


class NanoServer:
    """`vllm serve` on a free port of loopback, within a `with`.

    `failures` is a list of what happens to the next requests instead of an answer: a status, "hang", "disconnect", or
    None for nothing. `calls` is what was asked.
    """

    def __init__(self, model, processor, logprobs_mode="processed_logprobs", device="cuda"):
        self.engine = NanoEngine(model, processor, device)
        self.device = device
        self.caches_are_free = True
        self.logprobs_mode = logprobs_mode
        self.calls = []
        self.failures = []
        self.development = True
        self.paused = False
        self.files = 0
        self.change_answer = lambda answer: answer
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def answer(self, method, path, query, body):
        if method == "GET":
            return {
                "/v1/models": {"data": [{"id": "nano"}]},
                "/server_info": {
                    "vllm_config": {
                        "model_config": {"logprobs_mode": self.logprobs_mode},
                        "device_config": {"device": self.device},
                    }
                },
            }[path]
        return getattr(self, path.strip("/").replace("v1/", "").replace("/", "_"))(body, **query)

    def pause(self, _, mode):
        self.paused = mode == "wait"
        return {"status": "paused"}

    def resume(self, _):
        self.paused = False
        return {"status": "resumed"}

    def collective_rpc(self, body):
        assert self.paused
        assert body["method"] == "reload_weights"
        files = sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors"))
        self.files = len(files)
        self.engine.load_weights(item for file in files for item in load_file(file).items())
        return {"results": [None]}

    def reset_prefix_cache(self, _):
        return {"success": self.caches_are_free}

    def reset_encoder_cache(self, _):
        return None

    def chat_completions(self, body):
        assert not self.paused
        if unknown := set(body) - CHAT_FIELDS:
            raise Refused(f"unknown fields {unknown}")
        assert body["model"] == "nano"
        (message,) = body["messages"]
        *pictures, text = message["content"]
        images = [_decode(part["image_url"]["url"]) for part in pictures]
        prompt_ids, sampled = self.engine.sample(text["text"], images, body)
        choices = [
            {
                "index": index,
                "token_ids": tokens,
                "finish_reason": reason,
                "logprobs": {
                    "content": [
                        {"token": f"token_id:{token}", "logprob": logprob, "top_logprobs": []}
                        for token, logprob in zip(tokens, logprobs, strict=True)
                    ]
                },
            }
            for index, (tokens, logprobs, reason) in enumerate(sampled)
        ]
        # vLLM promises no order; the index is what counts.
        return self.change_answer({"choices": choices[::-1], "prompt_token_ids": prompt_ids})


def _decode(url):
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    return Image.open(BytesIO(base64.b64decode(data))).convert("RGB")


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        def _handle(self):
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.calls.append(parts.path)
            failure = server.failures.pop(0) if server.failures else None
            if failure == "disconnect":
                self.close_connection = True
                return
            if failure == "hang":
                time.sleep(3)
                return
            if isinstance(failure, int):
                self._send(failure, {"error": {"message": "CUDA out of memory\nTraceback"}})
            elif not server.development and not parts.path.startswith("/v1/"):
                self._send(404, {"detail": "Not Found"})
            else:
                try:
                    body = json.loads(raw) if raw else None
                    self._send(200, server.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body))
                except Refused as error:
                    self._send(400, {"error": {"message": str(error)}})
                except Exception as error:
                    self._send(418, {"error": {"message": repr(error)}})

        do_GET = do_POST = _handle

        def _send(self, status, body):
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Quiet."""

    return Handler


def nano_vllm(model, processor, device="cuda"):
    """A module to be imported as `vllm`, and the list of what is asked of its engine."""
    events = []

    class SamplingParams:
        def __init__(self, **fields):
            assert set(fields) == SAMPLING_FIELDS | {"logprobs"}
            assert fields["logprobs"] == 0
            self.fields = fields

    class LLM:
        def __init__(self, **settings):
            if device == "cpu" and settings["enable_sleep_mode"]:
                raise ValueError("Sleep mode is not supported on current platform.")
            self.settings = settings
            self.nano = NanoEngine(model, processor, device)
            self.awake = {"weights", "kv_cache"}
            self.llm_engine = SimpleNamespace(
                reset_encoder_cache=lambda: events.append("reset_encoder_cache"),
                vllm_config=SimpleNamespace(device_config=SimpleNamespace(device_type=device)),
            )
            events.append(("open", settings))

        def sleep(self, level):
            assert self.settings["enable_sleep_mode"]
            assert level == 2
            events.append("sleep")
            self.awake = set()
            for parameter in self.nano.model.parameters():
                parameter.data.fill_(float("nan"))

        def wake_up(self, tags):
            events.append(("wake_up", *tags))
            self.awake |= set(tags)

        def collective_rpc(self, method, kwargs):
            assert method == "reload_weights"
            assert "weights" in self.awake
            events.append("reload_weights")
            self.nano.load_weights(kwargs["weights_iterator"])

        def reset_prefix_cache(self):
            events.append("reset_prefix_cache")
            return True

        def generate(self, prompts, sampling_params, use_tqdm):
            assert self.awake == {"weights", "kv_cache"}
            events.append("generate")
            return [self._one(p, s.fields) for p, s in zip(prompts, sampling_params, strict=True)]

        def _one(self, prompt, parameters):
            images, ids = prompt["multi_modal_data"]["image"], prompt["prompt_token_ids"]
            assert ids.count(processor.image_token_id) == len(images)
            before, after = processor.prompt_text("\ufffc", len(images)).split("\ufffc")
            question = processor.tokenizer.decode(ids).removeprefix(before).removesuffix(after)
            _, sampled = self.nano.sample(question, images, parameters)
            outputs = [
                SimpleNamespace(
                    index=index,
                    token_ids=tuple(tokens),
                    logprobs=[{t: SimpleNamespace(logprob=lp)} for t, lp in zip(tokens, logprobs, strict=True)],
                    finish_reason=reason,
                )
                for index, (tokens, logprobs, reason) in enumerate(sampled)
            ]
            return SimpleNamespace(outputs=outputs[::-1])

    return SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams), events
