"""A world for the data engine: plug-ins whose answers are a pure function of what they are asked about.

Given by class path to `redaes data build`. Nobody looks at a picture here: an answer comes from a hash of the question,
with the paper's rates: an edit passes verification with 63.7 %, and two judges agree on a direction with 67.8 %.

An answer takes `latency` seconds, or is bought from a server at `url` (benchmarks.engine_kills), which counts.
"""

import hashlib
import http.client
import json
import random
import threading
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from redaes.calls import Transient, Usage, note
from redaes.records import Instruction, Verdict, Verification
from redaes.sources import Photograph

EDIT_SUCCESS = 0.637
"""Mean success rate of the editors (Tab. 8)."""

# Judges who each say "better" with probability p, independently, agree pairwise with p² + (1 - p)² = 67.8 % (Tab. 9).
BETTER = (1 + (2 * 0.678 - 1) ** 0.5) / 2

SIDE = 16


def answer(question: str) -> dict[str, Any]:
    """What the world says to a question, as JSON values.

    Args:
        question: role and hash, `compare:0123...`.
    """
    role, _, digest = question.partition(":")
    rng = random.Random(digest)
    if role == "score":
        return {"value": round(rng.uniform(2, 9), 2)}
    if role == "compare":
        return {"value": round(rng.uniform(0.1, 4) * (1 if rng.random() < BETTER else -1), 2)}
    if role == "verify":
        # What both verifiers give on average, and by how much one of them is above it.
        passes = rng.random() < EDIT_SUCCESS
        return {"mean": rng.uniform(7.6, 9.5) if passes else rng.uniform(2, 7.3), "apart": rng.uniform(-0.4, 0.4)}
    return {"value": rng.getrandbits(64)}


class Asked:
    """What all plug-ins of the world share.

    Args:
        name: under which answers are recorded.
        latency: seconds an answer takes.
        url: of a server to buy answers from, instead.
        local: the engine is told that answers are only computed, so that it works in processes.
    """

    def __init__(self, name: str = "world", latency: float = 0.0, url: str = "", local: bool = False) -> None:
        self.name = name
        self.latency = latency
        self.endpoint = "" if local else "world"
        self._address = urlsplit(url).netloc
        self._connections = threading.local()

    def identity(self, role: str) -> dict[str, Any]:
        """All that answers depend on."""
        return {"model": self.name, "version": "1"}

    def largest_usage(self, role: str) -> Usage:
        """A call costs nothing."""
        return Usage()

    def ask(self, role: str, *parts: bytes | str, about: str = "") -> dict[str, Any]:
        """Put a question; it is the plug-in's own, unless it is said whom it is about."""
        digest = hashlib.sha256((about or self.name).encode())
        for part in parts:
            digest.update(part if isinstance(part, bytes) else part.encode())
        question = f"{role}:{digest.hexdigest()}"
        if self._address:
            text = self._buy(f"{question}@{self.name}")
        else:
            time.sleep(self.latency)
            text = json.dumps(answer(question))
        note(text, model=self.name)
        found: dict[str, Any] = json.loads(text)
        return found

    def _buy(self, question: str) -> str:
        connection = getattr(self._connections, "open", None)
        if connection is None:
            connection = self._connections.open = http.client.HTTPConnection(self._address, timeout=10)
        try:
            connection.request("POST", "/", body=question)
            return str(connection.getresponse().read().decode())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Transient(f"world: {error!r}") from error


class Judge(Asked):
    """Scores and compares by chance."""

    def score(self, image: Image.Image) -> Verdict:
        """In [2, 9]."""
        value = self.ask("score", image.tobytes())["value"]
        return Verdict(judge=self.name, value=value, reasoning=f"{self.name} gives {value}.")

    def compare(self, source: Image.Image, edited: Image.Image) -> Verdict:
        """Better with probability `BETTER`."""
        value = self.ask("compare", source.tobytes(), edited.tobytes())["value"]
        return Verdict(judge=self.name, value=value, reasoning=f"{self.name} sees {value}.")


class Verifier(Asked):
    """One of two verifiers whose mean passes with probability `EDIT_SUCCESS`.

    Args:
        sign: 1 for the one, -1 for the other.
        settings: as `Asked`.
    """

    def __init__(self, sign: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        self.sign = sign

    def verify(self, source: Image.Image, edited: Image.Image, instruction: Instruction) -> Verification:
        """Sub-scores, of which the first is the lower."""
        found = self.ask("verify", edited.tobytes(), about="an edit")
        value = found["mean"] + self.sign * found["apart"]
        return Verification(verifier=self.name, success=value, over_editing=10.0)


class Editor(Asked):
    """Paints a few pixels."""

    def edit(self, image: Image.Image, instruction: Instruction, seed: int) -> Image.Image:
        """Another picture for every question."""
        value = self.ask("edit", image.tobytes(), instruction.text, str(seed))["value"]
        pixels = hashlib.sha256(str(value).encode()).digest() + image.tobytes()[32:]
        return Image.frombytes("RGB", image.size, pixels)


class Instructor(Asked):
    """Asks for anything."""

    def instruct(self, image: Image.Image, seed: int) -> Instruction:
        """One edit."""
        return _instruction(self.ask("instruct", image.tobytes(), str(seed))["value"])

    def diversify(self, image: Image.Image, count: int, seed: int) -> list[Instruction]:
        """`count` edits."""
        value = self.ask("diversify", image.tobytes(), str(seed))["value"]
        return [_instruction(value + k) for k in range(count)]


def _instruction(value: int) -> Instruction:
    return Instruction(text=f"Change number {value}.", category="exposure", orientation="quality")


class Photographs:
    """`count` pictures of noise.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def photographs(self) -> list[Photograph]:
        """Numbered from 0."""
        return [Photograph(f"{index:07d}.png", "none") for index in range(self.count)]

    def open(self, name: str) -> Image.Image:
        """Noise that the name determines."""
        return Image.frombytes("RGB", (SIDE, SIDE), hashlib.shake_256(name.encode()).digest(3 * SIDE * SIDE))


def configuration(
    sources: int, editors: int = 5, judges: int = 3, verifiers: int = 2, groups: int = 0, **settings: Any
) -> dict[str, Any]:
    """A configuration of `redaes data build` in this world: one source of every photograph, whole.

    Args:
        sources: how many.
        editors: likewise; judges and verifiers too.
        judges: likewise.
        verifiers: likewise.
        groups: sources with a group.
        settings: of every plug-in, see `Asked`.
    """
    made = partial(_plugin, settings=settings)
    return {
        "source": {"class_path": "benchmarks._worlds.Photographs", "init_args": {"count": sources}},
        "split": {"test_fraction": 0.0, "validation_fraction": 0.0},
        "sources": {"train": None, "validation": 0, "test": 0, "size": SIDE, "crop": None},
        "instructor": made("Instructor", "instructor"),
        "editors": [made("Editor", f"editor-{k}") for k in range(editors)],
        "verifiers": [made("Verifier", f"verifier-{k}", sign=1 - 2 * (k % 2)) for k in range(verifiers)],
        "judges": [made("Judge", f"judge-{k}") for k in range(judges)],
        "groups": {"train": groups},
        "calibration": min(200, sources),
    }


def _plugin(kind: str, name: str, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"class_path": f"benchmarks._worlds.{kind}", "init_args": {"name": name, **settings, **more}}
