"""Plug-ins that write down which process they were asked in; workers of a cluster import them from this folder."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from benchmarks import _worlds
from PIL import Image

from redaes.calls import Transient, note
from redaes.errors import UserError
from redaes.records import Instruction, Verdict

_lock = threading.Lock()
_busy = 0


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

    def watch(self, image: Image.Image, step: int) -> None:
        """A question begins, or ends."""
        global _busy
        poison = self.folder / "poison"
        with _lock:
            _busy += step
            title = psutil.Process().cmdline()[0]
            if step > 0:
                with (self.folder / self.name).open("a") as file:
                    file.write(f"{os.getpid()} {title.split('.')[0]} {_busy}\n")
            if step > 0 and poison.is_file() and image.tobytes()[:16].hex() == poison.read_text():
                with (self.folder / "deaths").open("a") as file:
                    file.write(f"{os.getpid()} {_busy}\n")
                os._exit(11)


class Judge(Watched, _worlds.Judge):
    """A judge of the world."""

    def score(self, image: Image.Image) -> Verdict:
        """As the world's."""
        self.watch(image, 1)
        try:
            return super().score(image)
        finally:
            self.watch(image, -1)


class Editor(Watched, _worlds.Editor):
    """An editor of the world."""

    def edit(self, image: Image.Image, instruction: Instruction, seed: int) -> Image.Image:
        """As the world's."""
        self.watch(image, 1)
        try:
            return super().edit(image, instruction, seed)
        finally:
            self.watch(image, -1)


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
