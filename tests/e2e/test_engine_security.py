"""A key that servers echo, and words that attack, come to nothing: in files, in logs, in tracebacks, on the page."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from benchmarks.vendors.crew import KEY, OPENAI_URL, configuration, environment
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Structured, Vendors

from redaes.engine.ledger import Ledger

ROOT = Path(__file__).parents[2]
PLANTED = 'planted"key/with+odd=characters'
FORMS = (PLANTED, json.dumps(PLANTED)[1:-1], quote(PLANTED, safe=""), quote(PLANTED))
HOSTILE = "<script>alert(1)</script> {0.__class__} ../../outside $(touch pwned) `touch pwned` %s \u202e" + "w" * 300


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data.yaml").write_text(json.dumps(configuration(sources=4)))
    return tmp_path / "work"


def redaes(place: Path, address: str, *words: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with the planted key; all that it prints is kept beside what it writes."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    set_there = {**os.environ, **environment(address, PLANTED), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "redaes", *words],
        cwd=place,
        env={name: value for name, value in set_there.items() if name != without},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    with (place / "printed.txt").open("a") as file:
        file.write(done.stdout + done.stderr)
    return done


def leaks(place: Path) -> Iterator[str]:
    """Files in which the key stands, in any form."""
    forms = {form.encode() for form in FORMS}
    for path in sorted(place.rglob("*")):
        if path.is_file() and any(form in path.read_bytes() for form in forms):
            yield path.relative_to(place).as_posix()


def says(words: str) -> dict[str, dict[str, object]]:
    """Answers in which a careless or hostile model says this."""
    return {
        "score": {"reasoning": words, "score": 5.0},
        "instruct": {"analysis": words, "score": 5.0, "category": "lighting", "instruction": words},
        "compare": {"reasoning": words, "better": "B", "difference": 2.0},
        "verify": {"reasoning": words, "success": 9.0, "over_editing": 9.0},
    }


def everything(place: Path, address: str) -> None:
    """Whatever is made of a build."""
    for words in (("status", "out"), ("report", "out"), ("export", "out", "shared", "--format", "jsonl")):
        done = redaes(place, address, "data", *words)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("structured", ["schema", pytest.param("none", marks=pytest.mark.slow)])
def test_a_key_that_models_repeat_is_in_no_artefact(place: Path, structured: Structured) -> None:
    vendors = Vendors(key=PLANTED, echo=True, structured=structured, answers=says(f"Your key is {' or '.join(FORMS)}."))
    with running(vendors) as address:
        done = redaes(place, address, "data", "build", "out", "--config", "data.yaml", "--debug")
        assert done.returncode == 0, done.stderr
        everything(place, address)
    assert "[redacted]" in (place / "out" / "sources.jsonl").read_text()
    assert list(leaks(place)) == []


def test_a_key_that_errors_repeat_is_in_no_artefact(place: Path) -> None:
    with running(Vendors(key=f"not-{PLANTED}", echo=True)) as address:
        done = redaes(place, address, "data", "build", "out", "--config", "data.yaml", "--debug")
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert "refuses the key" in done.stderr
        redaes(place, address, "data", "status", "out.ledger")
    assert list(leaks(place)) == []


def test_the_search_finds_a_key_that_is_there(place: Path) -> None:
    (place / "leak.json").write_text(json.dumps({"said": PLANTED}))
    assert list(leaks(place)) == ["leak.json"]


@pytest.mark.slow
def test_words_of_a_model_are_text_everywhere(place: Path) -> None:
    with running(Vendors(answers=says(HOSTILE))) as address:
        done = redaes(place, address, "data", "build", "out", "--config", "data.yaml")
        assert done.returncode == 0, done.stderr
        everything(place, address)
    page = (place / "out.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "{0.__class__}" in (place / "out" / "pairs.jsonl").read_text()
    made = {path.name for path in place.iterdir()}
    assert made == {"data.yaml", "printed.txt", "out", "out.ledger", "out.html", "shared"}
    assert [path.name for path in place.parent.iterdir()] == ["work"]


def test_a_retry_that_cannot_ask_forgets_no_dead_letter(place: Path) -> None:
    values = configuration(sources=2, retries={"unusable": 0})
    (place / "data.yaml").write_text(json.dumps(values))
    refusing = Vendors(answers={"instruct": {"analysis": "", "score": 5.0, "category": "nonsense", "instruction": "x"}})
    with running(refusing) as address:
        assert redaes(place, address, "data", "build", "out", "--config", "data.yaml").returncode == 1
        failed = _dead_letters(place)
        assert failed
        for variable, said in ((KEY, "no key in the environment"), (OPENAI_URL, "no address in the environment")):
            done = redaes(place, address, "data", "retry", "out", without=variable)
            assert done.returncode == 2
            assert f"{said}: set {variable}" in done.stderr
            assert _dead_letters(place) == failed


def _dead_letters(place: Path) -> list[str]:
    with Ledger.open_for_reading(place / "out.ledger", "out") as ledger:
        return sorted(call.key for call in ledger.failures())
