"""How long a build will take, what it will ask, cost and write, before it runs; and how far that is from real builds.

    python benchmarks/simulate_build.py --check --json            about six minutes
    python benchmarks/simulate_build.py --config paper/data.yaml --photographs 500000 --latency edit=15 gpt-5=8
    python benchmarks/simulate_build.py --config paper/data.yaml --photographs 500000 --pilot trial

A sample of the planned sources goes through a simulated engine (benchmarks/_simulation.py). Calls and bytes grow with
the sources, time with the slope between half of the sample and all of it; what answers take comes from the ledger of a
pilot, the small build that everybody should run first, or is assumed. `questions_expected` is the same number from
`redaes.engine.estimate`, in closed form; where judges are not independent it is the less exact one.

`--check`: servers on loopback answer after simulated latencies, lognormal, and break one answer in twenty. A pilot
of 80 sources is built; from its ledger and two configurations that differ from it in sources, seed and limits alone,
two builds are predicted; the predictions are printed; then the builds are run. `error_fraction` is the largest relative
error of their wall time, of the whole command, and of their calls.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

from _engine import redaes, write_config  # noqa: E402
from _simulation import Course, Outcomes, Pilot, Simulation, Tempo  # noqa: E402
from benchmarks.vendors.crew import configuration, environment  # noqa: E402
from benchmarks.vendors.faults import Faults  # noqa: E402
from benchmarks.vendors.server import running  # noqa: E402
from benchmarks.vendors.state import Vendors  # noqa: E402

from redaes.engine.config import EngineConfig, load_config  # noqa: E402
from redaes.engine.database import Total  # noqa: E402
from redaes.engine.estimate import Talk, estimate  # noqa: E402
from redaes.engine.expectation import Rates  # noqa: E402
from redaes.engine.ledger import Ledger  # noqa: E402
from redaes.engine.plan import Job, plan_jobs  # noqa: E402
from redaes.engine.stages import Crew  # noqa: E402
from redaes.errors import UserError  # noqa: E402
from redaes.presets import resolve_config  # noqa: E402
from redaes.registry import create  # noqa: E402
from redaes.sources import Photograph  # noqa: E402

ASSUMED = {"score": 5.0, "instruct": 8.0, "diversify": 10.0, "edit": 15.0, "verify": 6.0, "compare": 6.0}
"""Median seconds of an answer where nobody has measured them [ours]."""


class Prediction(NamedTuple):
    """What a build will be; bytes are None without a pilot, cost without prices."""

    seconds: float
    sources: int
    calls: dict[str, int]
    in_flight: dict[str, float]
    questions_expected: int
    tokens: int
    cost: float | None
    ledger_bytes: int | None
    image_bytes: int | None


def predict(
    config: EngineConfig, jobs: Sequence[Job], most: int, tempo: Tempo, pilot: Pilot | None, seen: Sequence[Total]
) -> Prediction:
    """Simulate at most so many of the jobs, and take the build to its full size.

    Args:
        config: of the build.
        jobs: all its sources.
        most: sources to simulate.
        tempo: of answers.
        pilot: a build of the same crew, if there was one.
        seen: totals of its ledger.
    """
    crew = Crew.from_config(config)
    rates = Rates()
    outcomes = Outcomes.expected(rates, len(crew.judges))
    if pilot:
        outcomes = Outcomes.seen(pilot.edits, outcomes, len(crew.verifiers))
        alike = math.prod(outcomes.better) ** (1 / len(crew.judges))
        rates = Rates(outcomes.edit_success, alike, outcomes.settled)
    expected = estimate(config, jobs, rates, Talk(), seen)
    spent = {(row.role, row.plugin): row.lazy if config.mode == "lazy" else row.eager for row in expected.rows}
    tokens = {key: (s.input_tokens + s.output_tokens) / s.calls for key, s in spent.items() if s.calls}

    def simulated(some: Sequence[Job]) -> Course:
        return Simulation(config, crew, outcomes, tempo, tokens).run(some)

    sample = jobs[:: -(-len(jobs) // most)]
    course = simulated(sample)
    growth, seconds = len(jobs) / len(sample), course.seconds
    if growth > 1:
        half = sample[::2]
        slope = (seconds - simulated(half).seconds) / (len(sample) - len(half))
        seconds += slope * (len(jobs) - len(sample))
    each = {key: None if s.cost is None else s.cost / s.calls for key, s in spent.items() if s.calls}
    costs = [None if (cost := each[key]) is None else n * cost for key, n in course.tries.items()]
    images = course.images + len(sample)
    return Prediction(
        seconds=seconds + tempo.fixed,
        sources=len(jobs),
        calls={role: round(count * growth) for role, count in sorted(course.calls.items())},
        in_flight={name: round(busy * growth / seconds, 1) for name, busy in sorted(course.busy.items())},
        questions_expected=round(expected.lazy.calls if config.mode == "lazy" else expected.eager.calls),
        tokens=round(growth * sum(n * tokens[key] for key, n in course.tries.items())),
        cost=None if None in costs else growth * sum(c for c in costs if c is not None),
        ledger_bytes=round(course.calls.total() * growth * pilot.row_bytes) if pilot else None,
        image_bytes=round(images * growth * pilot.image_bytes) if pilot else None,
    )


# --- The check --------------------------------------------------------------------------------------------------------

MEDIANS = {"chat": 0.5, "images": 0.9}
SPREAD = 0.4
FAULTS = ("500", "429")
SHARE = 0.05
LIMITED = {"chat": {"requests_per_minute": 900}, "images": {"in_flight": 4}}
PILOT: tuple[int, dict[str, Any]] = (80, {"in_flight": 12, "workers": 12})
BUILDS: dict[str, tuple[int, dict[str, Any]]] = {
    "few_at_once": (60, {"in_flight": 8}),
    "rate_limited": (160, {"in_flight": 32, "limits": LIMITED}),
}
"""Sources, and settings of the flow."""


@dataclass
class Slow(Vendors):
    """Vendors whose answers take a lognormal time."""

    median: float = 0.5

    @asynccontextmanager
    async def answering(self, path: str) -> AsyncIterator[None]:
        """Take the time, then answer."""
        await asyncio.sleep(self.median * random.lognormvariate(0.0, SPREAD))
        async with super().answering(path):
            yield


@contextmanager
def servers() -> Iterator[None]:
    """One for words and one for pictures, each an endpoint; their addresses in the environment."""
    chat, images = (Slow(median=MEDIANS[name], faults=Faults(FAULTS, SHARE)) for name in ("chat", "images"))
    with running(chat) as chat_address, running(images) as images_address:
        os.environ.update(environment(chat_address) | {"REDAES_TEST_IMAGES_URL": f"{images_address}/v1"})
        yield


def small(sources: int, flow: dict[str, Any], seed: int) -> dict[str, Any]:
    """A build whose words and pictures come from two endpoints."""
    config = configuration(sources) | {"seed": seed}
    config["flow"] = config["flow"] | flow
    for name in ("instructor", "verifiers", "judges"):
        for plugin in config[name] if isinstance(config[name], list) else [config[name]]:
            plugin["init_args"]["endpoint"] = "chat"
    for plugin in config["editors"]:
        plugin["init_args"] |= {"endpoint": "images", "base_url": "$REDAES_TEST_IMAGES_URL"}
    return config


def built(place: Path, config: dict[str, Any]) -> tuple[Pilot, float]:
    """Build it; what its ledger tells, and the seconds of the whole command."""
    write_config(place, config)
    ran = redaes(place, "data", "build", "out", "--config", "data.yaml")
    return Pilot.read(place / "out.ledger", ran.seconds), ran.seconds


def totals(ledger: Path) -> list[Total]:
    """Sums of a ledger."""
    with Ledger.open_for_reading(ledger) as opened:
        return opened.totals()


def check(folder: Path, seed: int) -> dict[str, Any]:
    """A pilot, the predictions, the builds."""
    with servers():
        pilot, _ = built(folder / "pilot", small(PILOT[0], PILOT[1], seed))
        seen = totals(folder / "pilot" / "out.ledger")
        configs = {name: small(*of, k) for k, (name, of) in enumerate(BUILDS.items(), start=seed + 1)}
        predictions = {}
        for name, config in configs.items():
            write_config(folder / name, config)
            loaded = load_config(folder / name / "data.yaml")
            jobs = list(plan_jobs(create("sources", loaded.source).photographs(), loaded))
            predictions[name] = predict(loaded, jobs, len(jobs), pilot.tempo, pilot, seen)
            print(f"predicted {name}: {predictions[name]}", file=sys.stderr, flush=True)
        measured = {name: built(folder / name, config) for name, config in configs.items()}
    parts = {name: _beside(predictions[name], *measured[name]) for name in BUILDS}
    error = max(part[f"{what}_error"] for part in parts.values() for what in ("seconds", "calls"))
    return {
        "error_fraction": round(error, 4),
        "builds": parts,
        "pilot": {
            "sources": PILOT[0],
            "calls": pilot.calls.total(),
            "gap_s": round(pilot.tempo.gap, 4),
            "fixed_s": round(pilot.tempo.fixed, 2),
            "row_bytes": round(pilot.row_bytes),
            "image_bytes": round(pilot.image_bytes),
        },
    }


def _beside(predicted: Prediction, found: Pilot, seconds: float) -> dict[str, Any]:
    """A prediction and what was measured, each as [predicted, measured]."""
    bytes_found = (found.row_bytes * found.calls.total(), found.image_bytes * found.images)
    pairs = {
        "seconds": (predicted.seconds, seconds),
        "calls": (sum(predicted.calls.values()), found.calls.total()),
        "ledger_bytes": (predicted.ledger_bytes, bytes_found[0]),
        "image_bytes": (predicted.image_bytes, bytes_found[1]),
    }
    told: dict[str, Any] = {name: [round(a or 0, 1), round(b, 1)] for name, (a, b) in pairs.items()}
    told |= {f"{name}_error": round(abs((a or 0) / b - 1), 4) for name, (a, b) in pairs.items()}
    return told | {"calls_by_role": [predicted.calls, dict(sorted(found.calls.items()))]}


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="of the check: other sources, other answers")
    parser.add_argument("--config", default="paper/data.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as for `redaes data build`")
    parser.add_argument("--photographs", type=int, help="instead of those the source holds")
    parser.add_argument("--pilot", type=Path, help="a dataset built before; its ledger lies beside it")
    parser.add_argument("--latency", nargs="*", default=[], metavar="NAME=SECONDS", help="median, by role or plug-in")
    parser.add_argument("--spread", type=float, default=0.5, help="sigma of the lognormal latencies")
    parser.add_argument("--sample", type=int, default=4000, help="sources to simulate at most")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Predict, or check predictions; 0 if those are within 10 %."""
    options = _read_options()
    if options.check:
        logging.disable(logging.WARNING)  # nobody has a price for the models on loopback
        with tempfile.TemporaryDirectory() as folder:
            found = check(Path(folder), options.seed)
        print(json.dumps(found, indent=None if options.json else 1))
        return 0 if found["error_fraction"] <= 0.10 else 1
    try:
        config = load_config(resolve_config(options.config), options.set)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if options.photographs:
        photographs: Sequence[Photograph] = [Photograph(str(k), "") for k in range(options.photographs)]
    else:
        photographs = create("sources", config.source).photographs()
    pilot, seen = None, []
    medians = ASSUMED | {name: float(value) for name, _, value in (o.partition("=") for o in options.latency)}
    tempo = Tempo.assumed(Crew.from_config(config), config, medians, options.spread)
    if options.pilot:
        ledger = options.pilot.with_name(f"{options.pilot.name}.ledger")
        pilot, seen = Pilot.read(ledger), totals(ledger)
        tempo = replace(pilot.tempo, attempts={**tempo.attempts, **pilot.tempo.attempts})
    found = predict(config, list(plan_jobs(photographs, config)), options.sample, tempo, pilot, seen)._asdict()
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
