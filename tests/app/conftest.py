"""Photographs good and bad, a dataset and a run to look at."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.a_finished_run import write_run

from redaes.app.uploads import Upload
from redaes.inference.scorer import Scorer
from redaes.sources.skimage_photos import SkimagePhotos


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    return Scorer("nano")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs as cameras make them, one with a name that would like to be more than a name."""
    folder = tmp_path_factory.mktemp("good")
    photos = SkimagePhotos()
    names = {
        "coffee": "coffee.jpg",
        "rocket": "rocket.png",
        "chelsea": "${1+1} {{value}} <img src=x onerror=alert(1)>.webp",
    }
    for name, file in names.items():
        photos.open(name).save(folder / file)
    return [folder / file for file in names.values()]


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that are no photographs, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    whole = folder / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(whole)
    files = {
        "text": (folder / "notes.jpg", b"dear diary"),
        "truncated": (folder / "cut.jpg", whole.read_bytes()[:4000]),
        "empty": (folder / "nothing.png", b""),
        "drawing": (folder / "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        "program": (folder / "page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"),
    }
    for path, data in files.values():
        path.write_bytes(data)
    bomb = folder / "bomb.png"
    Image.new("1", (12_000, 12_000)).save(bomb)
    huge = folder / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(300 << 20)
    return {name: path for name, (path, _) in files.items()} | {"bomb": bomb, "huge": huge}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its dataset."""
    return write_run(tmp_path_factory.mktemp("run"))


def uploads(*paths: Path) -> list[Upload]:
    return [Upload(str(path), path.name) for path in paths]


class Served(NamedTuple):
    """The page as it is served: where, and where its uploads lie."""

    address: str
    uploads: Path


@pytest.fixture(scope="session")
def served(scorer: Scorer, run: Path) -> Iterator[Served]:
    """The page on this computer, with a dataset and a run."""
    pytest.importorskip("gradio")
    from redaes.app.server import serving

    with serving(scorer, port=free_port(), data=run / "data", run=run) as address:
        yield Served(address.rstrip("/"), Path(os.environ["GRADIO_TEMP_DIR"]))


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
