"""The application: which paths there are, and what happens to a request on its way.

    app = create_app(Scorer("nano"), Settings(), model="nano")        # then: uvicorn, or any ASGI server

A request is let in while there are places, read within limits, decoded, batched with others, and answered. One that
takes too long, or whose client has gone, gives its places back and takes its images out of the queue.
"""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

import redaes
from redaes.data.images import VIEW_SIDE
from redaes.inference import ComparerProtocol, Difference, Score, ScorerProtocol, ranked
from redaes.serve import problems, schema
from redaes.serve.batching import Batcher, Question, ScorerFault
from redaes.serve.metrics import CountRequests, Metrics
from redaes.serve.problems import CLIENT_GONE, ImageFault, Problem, responses
from redaes.serve.settings import Settings
from redaes.serve.uploads import Upload, Uploads

T = TypeVar("T")


def create_app(
    scorer: ScorerProtocol, settings: Settings | None = None, *, model: str, token: str | None = None
) -> FastAPI:
    """The endpoint over one scorer.

    Args:
        scorer: asked from one thread, never twice at a time. One that has `compare_pairs` also serves `/compare`.
        settings: limits and batching; None: the defaults.
        model: what answers name as the model.
        token: that clients must show as a bearer token; None: none is asked for.
    """
    desk = Desk(scorer, settings or Settings())
    app = FastAPI(
        title="redaes",
        version=redaes.__version__,
        summary="Image aesthetics: scores with reasons, comparisons, rankings.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=desk.running,
    )
    problems.install(app)
    app.add_middleware(CountRequests, metrics=desk.metrics)
    guards = [Depends(_bearer(token))] if token else []
    _add_questions(app, desk, model, guards)
    _add_state(app, desk, model, guards)
    problems.describe(app)
    return app


