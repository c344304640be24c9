"""Serves the page on 127.0.0.1, and nothing but it: no other machine, no other file, no request to anywhere else.

Gradio can fetch addresses, serve files that a page names, and record runs; here a guard in front of it lets through
what the page needs. The browser is told by a content security policy to load from nowhere else.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redaes.app.uploads import MOST_BYTES
from redaes.errors import UserError
from redaes.registry import optional

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from redaes.inference.scorer import Scorer

HOST = "127.0.0.1"
LARGEST_UPLOAD = 2 * MOST_BYTES
"""Bytes of one file that the server takes in at all; from `MOST_BYTES` the page refuses it by name."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_NEEDED = (
    "/assets/", "/static/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/startup-events",
    "/gradio_api/upload", "/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/app_id",
)  # fmt: skip
_FILE = "/gradio_api/file="


class Guard:
    """What stands before Gradio: requests that the page does not make, and files outside the uploads, end here.

    So do requests of pages from elsewhere: a browser would send their forms here too.

    Args:
        app: what is guarded.
        uploads: the only folder whose files are served.
    """

    def __init__(self, app: Any, uploads: Path) -> None:
        self.app = app
        self.uploads = uploads.resolve()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 404 or pass on; answers carry the content security policy."""
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        if scope["type"] == "http" and not (_from_here(Headers(scope=scope)) and self.lets_through(scope["path"])):
            await PlainTextResponse("Not here.", status_code=404)(scope, receive, with_policy)
        else:
            await self.app(scope, receive, with_policy)

    def lets_through(self, path: str) -> bool:
        """Whether the page needs this path; of files, only those that lie in the uploads once links are followed."""
        if path.startswith(_FILE):
            try:
                return Path(path.removeprefix(_FILE)).resolve().is_relative_to(self.uploads)
            except (OSError, ValueError):
                return False
        return path == "/" or path.startswith(_NEEDED)


def _from_here(headers: "Headers") -> bool:
    """Whether the page itself asks, or a program that is no browser."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


@contextmanager
def serving(scorer: "Scorer", *, port: int, data: Path | None = None, run: Path | None = None) -> "Iterator[str]":
    """The page, served for as long as the context lasts. Uploads are deleted at its end.

    Args:
        scorer: answers the questions.
        port: on this computer.
        data: a dataset to browse.
        run: a run to look at.

    Yields:
        The address.

    Raises:
        UserError: the port is taken, Gradio is not installed, no dataset or no run where one was named.
    """
    with TemporaryDirectory(prefix="redaes-app-") as folder, _environment(Path(folder)):
        optional("gradio")
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from redaes.app.blocks import page
        from redaes.app.pages import head
        from redaes.app.style import theme

        made = page(scorer, data, run)
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        guards = [hosts, Middleware(Guard, uploads=Path(folder))]
        try:
            _, address, _ = made.launch(
                server_name=HOST, server_port=port, max_file_size=LARGEST_UPLOAD, prevent_thread_lock=True, quiet=True,
                share=False, ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, run_history=False,
                footer_links=[], theme=theme(), head=head(),
                app_kwargs={"middleware": guards, "openapi_url": None},
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"port {port} is taken; choose another with --port") from error
        try:
            yield address
        finally:
            made.close(verbose=False)


@contextmanager
def _environment(folder: Path) -> "Iterator[None]":
    """What Gradio reads from the environment: a folder of our own for uploads, and nothing told to anybody."""
    settings = {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait() -> None:
    """Until somebody presses Ctrl-C, closes the terminal or ends the process: uploads are deleted after each."""
    ended = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda *_: ended.set())
    ended.wait()
