"""How long clients of `redaes serve` wait when it is busy, and whether it loses any of them.

    python benchmarks/serve_load.py --json

The server is a process of its own, `redaes serve` with nano on the CPU; the clients are in this one. `capacity`:
requests a second that it answers when 4 x the batch size of clients ask again as soon as they are answered. Then
requests come at random (Poisson) at `load` times that rate, whether the earlier ones were answered or not; how long one
takes is counted from when it was due, so that nothing is hidden by a client that is late itself (`late_p99_ms`).

One request in twenty is malformed, in one of eight ways, in both parts. `lost`: requests without their answer, which is
200 with the very score that the photograph got when it was alone, and 4xx for a malformed one; a 503 counts as lost.
`p50_ms`, `p99_ms`, `ratio` are of the well-formed ones. `crashed`: the server did not live to the end, or did not end
with exit code 0 on SIGTERM.
"""

import argparse
import asyncio
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _machine import machine
from _workload import Shape

CORES = os.cpu_count() or 1
BOUNDARY = "x-redaes-x"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Sending:
    """One request's body, and what it is: the number of a photograph, or None of a malformed one."""

    body: bytes
    kind: str
    photograph: int | None


@dataclass
class Answer:
    """What became of one request: seconds since it was due, by how many it was sent late, the status, the score."""

    sending: Sending
    seconds: float
    late: float
    status: int
    score: float | None


