"""A build of the data engine in simulated time: what it asks, and when it is done.

Nothing of the engine is written a second time. The walk through a source is `redaes.engine.stages`, asked of a source
whose answers are drawn by chance; who may ask when is `redaes.engine.limits.Admission`, which is told the time; waits
between tries are `redaes.engine.calling.backoff`; the plan, the workers and the lines are those of a build. Simulated
are only the answers, how long they take, and the clock. Not simulated: the time that computing takes where processor,
disk or network are the limit, that an endpoint may answer more slowly the more it is asked, and that models in the
engine's own process answer one at a time: give those `in_flight: 1`.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from redaes.calls import Role
from redaes.engine.build import choose_runner
from redaes.engine.calling import backoff
from redaes.engine.config import EngineConfig
from redaes.engine.expectation import Rates
from redaes.engine.limits import Admission, Outcome, Request
from redaes.engine.lines import Line
from redaes.engine.objects import Picture
from redaes.engine.plan import Job
from redaes.engine.prices import PriceTable
from redaes.engine.runners import ProcessRunner, ThreadRunner
from redaes.engine.segments import Position, Segments
from redaes.engine.stages import (
    Crew,
    Scene,
    ask_the_rest,
    first_better,
    group_candidates,
    kept_variants,
    pair_candidates,
    score_source,
    shuffled,
)
from redaes.engine.work import SourceResult
from redaes.records import Edit, Instruction, Verdict, Verification

Asked = tuple[str, str]
"""Role and plug-in."""


@dataclass(frozen=True)
class Outcomes:
    """How answers turn out.

    Attributes:
        edit_success: share of edits that the verifiers let pass.
        settled: share of edits that the first verifier alone fails.
        better: chance that the k-th judge says "better" where all before have; judges of one image are not independent.
        worse: likewise for "worse".
    """

    edit_success: float
    settled: float
    better: tuple[float, ...]
    worse: tuple[float, ...]

    @classmethod
    def expected(cls, rates: Rates, judges: int) -> Self:
        """Of judges who are independent."""
        return cls(rates.edit_success, rates.settled, (rates.better,) * judges, (1 - rates.better,) * judges)

    @classmethod
    def seen(cls, edits: Sequence[Edit], otherwise: "Outcomes", verifiers: int) -> Self:
        """As they were in a build, lazy or eager; `otherwise` where it has not met the case."""
        verified = [edit for edit in edits if edit.passed is not None]
        alone = [edit for edit in verified if verifiers > 1 and len(edit.verifications) == 1]
        better, worse = (
            tuple(_goes_on(edits, sign, k, chances[k]) for k in range(len(chances)))
            for sign, chances in ((1, otherwise.better), (-1, otherwise.worse))
        )
        if not verified:
            return cls(otherwise.edit_success, otherwise.settled, better, worse)
        passed = sum(bool(edit.passed) for edit in verified)
        return cls(passed / len(verified), len(alone) / len(verified), better, worse)


def _goes_on(edits: Iterable[Edit], sign: int, k: int, otherwise: float) -> float:
    """How often judge `k` said what all before him had."""
    signs = [[v.value * sign > 0 for v in edit.verdicts] for edit in edits if len(edit.verdicts) > k]
    agreed = [said[k] for said in signs if all(said[:k])]
    return sum(agreed) / len(agreed) if agreed else otherwise


class Drawn:
    """Answers about one source, drawn by chance, and the questions in their order; stands where `Asking` does."""

    def __init__(self, outcomes: Outcomes, config: EngineConfig, rng: random.Random) -> None:
        self.questions: list[Asked] = []
        self._outcomes, self._config, self._rng = outcomes, config, rng
        self._fails: dict[str, float | None] = {}
        self._signs: dict[str, list[int]] = {}

    def score(self, judge: Any, image: Picture) -> Verdict:
        """Any."""
        self.questions.append(("score", judge.name))
        return Verdict(judge=judge.name, value=5.0, reasoning="")

    def instruct(self, instructor: Any, image: Picture, seed: int) -> Instruction:
        """Any."""
        self.questions.append(("instruct", instructor.name))
        return _ANY

    def diversify(self, instructor: Any, image: Picture, count: int, seed: int) -> list[Instruction]:
        """Any."""
        self.questions.append(("diversify", instructor.name))
        return [_ANY] * count

    def edit(self, editor: Any, image: Picture, instruction: Instruction, seed: int) -> Picture:
        """Another picture every time."""
        self.questions.append(("edit", editor.name))
        return Picture(image.image, str(len(self.questions)))

    def verify(self, verifier: Any, source: Picture, edited: Picture, instruction: Instruction) -> Verification:
        """High, hopeless at once, or so low that only the last verifier settles it."""
        self.questions.append(("verify", verifier.name))
        if edited.sha not in self._fails:
            drawn, failing = self._rng.random(), 1 - self._outcomes.edit_success
            self._fails[edited.sha] = None if drawn >= failing else float(drawn >= self._outcomes.settled)
        low = self._fails[edited.sha]
        value = 10.0 if low is None else low * (self._config.verification.threshold - 0.01)
        return Verification(verifier=verifier.name, success=max(value, 0.0), over_editing=10.0)

    def compare(self, judge: Any, source: Picture, edited: Picture) -> Verdict:
        """Better or worse, with the chance that belongs to what the others have said."""
        self.questions.append(("compare", judge.name))
        said = self._signs.setdefault(edited.sha, [])
        k = len(said)
        if k and set(said) == {-1}:
            sign = -1 if self._rng.random() < self._outcomes.worse[k] else 1
        else:
            united = k if set(said) <= {1} else 0
            sign = 1 if self._rng.random() < self._outcomes.better[united] else -1
        said.append(sign)
        return Verdict(judge=judge.name, value=float(sign), reasoning="")


_ANY = Instruction(text="Anything.", category="exposure", orientation="quality")


class Attempt(NamedTuple):
    """How long one try took, and how it ended."""

    seconds: float
    ended: Literal["ok", "transient", "unusable"] = "ok"


@dataclass(frozen=True)
class Tempo:
    """How long things take.

    Attributes:
        attempts: tries to draw from, by role and plug-in.
        gap: seconds between two questions of a source: the ledger's commit, encoding.
        fixed: seconds of the whole command beside its questions.
    """

    attempts: Mapping[Asked, Sequence[Attempt]]
    gap: float = 0.0
    fixed: float = 0.0

    @classmethod
    def assumed(cls, crew: Crew, config: EngineConfig, medians: Mapping[str, float], spread: float) -> Self:
        """Lognormal times with these medians by plug-in's name, else by role; every try is answered."""
        rng = random.Random(0)
        shapes = [rng.lognormvariate(0.0, spread) for _ in range(4096)]
        asked = [(role, member.plugin.name) for member in crew.members(config) for role in member.roles]
        return cls({key: [Attempt(medians.get(key[1], medians[key[0]]) * s) for s in shapes] for key in asked})


