"""What goes on, for Prometheus."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        ProcessCollector(registry=self.registry)
        self.requests = Counter("redaes_requests", "answered requests", ["path", "status"], **own)
        self.seconds = Histogram(
            "redaes_request_seconds", "from first byte to answer", ["path"], buckets=_SECONDS, **own
        )
        self.batch_images = Histogram(
            "redaes_batch_images", "images or pairs given to the scorer at once", ["question"], buckets=_IMAGES, **own
        )
        self.batch_seconds = Histogram(
            "redaes_batch_seconds", "that the scorer took for a batch", ["question"], buckets=_SECONDS, **own
        )
        self.inside = Gauge("redaes_images_inside", "images being uploaded, decoded, waiting or scored", **own)
        self.waiting = Gauge("redaes_queue_images", "decoded images or pairs that wait for the scorer", **own)
        self.unparsed = Counter("redaes_unparsed", "answers of the model without a number", ["question"], **own)
        self.failures = Counter("redaes_scorer_failures", "images or pairs that the scorer failed on", **own)
        self.refused_images = Counter("redaes_refused_images", "images that could not be decoded", **own)
        self.cached = Counter("redaes_cached_answers", "answers given from the cache", **own)


class CountRequests:
    """Middleware that counts requests and their seconds, by path of the schema; any other path is `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)