class Desk:
    """What all requests share: the queue, the decoding threads, the cache, the figures.

    Args:
        scorer: the one served.
        settings: limits and batching.
    """

    def __init__(self, scorer: ScorerProtocol, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        size = settings.batch_size
        questions = {"score": Question(lambda images: _checked(scorer.score(images), 0.0), size)}
        if isinstance(scorer, ComparerProtocol):
            # A pair is as much work as four images: two, asked in both orders.
            questions["compare"] = Question(
                lambda pairs: _checked(scorer.compare_pairs(pairs), -10.0), max(1, size // 4)
            )
        self.uploads = Uploads(settings, view_side=getattr(scorer, "view_side", VIEW_SIDE))
        self.batcher = Batcher(
            questions,
            gather=settings.gather_ms / 1000,
            queue=settings.queue,
            metrics=self.metrics,
        )
        self.cache: OrderedDict[tuple[str, ...], Any] = OrderedDict()

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Answer what is asked while the block runs; the lifespan of the application."""
        task = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.uploads.threads.shutdown(wait=False, cancel_futures=True)

    async def scores(self, request: Request) -> tuple[list[Upload], list[Score]]:
        """The images of a request and a score of each."""

        async def work(uploads: list[Upload]) -> list[Score]:
            return await self._answers("score", [(upload,) for upload in uploads])

        return await self._served(request, work)

    async def difference(self, request: Request) -> Difference:
        """By how much the second of two images is better."""

        async def work(uploads: list[Upload]) -> Difference:
            if len(uploads) != 2:
                raise Problem(422, f"a comparison is of 2 images; there are {len(uploads)}")
            answers: list[Difference] = await self._answers("compare", [tuple(uploads)])
            return answers[0]

        return (await self._served(request, work))[1]

    async def _served(
        self, request: Request, work: Callable[[list[Upload]], Coroutine[Any, Any, T]]
    ) -> tuple[list[Upload], T]:
        with self.batcher.places(1), self.uploads.body(request) as body:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    uploads = await body.images()
            except TimeoutError as error:
                raise Problem(408, f"the upload took longer than {self.settings.timeout:g} s") from error
            except ClientDisconnect as error:
                raise Problem(CLIENT_GONE, "the client has gone") from error
            with self.batcher.places(len(uploads) - 1):
                return uploads, await self._in_time(request, work(uploads))

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """Do the work unless it takes too long or the client goes."""
        doing, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({doing, gone}, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            if gone.done():
                raise Problem(CLIENT_GONE, "the client has gone")
            raise Problem(504, f"not answered within {self.settings.timeout:g} s")
        finally:
            doing.cancel()
            gone.cancel()

    async def _answers(self, question: str, items: Sequence[tuple[Upload, ...]]) -> list[Any]:
        """Answers to questions about one image or several each, from the cache or the scorer."""
        keys = [_key(question, item) if self.settings.cache else () for item in items]
        known = {key: self.cache[key] for key in keys if key in self.cache}
        self.metrics.cached.inc(sum(key in known for key in keys))
        new = [item for key, item in zip(keys, items, strict=True) if key not in known]
        with self.batcher.expected():
            images = iter(await self._decoded([upload for item in new for upload in item]))
        pictures = [tuple(next(images) for _ in item) for item in new]
        asked = iter(await self.batcher.ask(question, [p if len(p) > 1 else p[0] for p in pictures]))
        answers = [known[key] if key in known else next(asked) for key in keys]
        self._refuse_faults(items, answers)
        self._keep(keys, answers)
        return answers

    async def _decoded(self, uploads: list[Upload]) -> list[Any]:
        try:
            return await self.uploads.decode(uploads)
        except Problem as problem:
            self.metrics.refused_images.inc(len(problem.images))
            raise

    def _refuse_faults(self, items: Sequence[tuple[Upload, ...]], answers: Sequence[Any]) -> None:
        asked = [(upload, answer) for item, answer in zip(items, answers, strict=True) for upload in item]
        faults = [
            ImageFault(index=index, name=upload.name, reason="made the scorer fail")
            for index, (upload, answer) in enumerate(asked)
            if isinstance(answer, ScorerFault)
        ]
        if faults:
            raise Problem(500, "the scorer failed; the server's log says why", faults)

    def _keep(self, keys: Sequence[tuple[str, ...]], answers: Sequence[Any]) -> None:
        for key, answer in zip(keys, answers, strict=True) if self.settings.cache else ():
            self.cache[key] = answer
            self.cache.move_to_end(key)
            if len(self.cache) > self.settings.cache:
                self.cache.popitem(last=False)


def _add_questions(app: FastAPI, desk: Desk, model: str, guards: list[Any]) -> None:
    most = desk.settings.max_images
    refusals = responses(400, *([401] if guards else []), 408, 413, 415, 422, 500, 503, 504)

    @app.post("/score", responses=refusals, openapi_extra=schema.body(1, most), dependencies=guards)
    async def score(request: Request) -> schema.Scores:
        """Score images, each seen alone."""
        pairs = zip(*await desk.scores(request), strict=True)
        rows = [schema.ImageScore.of(index, upload.name, score) for index, (upload, score) in enumerate(pairs)]
        return schema.Scores(model=model, scores=rows)

    @app.post("/rank", responses=refusals, openapi_extra=schema.body(1, most), dependencies=guards)
    async def rank(request: Request) -> schema.Ranking:
        """Score images and list them best first."""
        uploads, scores = await desk.scores(request)
        places = [(place.index, uploads[place.index].name, place.score) for place in ranked(scores)]
        return schema.Ranking(model=model, ranking=[schema.ImageScore.of(*place) for place in places])

    @app.post("/compare", responses=refusals | responses(501), openapi_extra=schema.body(2, 2), dependencies=guards)
    async def compare(request: Request) -> schema.Comparison:
        """Say which of two images is better, and by how much, from both seen together."""
        if "compare" not in desk.batcher.questions:
            raise Problem(501, "this scorer cannot compare two images; rank them")
        return schema.Comparison.of(model, await desk.difference(request))


def _add_state(app: FastAPI, desk: Desk, model: str, guards: list[Any]) -> None:
    @app.get("/health", responses=responses(503))
    async def health() -> schema.State:
        """Whether the server is alive: 503 if the scorer has been at one batch for more than twice the time-out."""
        began = desk.batcher.busy_since
        if began is not None and asyncio.get_running_loop().time() - began > 2 * desk.settings.timeout:
            raise Problem(503, "the scorer does not come back")
        return schema.State(model=model)

    @app.get("/ready", responses=responses(503))
    async def ready() -> schema.State:
        """Whether a request would be let in now."""
        with desk.batcher.places(1):
            return schema.State(model=model)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    described = {200: text, **(responses(401) if guards else {})}

    @app.get("/metrics", dependencies=guards, response_class=PlainTextResponse, responses=described)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(desk.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _bearer(token: str) -> Any:
    scheme = HTTPBearer(auto_error=False)

    async def required(shown: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]) -> None:
        if shown is None or not hmac.compare_digest(shown.credentials.encode(), token.encode()):
            raise Problem(401, "show the bearer token", headers={"WWW-Authenticate": "Bearer"})

    return required


def _checked(answers: Sequence[T], least: float) -> Sequence[T]:
    """The answers of a scorer, which may be anybody's.

    Raises:
        ValueError: one is no number of the scale.
    """
    for answer in answers:
        value = answer.value  # type: ignore[attr-defined]
        if value is not None and not least <= value <= 10.0:
            raise ValueError(f"the scorer answered {value!r}, which is not in [{least:g}, 10]")
    return answers


def _key(question: str, item: Sequence[Upload]) -> tuple[str, ...]:
    return (question, *(hashlib.sha256(upload.data).hexdigest() for upload in item))


async def _disconnected(request: Request) -> None:
    """Return once the client has gone; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