@dataclass(frozen=True)
class Pilot:
    """What the ledger of a small build tells.

    Attributes:
        edits: all.
        tempo: its times; the gap is meaningful only if every worker could always ask (`workers` = `in_flight`).
        seconds: from the first question to the last answer.
        calls: tries by role.
        row_bytes: of the ledger's database and segments together, a call.
        image_bytes: of an image it keeps.
        images: it keeps.
    """

    edits: list[Edit]
    tempo: Tempo
    seconds: float
    calls: Counter[str]
    row_bytes: float
    image_bytes: float
    images: int

    @classmethod
    def read(cls, ledger: Path, command_seconds: float = 0.0) -> Self:
        """Read the ledger of a build that is over.

        Args:
            ledger: its folder.
            command_seconds: that the whole command took.
        """
        lines = [line.fields for line in Segments(ledger / "segments").read(Position(1, 0)) if line.fields]
        calls = sorted((f for f in lines if f["kind"] == "call"), key=lambda f: f["at"])
        results = [SourceResult.model_validate_json(f["text"]) for f in lines if f["kind"] == "result"]
        attempts: dict[Asked, list[Attempt]] = {}
        gaps: list[float] = []
        before: dict[str, dict[str, Any]] = {}
        for call in calls:
            # A failed try that brought no words was one of transport.
            failed: Literal["transient", "unusable"] = "unusable" if call["replies"] != "[]" else "transient"
            ended = "ok" if call["status"] == "ok" else failed
            attempts.setdefault((call["role"], call["plugin"]), []).append(Attempt(call["latency"], ended))
            last = before.get(call["source"])
            if last and last["status"] == "ok":
                gaps.append(call["at"] - last["at"] - last["latency"])
            before[call["source"]] = call
        seconds = max(c["at"] + c["latency"] for c in calls) - calls[0]["at"]
        files = [*ledger.glob("ledger.sqlite*"), *(ledger / "segments").iterdir()]
        images = [path.stat().st_size for path in (ledger / "objects").rglob("*.png")]
        return cls(
            edits=[edit for result in results for edit in result.edits],
            tempo=Tempo(attempts, sum(gaps) / len(gaps), max(command_seconds - seconds, 0.0)),
            seconds=seconds,
            calls=Counter(c["role"] for c in calls),
            row_bytes=sum(path.stat().st_size for path in files) / len(calls),
            image_bytes=sum(images) / len(images),
            images=len(images),
        )


@dataclass
class Course:
    """How a simulated build went.

    Attributes:
        seconds: from its first question to its end.
        tries: by role and plug-in, failed ones included.
        busy: seconds that its calls took, by endpoint; over `seconds` it is how many were in flight on average.
        sources: worked on; `incomplete` of them were given up.
        images: made.
    """

    seconds: float = 0.0
    tries: Counter[Asked] = field(default_factory=Counter)
    busy: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sources: int = 0
    incomplete: int = 0
    images: int = 0

    @property
    def calls(self) -> Counter[str]:
        """Tries by role."""
        found: Counter[str] = Counter()
        for (role, _), count in self.tries.items():
            found[role] += count
        return found


