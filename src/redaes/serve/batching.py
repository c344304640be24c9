"""Images of many requests, given to one scorer several at a time.

While the scorer is busy, what arrives waits; when it is free, it takes one image of each waiting request in turn until
the batch is full. So a request of many images delays others by no more than its share, and the batch grows with the
load by itself: at light load an image goes in at once and alone. An idle scorer waits only for images that are being
decoded at that moment, and no longer than `gather_ms`. Waiting for requests that may yet come was simulated and gains
nothing: at 70 % of the capacity the scorer is hardly ever idle.

A batch that fails is asked again image by image, so that only the culprit's request fails.
"""

import asyncio
import logging
import math
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redaes.redaction import redact
from redaes.serve.metrics import Metrics
from redaes.serve.problems import Problem

log = logging.getLogger("redaes.serve")


class Question(NamedTuple):
    """Something that a scorer is asked.

    Attributes:
        ask: turns a list of items into as many answers; called in one thread, never two at a time.
        most: items of one call.
    """

    ask: Callable[[list[Any]], Sequence[Any]]
    most: int


class ScorerFault(Exception):
    """The scorer failed on one item; what it said is in the log."""


@dataclass(eq=False)
class _Job:
    """What one request waits for."""

    question: str
    since: float
    answers: list[Any]
    done: asyncio.Future[None]
    left: deque[tuple[int, Any]] = field(default_factory=deque)
    missing: int = 0


class Batcher:
    """The queue before a scorer, and the thread in which it works.

    Args:
        questions: by name.
        gather: seconds to wait for what is being decoded.
        queue: most images inside.
        metrics: to count in.
    """

    def __init__(self, questions: dict[str, Question], *, gather: float, queue: int, metrics: Metrics) -> None:
        self.questions = questions
        self.gather, self.queue = gather, queue
        self.metrics = metrics
        self.inside = 0
        self.decoding = 0
        self.busy_since: float | None = None
        self._jobs: deque[_Job] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "redaes-scorer")
        self._last_seconds = 0.1

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Keep places for images of a request while the block runs.

        Raises:
            Problem: 503, there are not as many.
        """
        if self.inside + count > self.queue:
            batches = math.ceil(self.inside / max(question.most for question in self.questions.values()))
            wait = min(60, max(1, math.ceil(batches * self._last_seconds)))
            raise Problem(
                503, f"too many images are waiting; try again in {wait} s", headers={"Retry-After": str(wait)}
            )
        self._enter(count)
        try:
            yield
        finally:
            self._enter(-count)

    def _enter(self, count: int) -> None:
        self.inside += count
        self.metrics.inside.set(self.inside)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Say that a request's images are being decoded."""
        self.decoding += 1
        try:
            yield
        finally:
            self.decoding -= 1
            self._changed.set()

    async def ask(self, question: str, items: Sequence[Any]) -> list[Any]:
        """The scorer's answers to some items, in order; a `ScorerFault` where it failed.

        Args:
            question: a key of `questions`.
            items: what it is about; taken back where the caller is cancelled.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(
            question, loop.time(), [None] * len(items), loop.create_future(), deque(enumerate(items)), len(items)
        )
        self._jobs.append(job)
        self._count()
        self._changed.set()
        try:
            await job.done
        finally:
            job.left.clear()
            if job in self._jobs:
                self._jobs.remove(job)
                self._count()
        return job.answers

    async def run(self) -> None:
        """Give the scorer batches, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._something()
                question, batch = self._take()
                self.busy_since = loop.time()
                answers = await loop.run_in_executor(
                    self._thread, self._answers, question, [item for _, _, item in batch]
                )
                self._last_seconds = loop.time() - self.busy_since
                self.busy_since = None
                self._note(question, answers)
                for (job, index, _), answer in zip(batch, answers, strict=True):
                    job.answers[index] = answer
                    job.missing -= 1
                    if not job.missing and not job.done.done():
                        job.done.set_result(None)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _something(self) -> None:
        """Return once there is a batch to give, having waited a little for what is on its way."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            left = None
            if self._jobs:
                left = self._jobs[0].since + self.gather - loop.time()
                if not self.decoding or left <= 0 or self._waiting() >= self.questions[self._jobs[0].question].most:
                    return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _take(self) -> tuple[str, list[tuple[_Job, int, Any]]]:
        """One item of each waiting job in turn, all of the question that waits first."""
        question = self._jobs[0].question
        most = self.questions[question].most
        batch: list[tuple[_Job, int, Any]] = []
        others = []
        while self._jobs and len(batch) < most:
            job = self._jobs.popleft()
            if job.question != question:
                others.append(job)
                continue
            batch.append((job, *job.left.popleft()))
            if job.left:
                self._jobs.append(job)
        self._jobs.extendleft(reversed(others))
        self._count()
        return question, batch

    def _answers(self, question: str, items: list[Any]) -> list[Any]:
        """In the scorer's thread."""
        try:
            answers = list(self.questions[question].ask(items))
            if len(answers) != len(items):
                raise ValueError(f"the scorer gave {len(answers)} answers to {len(items)} questions")
            return answers
        except Exception as error:  # a plug-in's, whatever it is: the server outlives it
            if len(items) > 1:
                return [answer for item in items for answer in self._answers(question, [item])]
            log.error("the scorer failed on one item: %s", redact("".join(traceback.format_exception(error))))
            return [ScorerFault()]

    def _waiting(self) -> int:
        return sum(len(job.left) for job in self._jobs)

    def _count(self) -> None:
        self.metrics.waiting.set(self._waiting())

    def _note(self, question: str, answers: Sequence[Any]) -> None:
        self.metrics.batch_images.labels(question).observe(len(answers))
        self.metrics.batch_seconds.labels(question).observe(self._last_seconds)
        failed = sum(isinstance(answer, ScorerFault) for answer in answers)
        self.metrics.failures.inc(failed)
        unparsed = sum(getattr(answer, "status", "ok") == "unparsed" for answer in answers)
        self.metrics.unparsed.labels(question).inc(unparsed)