def form(data: bytes, field: str = "images") -> bytes:
    """A form with one file."""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{field}"; filename="a.jpg"\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def photographs(count: int) -> list[bytes]:
    """JPEGs of 1024 x 768, parts of scikit-image's photographs."""
    from PIL import Image
    from skimage import data

    sources = [Image.fromarray(getattr(data, name)()) for name in ("coffee", "astronaut", "chelsea", "rocket")]
    chance = random.Random(0)
    made = []
    for number in range(count):
        source = sources[number % len(sources)].convert("RGB")
        width = chance.randint(source.width // 2, source.width)
        height = min(source.height, width * 3 // 4)
        left, top = chance.randint(0, source.width - width), chance.randint(0, source.height - height)
        buffer = io.BytesIO()
        source.crop((left, top, left + width, top + height)).resize((1024, 768)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def malformed(photograph: bytes) -> list[Sending]:
    """Requests that must be refused."""
    return [
        Sending(form(photograph[:-2000]), FORM, None),
        Sending(form(photograph[:200]), FORM, None),
        Sending(form(b""), FORM, None),
        Sending(form(b"%!PS-Adobe-3.0 EPSF-3.0\n"), FORM, None),
        Sending(form(photograph, "photo"), FORM, None),
        Sending(form(photograph)[:-20], FORM, None),
        Sending(b'{"images": ["http://127.0.0.1/a.jpg"]}', "application/json", None),
        Sending(photograph, "image/jpeg", None),
    ]


def mixed(count: int, pictures: Sequence[bytes], share: float, seed: int) -> list[Sending]:
    """Requests at random, of which a share is malformed."""
    chance = random.Random(seed)
    good = [Sending(form(data), FORM, number) for number, data in enumerate(pictures)]
    bad = malformed(pictures[0])
    return [chance.choice(bad if chance.random() < share else good) for _ in range(count)]


@contextmanager
def server(batch_size: int, threads: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`redaes serve` on a free port, and its address."""
    command = [sys.executable, "-m", "redaes", "serve", "--port=0", "--device=cpu", f"--batch_size={batch_size}"]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start; see above")
        try:
            yield process, found[0]
        finally:
            process.kill()


async def send(client: httpx.AsyncClient, sending: Sending, due: float) -> Answer:
    """Send one request that is due at a time of `time.perf_counter`, not before."""
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    late = time.perf_counter() - due
    status, score = 0, None
    try:
        answer = await client.post("/score", content=sending.body, headers={"content-type": sending.kind})
        status = answer.status_code
        score = answer.json()["scores"][0]["score"] if status == 200 else None
    except (httpx.HTTPError, ValueError, LookupError) as error:
        print(f"no answer: {error!r}", file=sys.stderr)
    return Answer(sending, time.perf_counter() - due, late, status, score)


async def closed_loop(client: httpx.AsyncClient, sendings: Sequence[Sending], clients: int) -> float:
    """Requests answered a second, asked by so many clients without a pause."""
    left = iter(sendings)

    async def one() -> None:
        for sending in left:
            await send(client, sending, time.perf_counter())

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return len(sendings) / (time.perf_counter() - began)


async def open_loop(client: httpx.AsyncClient, sendings: Sequence[Sending], rate: float, seed: int) -> list[Answer]:
    """Requests that come at random, so many a second."""
    chance, due, tasks = random.Random(seed), time.perf_counter() + 0.1, []
    for sending in sendings:
        due += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter() - 0.05))
        tasks.append(asyncio.create_task(send(client, sending, due)))
    return await asyncio.gather(*tasks)


async def measure(address: str, options: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement, against a server that runs."""
    pictures = photographs(options.photographs)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=20)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        known = {}
        for number, data in enumerate(pictures):  # which warms it up as well
            alone = await send(client, Sending(form(data), FORM, number), time.perf_counter())
            known[number] = alone.score
        many = mixed(options.capacity_requests, pictures, options.malformed, seed=1)
        capacity = await closed_loop(client, many, 4 * options.batch_size)
        before = await figures(client)
        sendings = mixed(options.requests, pictures, options.malformed, seed=2)
        began = time.perf_counter()
        answers = await open_loop(client, sendings, options.load * capacity, seed=3)
        seconds = time.perf_counter() - began
        after = await figures(client)
    return {"capacity": round(capacity, 2), **summary(answers, known, seconds), **batches(before, after)}


def summary(answers: Sequence[Answer], known: dict[int, float | None], seconds: float) -> dict[str, Any]:
    """What the clients saw."""
    good = [a for a in answers if a.sending.photograph is not None]
    bad = [a for a in answers if a.sending.photograph is None]
    lost = [a for a in good if a.status != 200 or a.score != known[a.sending.photograph or 0]]
    lost += [a for a in bad if not 400 <= a.status < 500]
    p50, p99 = (quantile([a.seconds for a in good], share) * 1000 for share in (0.5, 0.99))
    return {
        "offered_rate": round(len(answers) / seconds, 2),
        "requests": len(answers),
        "malformed": len(bad),
        "lost": len(lost),
        "statuses": dict(sorted(Counter(str(a.status) for a in answers).items())),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "ratio": round(p99 / p50, 2),
        "most_ms": round(max(a.seconds for a in good) * 1000, 1),
        "malformed_p50_ms": round(quantile([a.seconds for a in bad], 0.5) * 1000, 1) if bad else None,
        "late_p99_ms": round(quantile([a.late for a in answers], 0.99) * 1000, 1),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all is at most."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def figures(client: httpx.AsyncClient) -> dict[str, float]:
    """What the server counts."""
    lines = [line for line in (await client.get("/metrics")).text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def batches(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Images of the average batch, and the seconds it took."""
    label = '{question="score"}'
    names = (f"redaes_batch_images_count{label}", f"redaes_batch_images_sum{label}", f"redaes_batch_seconds_sum{label}")
    count, images, seconds = (after[name] - before[name] for name in names)
    return {"batch_images": round(images / count, 2), "batch_ms": round(seconds / count * 1000, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity that is offered")
    parser.add_argument("--malformed", type=float, default=0.05, help="share of the requests")
    parser.add_argument("--capacity-requests", type=int, default=1500, help="requests that the capacity is measured by")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--photographs", type=int, default=64, help="different ones")
    parser.add_argument(
        "--threads", type=int, default=max(1, CORES - 1), help="of the model; decoding and clients use the rest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with server(options.batch_size, options.threads) as (process, address):
        found = asyncio.run(measure(address, options))
        alive = process.poll() is None
        process.send_signal(signal.SIGTERM)
        found["crashed"] = not alive or process.wait(60) != 0
    found |= {
        "load": options.load,
        "batch_size": options.batch_size,
        "machine": machine(Shape(threads=options.threads)),
    }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