class Simulation:
    """A build in simulated time.

    Args:
        config: of the build.
        crew: its plug-ins, which are never asked.
        outcomes: of its questions.
        tempo: of its answers.
        tokens: of an answered call, read and written, by role and plug-in.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        config: EngineConfig,
        crew: Crew,
        outcomes: Outcomes,
        tempo: Tempo,
        tokens: Mapping[Asked, float],
        seed: int = 0,
    ) -> None:
        self.config, self.crew, self.outcomes, self.tempo, self.tokens = config, crew, outcomes, tempo, tokens
        self.course = Course()
        self._rng = random.Random(seed)
        self._lines = _lines(config, crew)
        self._admission = Admission(config.flow.in_flight, config.flow.limits, config.flow.retries)
        self._now, self._serial = 0.0, 0
        self._asleep: list[tuple[float, int, Process]] = []
        self._waiting: dict[int, Process] = {}

    def run(self, jobs: Iterable[Job]) -> Course:
        """Work on these sources.

        Raises:
            SystemExit: the build would have stopped.
        """
        left = iter(jobs)
        runner = choose_runner(self.config, self.crew)
        assert isinstance(runner, ThreadRunner | ProcessRunner)
        for _ in range(runner.workers):
            self._step(self._work(left))
        while True:
            while admitted := self._admission.admit(self._now):
                for request in admitted:
                    self._step(self._waiting.pop(id(request)))
            if self._admission.stopped:
                raise SystemExit(f"the build would stop: {self._admission.stopped}")
            times = [ready for _, ready in self._admission.heads(self._now)]
            self._now = min([*times, *(sleeper[0] for sleeper in self._asleep[:1])], default=float("inf"))
            if self._now == float("inf"):
                return self.course
            while self._asleep and self._asleep[0][0] <= self._now:
                self._step(heappop(self._asleep)[2])

    def _step(self, process: "Process") -> None:
        """Let a process go on until it sleeps, or waits for its turn."""
        for item in process:
            if isinstance(item, Request):
                self._admission.queue(item)
                self._waiting[id(item)] = process
            else:
                self._serial += 1
                heappush(self._asleep, (self._now + item, self._serial, process))
            return

    def _work(self, jobs: Iterable[Job]) -> "Process":
        """One worker: a source after the other."""
        for job in jobs:
            self.course.sources += 1
            for question in self._questions(job):
                if not (yield from self._ask(self._lines[question])):
                    self.course.incomplete += 1
                    break
                yield self.tempo.gap
            self.course.seconds = self._now

    def _questions(self, job: Job) -> list[Asked]:
        """All that is asked about a source, in order, as `redaes.engine.work.work_on` goes."""
        config = self.config
        drawn = Drawn(self.outcomes, config, self._rng)
        scene = Scene(job.source, Picture(None, ""), self.crew, config, drawn)  # type: ignore[arg-type]
        score_source(scene)
        for_pair = pair_candidates(scene) if job.pair else []
        for_group = group_candidates(scene) if job.group else []
        if job.pair:
            first_better(shuffled(for_pair, job.source.id, config.seed), config.min_passing)
        kept_variants(for_group, config.groups.min_variants, config.groups.max_variants)
        if config.mode == "eager":
            ask_the_rest(for_pair, for_group, config.min_passing)
        return drawn.questions

    def _ask(self, line: Line) -> "Process":
        """One question, until it is answered or given up."""
        asked, retries = (line.role, line.plugin), self.config.flow.retries
        failed: Counter[str] = Counter()
        while failed["transient"] <= retries.transient and failed["unusable"] <= retries.unusable:
            attempt = self._rng.choice(self.tempo.attempts[asked])
            request = Request(line.endpoint, line.label, line.tokens)
            if line.endpoint:
                yield request
            yield attempt.seconds
            transient = attempt.ended == "transient"
            if line.endpoint:
                tokens = 0 if transient else round(self.tokens[asked])
                outcome = Outcome.FAILED if transient else Outcome.ANSWERED
                self._admission.settle(request, self._now, outcome, tokens)
            self.course.tries[asked] += 1
            self.course.busy[line.endpoint] += attempt.seconds
            if attempt.ended == "ok":
                self.course.images += line.role == "edit"
                return True
            failed[attempt.ended] += 1
            if transient:
                yield backoff(failed["transient"], retries, rng=self._rng)
        return False


Process = Generator[Request | float, None, Any]


def _lines(config: EngineConfig, crew: Crew) -> dict[Asked, Line]:
    prices = PriceTable(config.flow.prices)
    members: list[tuple[Role, Any]] = [(role, m.plugin) for m in crew.members(config) for role in m.roles]
    return {
        (role, plugin.name): Line.of(
            role, plugin, plugin.identity(role) if hasattr(plugin, "identity") else {}, config.flow, prices
        )
        for role, plugin in members
    }
