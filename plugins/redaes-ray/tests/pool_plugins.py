"""Plug-ins that write down which process they were asked in; workers of a cluster import them from this folder."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks import _worlds
from redaes.calls import Transient, note
from redaes.errors import UserError
from redaes.records import Instruction, Verdict

_lock = threading.Lock()
_busy: list[str] = []


class Watched:
    """What both below share.

    Args:
        folder: for a file of each plug-in, one line a question: process, its title, questions it has at the moment. A
            file `poison` there holds the first bytes of a picture, in hexadecimal, at which the process ends.
        settings: as of the world.
    """

    name: str

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder = Path(folder)

    @contextmanager
    def watch(self, image: Image.Image) -> Iterator[None]:
        """From the beginning of a question to its end."""
        poison = self.folder / "poison"
        with _lock:
            _busy.append(self.name)
            title = psutil.Process().cmdline()[0].split(".")[0]
            with (self.folder / self.name).open("a") as file:
                file.write(f"{os.getpid()} {title} {_busy.count(self.name)}\n")
            if poison.is_file() and image.tobytes()[:16].hex() == poison.read_text():
                with (self.folder / "deaths").open("a") as file:
                    file.write(f"{os.getpid()} {_busy.count(self.name)}\n")
                os._exit(11)
        try:
            yield
        finally:
            with _lock:
                _busy.remove(self.name)


class Judge(Watched, _worlds.Judge):
    """A judge of the world."""

    def score(self, image: Image.Image) -> Verdict:
        """As the world's."""
        with self.watch(image):
            return super().score(image)


class Editor(Watched, _worlds.Editor):
    """An editor of the world."""

    def edit(self, image: Image.Image, instruction: Instruction, seed: int) -> Image.Image:
        """As the world's."""
        with self.watch(image):
            return super().edit(image, instruction, seed)


class LocalJudge:
    """Says which GPUs it sees, in which process; or fails as it is told.

    Args:
        name: under which its answers are recorded.
        failure: `transient`, `user` or `fault`.
    """

    endpoint = "local"
    made = 0

    def __init__(self, name: str = "sighted", failure: str = "") -> None:
        time.sleep(0.2)  # long enough for two threads to make two
        type(self).made += 1
        self.name = name
        self.failure = failure

    def score(self, image: Image.Image) -> Verdict:
        """Its reasoning: process, GPUs, judges made in this process."""
        note("seven", model="tiny", input_tokens=900, output_tokens=3)
        note("7", model="tiny")
        if self.failure == "transient":
            raise Transient("it is busy", retry_after=7.5)
        if self.failure == "user":
            raise UserError("its weights are not there")
        if self.failure == "fault":
            raise ZeroDivisionError("of a third party")
        time.sleep(0.05)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "-")
        return Verdict(judge=self.name, value=7.0, reasoning=f"{os.getpid()} {seen} {self.made}")

    def compare(self, source: Image.Image, edited: Image.Image) -> Verdict:
        """As good."""
        return Verdict(judge=self.name, value=0.0, reasoning="")
