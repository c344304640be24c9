"""A scorer is kept busy, is not asked more than it bears, and loses no image to another's fault."""

import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from redaes.data.benchmarks import Item
from redaes.errors import UserError
from redaes.evaluation.scoring import answers
from redaes.inference import Score
from redaes.inference.asking import STREAK, ScorerGivenUp


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """200 of them; the red of each pixel is its number."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return [Item(str(number), folder / f"{number}.png", 5.0) for number in range(200)]


class Recording:
    """Notes the images of every call; breaks on some, on calls that are too large, after a while."""

    def __init__(self, broken=(), most=1000, seconds=0.0):
        self.broken, self.most, self.seconds = set(broken), most, seconds
        self.calls = []

    def score(self, images):
        numbers = [image.getpixel((0, 0))[0] for image in images]
        self.calls.append(numbers)
        time.sleep(self.seconds)
        if len(numbers) > self.most:
            raise MemoryError("too many")
        if self.broken.intersection(numbers):
            raise RuntimeError("this one")
        return [Score(number / 20, "", str(number)) for number in numbers]


def ask(items, scorer, batch_size=4):
    return [answer for batch in answers("ava", items, scorer, "m", batch_size) for answer in batch]


def test_every_image_has_its_own_answer_in_order(photographs):
    said = ask(photographs, Recording())
    assert [(answer.id, answer.text) for answer in said] == [(item.id, item.id) for item in photographs]
    assert {(a.benchmark, a.fingerprint, a.status, a.error) for a in said} == {("ava", "m", "ok", "")}
    assert all(answer.size == item.path.stat().st_size for answer, item in zip(said, photographs, strict=True))


def test_a_quick_scorer_gets_whole_batches_and_more_of_them(photographs):
    scorer = Recording()
    ask(photographs, scorer)
    assert [len(call) for call in scorer.calls] == [4, 8, 16, 32, 64, 76]


def test_a_slow_scorer_gets_one_batch_at_a_time(photographs, monkeypatch):
    monkeypatch.setattr("redaes.inference.asking.CALL_SECONDS", 0.01)
    scorer = Recording(seconds=0.02)
    ask(photographs[:20], scorer)
    assert [len(call) for call in scorer.calls] == [4] * 5


def test_images_are_opened_while_the_scorer_works(photographs, tmp_path):
    items = []
    for item in photographs[:12]:
        (tmp_path / item.path.name).write_bytes(item.path.read_bytes())
        items.append(Item(item.id, tmp_path / item.path.name, 5.0))

    class Removing(Recording):
        def score(self, images):
            time.sleep(0.5)
            for path in tmp_path.iterdir():
                path.unlink()
            return super().score(images)

    assert [answer.status for answer in ask(items, Removing())] == ["ok"] * 12


def test_images_are_as_large_as_the_scorer_looks_at(tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")

    class Small:
        view_side = 100

        def score(self, images):
            return [Score(5.0, "", str(image.size)) for image in images]

    (said,) = ask([Item("a", tmp_path / "a.png", 5.0)], Small())
    assert said.text == "(100, 50)"


def test_only_the_image_that_a_scorer_breaks_on_has_no_score(photographs):
    scorer = Recording(broken=[37, 150])
    said = ask(photographs, scorer)
    assert {a.id: a.error for a in said if a.status != "ok"} == dict.fromkeys(["37", "150"], "RuntimeError: this one")
    assert [answer.id for answer in said] == [item.id for item in photographs]
    asked = Counter(number for call in scorer.calls for number in call)
    assert max(asked.values()) <= 3  # in a call, in its batch, alone


def test_a_scorer_that_bears_one_batch_at_a_time_is_soon_given_no_more(photographs):
    scorer = Recording(most=4)
    assert {answer.status for answer in ask(photographs, scorer)} == {"ok"}
    assert sum(len(call) > 4 for call in scorer.calls) <= 6
    assert [len(call) for call in scorer.calls[-10:]] == [4] * 10


def test_files_that_are_no_images_are_told_and_not_held_against_the_scorer(photographs, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    bad = [Item(f"bad{number}", tmp_path / "bad.jpg", 5.0) for number in range(2 * STREAK)]
    said = ask([*bad, photographs[0], Item("gone", Path("gone.jpg"), 5.0)], Recording())
    assert Counter(answer.status for answer in said) == {"unreadable": 2 * STREAK + 1, "ok": 1}
    assert (said[-1].size, said[-1].error) == (-1, "no such file")


def test_a_scorer_is_given_up_after_a_row_of_images_and_no_sooner(photographs):
    almost = Recording(broken=set(range(10, 200)) - set(range(10, 200, STREAK)))
    assert len(ask(photographs, almost)) == 200
    never, heard = Recording(broken=range(20, 200)), []
    with pytest.raises(ScorerGivenUp, match="broke on 32 images in a row, the last time with RuntimeError: this one"):
        heard.extend(answer for batch in answers("ava", photographs, never, "m", 4) for answer in batch)
    assert [answer.status for answer in heard] == ["ok"] * 20 + ["failed"] * STREAK


def test_settings_that_are_at_fault_stop_at_once(photographs):
    class Keyless:
        def score(self, images):
            raise UserError("no key")

    with pytest.raises(ScorerGivenUp, match="no key"):
        ask(photographs, Keyless())
