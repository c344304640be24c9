"""A loopback server that speaks the vendors' protocols and counts what it answers.

    python -m benchmarks.vendors.server --port 0 --latency 0.05 --faults 429,reset --share 0.2

prints one line of JSON with its address and serves until it is told to stop. `GET /counts` says what was asked;
`GET /counts?questions=1` how often each question was answered well, which is how often it would have been paid for.
"""

import argparse
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from benchmarks.vendors import chat, gemini, images
from benchmarks.vendors.faults import TRANSPORT, WORDS, Faults
from benchmarks.vendors.images import PICTURES
from benchmarks.vendors.state import Vendors
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response


def create_app(vendors: Vendors) -> FastAPI:
    """The application with all vendors' endpoints."""
    app = FastAPI(openapi_url=None)
    for vendor in (chat, images, gemini):
        app.include_router(vendor.router(vendors))

    @app.get("/counts")
    async def counts(request: Request) -> Response:
        return JSONResponse(vendors.counts(questions="questions" in request.query_params))

    return app


def _server(vendors: Vendors, port: int) -> tuple[uvicorn.Server, socket.socket, str]:
    # The protocol by its number, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(1024)
    config = uvicorn.Config(
        create_app(vendors), log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config), listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def running(vendors: Vendors) -> Iterator[str]:
    """Serve from a thread of this process while the block runs; gives the address."""
    server, listening, address = _server(vendors, 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listening.close()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an answer takes")
    parser.add_argument("--key", default="", help="that clients must show")
    parser.add_argument("--structured", choices=("schema", "json", "none"), default="schema")
    parser.add_argument("--faults", default="", help="kinds, separated by commas; all: every one")
    parser.add_argument("--share", type=float, default=0.2, help="of the answers that are broken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=5.0, help="seconds of silence of a time-out")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds that 429_retry_after asks for")
    args = parser.parse_args()
    kinds = (*TRANSPORT, *WORDS, *PICTURES) if args.faults == "all" else tuple(filter(None, args.faults.split(",")))
    faults = Faults(kinds, args.share, args.seed, delay=args.delay, retry_after=args.retry_after)
    server, listening, address = _server(Vendors(args.latency, args.key, args.structured, faults), args.port)
    print(json.dumps({"address": address, "pid": os.getpid()}), flush=True)
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
