"""`redaes serve`: the HTTP endpoint, on this computer unless told otherwise."""

import signal
import socket
import sys
import warnings
from dataclasses import fields
from pathlib import Path

from redaes.errors import UserError


def serve(
    model: str = "nano",
    host: str = "127.0.0.1",
    port: int = 8000,
    scorer: str = "redaes",
    device: str | None = None,
    batch_size: int = 16,
    gather_ms: float = 5.0,
    queue: int = 256,
    timeout: float = 60.0,
    max_images: int = 64,
    max_body_mb: float = 64.0,
    max_megapixels: float = 89.0,
    decode_threads: int | None = None,
    cache: int = 0,
) -> int:
    """Serve scores, comparisons and rankings over HTTP until interrupted or terminated.

    POST /score, /rank and /compare take images as multipart/form-data or base64 in JSON; GET /health, /ready, /metrics
    and /openapi.json. If REDAES_SERVE_TOKEN is set, clients must show it as a bearer token. SIGTERM lets what was
    accepted be answered, and then ends with exit code 0. A gray image is scored first, so that a model that cannot be
    opened, or a wrong key, is told before anybody asks.

    Args:
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        host: address to listen at; 0.0.0.0 is every one of this computer.
        port: to listen at; 0 takes any that is free, and says which.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        batch_size: most images, of all requests, that the model is given at once.
        gather_ms: milliseconds that an idle model waits for images that are being decoded at this moment.
        queue: images of all requests that may be inside; beyond it the answer is 503.
        timeout: seconds for an upload, and again for its answer.
        max_images: images in one request.
        max_body_mb: size of a request's body, in MiB.
        max_megapixels: an image with more is refused undecoded.
        decode_threads: images decoded at the same time. Default: as many as there are processors, at most 4.
        cache: answers that are kept and given again to the same images; 0 keeps none.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a setting that cannot be, an address that is taken, a model that cannot be loaded.
    """
    given = locals()
    try:
        import python_multipart  # noqa: F401  starlette imports it when the first form comes
        import uvicorn

        from redaes.serve.app import create_app
    except ModuleNotFoundError as error:
        raise UserError(f"redaes serve needs {error.name}; pip install 'redaes[serve]'") from error
    from PIL import Image

    from redaes.inference.listing import fingerprint, load_scorer
    from redaes.serve.settings import Settings, token_from_environment

    chosen = {f.name: given[f.name] for f in fields(Settings) if given[f.name] is not None}
    settings, token = Settings(**chosen), token_from_environment()
    listening = _listen(host, port)
    loaded = load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them is an answer of 422
    # The first answer is slower, and some open their weights, or show their key, only then.
    loaded.score([Image.new("RGB", (64, 64), "gray")])
    # Of a folder the last name: clients are told no paths.
    name = getattr(loaded, "fingerprint", "") or fingerprint(
        Path(model).name if Path(model).is_dir() else model, scorer
    )
    app = create_app(loaded, settings, model=name, token=token)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than a proxy keeps an idle connection, so that it is the one that closes it
        timeout_graceful_shutdown=int(2 * settings.timeout) + 5,  # an upload and its answer
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has ended: no failure
    listening.listen(config.backlog)  # so that who reads the address can connect
    address, taken = listening.getsockname()[:2]
    print(f"{name} is served at http://{f'[{address}]' if ':' in address else address}:{taken}", flush=True)
    if token is None and not address.startswith("127.") and address != "::1":
        print("anybody who reaches this address may use it; REDAES_SERVE_TOKEN asks for a token", file=sys.stderr)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound before the model is loaded, so that a taken port is known at once."""
    if not 0 <= port < 1 << 16:  # getaddrinfo takes its remainder
        raise UserError(f"--port is {port}; it must be at least 0 and at most {(1 << 16) - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With its protocol, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot listen at {host}:{port}: {reason}; choose another --host or --port") from error
    return listening
