"""Measured processes: each side of a comparison runs in one of its own, and says what it took on which machine."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from _workload import Shape

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("redaes", "torch", "transformers", "lightning", "trl")


def require_trl(vllm: bool = False) -> None:
    """Make TRL importable, without torchvision, whatever build of that is installed.

    Args:
        vllm: it samples by vLLM in this process, which opens a processor of its own, with torchvision.

    Raises:
        SystemExit: it is not installed, or another version.
    """
    found = _version("trl")
    if not (found or "").startswith("1.16."):
        raise SystemExit(f"the peer is trl 1.16, found {found}: pip install 'trl>=1.16,<1.17'")
    if not vllm:
        hide_torchvision()


def hide_torchvision() -> None:
    """Let transformers take its paths without torchvision: a build for another torch breaks its imports."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]


# --- the machine ------------------------------------------------------------------------------------------------------


def matrix_rates(shape: Shape) -> dict[str, float]:
    """GFLOP/s of torch.mm in the shape's type: one decoding step, an update, the head, and a large square."""
    import torch

    torch.set_num_threads(shape.threads)
    rows = shape.images * (shape.prompt_tokens + shape.k * shape.new_tokens)
    sizes = {
        "decode": (shape.completions, shape.width, shape.width * 5 // 2),
        "update": (rows, shape.width, shape.width * 5 // 2),
        "head": (shape.completions * shape.new_tokens, shape.width, shape.vocab),
        "square": (2048, 2048, 2048),
    }
    return {name: round(_matrix_rate(*size, shape), 1) for name, size in sizes.items()}


def _matrix_rate(m: int, k: int, n: int, shape: Shape) -> float:
    import torch

    left = torch.randn(m, k, device=shape.device, dtype=getattr(torch, shape.dtype))
    right = torch.randn(k, n, device=shape.device, dtype=getattr(torch, shape.dtype))
    out, best, end = left @ right, float("inf"), time.perf_counter() + 0.5
    batch = max(1, int(2e8 / (2 * m * k * n)))
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(batch):
            torch.mm(left, right, out=out)
        if shape.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / batch)
    return 2 * m * k * n / best / 1e9


def machine(shape: Shape) -> dict[str, Any]:
    """Processor, cores, threads, versions and date of a run."""
    import torch

    found = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": shape.threads,
        "load": round(os.getloadavg()[0], 2),
        "date": date.today().isoformat(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if shape.device == "cuda" else {})


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# --- one measured process ---------------------------------------------------------------------------------------------


class Clock:
    """Seconds of whole steps, and of named phases inside them.

    A step lasts from the end of the one before to its own end, so that it holds its share of everything: loading,
    encoding, the trainer's own book-keeping.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []
        self.processor: list[float] = []
        self.phases: dict[str, list[float]] = {}

    def now(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def end_step(self) -> None:
        """Call at the end of every step, the warm-up's too."""
        self.ends.append(self.now())
        self.processor.append(time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`, of the step that is under way."""
        start = self.now()
        yield
        step = len(self.ends)
        seconds = self.phases.setdefault(name, [])
        seconds.extend([0.0] * (step + 1 - len(seconds)))
        seconds[step] += self.now() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its calls counted as a phase."""

        def run(*positional: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*positional, **named)

        return run

    def report(self) -> dict[str, Any]:
        """Seconds of every step after the first (on the wall and of the processor), and the median of each phase."""
        steps, processor = ([b - a for a, b in pairwise(times)] for times in (self.ends, self.processor))
        phases = {name: statistics.median(seconds[1 : len(self.ends)]) for name, seconds in self.phases.items()}
        return {"steps_s": steps, "cpu_s": statistics.median(processor), "phases_s": phases, **memory(self.device)}


def memory(device: str) -> dict[str, float]:
    """Peak memory of this process so far, in GB: resident, or allocated on the GPU."""
    peak = {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    if device == "cuda":
        import torch

        peak = {"host_peak_gb": peak["peak_gb"], "peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    return peak


def child(script: str, task: str, shape: Shape, folder: Path, **settings: Any) -> dict[str, Any]:
    """Run `task` of a script of this folder in a process of its own and return what it reports.

    Raises:
        SystemExit: it failed; what it wrote is on stderr.
    """
    threads = str(shape.threads)
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        request = {"task": task, "shape": asdict(shape), "folder": str(folder), "report": report.name, **settings}
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / script), json.dumps(request)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{script} {task} failed with exit code {done.returncode}; see above")
        found: dict[str, Any] = json.load(report)
        return found


def serve(tasks: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """The other end of `child`: run the task that the command line asks for."""
    import torch

    request = json.loads(sys.argv[1])
    shape, report = Shape(**request.pop("shape")), Path(request.pop("report"))
    torch.set_num_threads(shape.threads)
    found = tasks[request.pop("task")](shape, Path(request.pop("folder")), **request)
    report.write_text(json.dumps(found), encoding="utf-8")
