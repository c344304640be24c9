"""AesCoT files as Aes-R1's repository has them, and what is trained on them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from redaes.data.aescot import Aescot
from redaes.data.modules import ComparativeData, GroupData
from redaes.errors import UserError

QUESTION = (
    "\nYou are an aesthetic expert. What is your overall rating on the aesthetic of this picture <image> ? The rating "
    "should be a float between 1 and 5, rounded to two decimal places.\n"
)


def entry(answer: str, images: object = "a.png", question: str = QUESTION) -> dict:
    messages = [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]
    return {"messages": messages, "images": images}


def lines(folder: Path, *entries: object) -> Path:
    file = folder / "aescot.jsonl"
    file.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries), encoding="utf-8")
    return file


def scores(file: Path) -> list[float]:
    return [sample.score for sample in Aescot(file).samples]


def test_targets_from_0_to_1_are_taken_for_that_although_the_prompt_speaks_of_1_to_5(tmp_path: Path) -> None:
    read = Aescot(lines(tmp_path, entry("0.25"), entry("0.80")))
    assert [sample.score for sample in read.samples] == [2.5, 8.0]
    assert read.scale == (0, 1)
    assert not read.bad


def test_targets_from_1_to_5_are_taken_for_that(tmp_path: Path) -> None:
    assert scores(lines(tmp_path, entry("1.0"), entry("3.00"), entry("5"))) == [0, 5, 10]


def test_the_examples_own_form_an_array_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "example.json"
    file.write_text("\ufeff " + json.dumps([entry("0.25"), entry("0.80", ["b.png"])]), encoding="utf-8")
    assert [(s.image, s.score) for s in Aescot(file).samples] == [("a.png", 2.5), ("b.png", 8.0)]


def test_a_chain_of_thought_is_kept_apart_from_the_score(tmp_path: Path) -> None:
    file = lines(tmp_path, entry("<think>Soft 0.9 light.</think><answer>0.62</answer>"))
    (sample,) = Aescot(file).samples
    assert (round(sample.score, 6), sample.reasoning) == (6.2, "Soft 0.9 light.")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{not json", "no JSON object"),
        ("[1]", "no JSON object"),
        ({"images": "a.png"}, "no message of the user"),
        ({"messages": [{"role": "user", "content": QUESTION}], "images": "a.png"}, "no message of the assistant"),
        (entry("0.5", ["a.png", "b.png"]), "images is not the path of one image"),
        (entry("0.5", None), "images is not the path of one image"),
        (entry("0.5", question="How fine?"), "0 times <image> in the question, not once"),
        (entry("very fine"), "no score in the answer"),
        (entry("nan"), "no score in the answer"),
        (entry("<answer>0.3 or 0.4</answer>"), "no score in the answer"),
        (entry("7.2"), "score 7.2 where the file's are 0 to 1"),
        (entry("-0.1"), "score -0.1 where the file's are 0 to 1"),
    ],
)
def test_a_bad_line_is_counted_and_named(bad: object, why: str, tmp_path: Path) -> None:
    read = Aescot(lines(tmp_path, entry("0.25"), "", bad, entry("0.80")))
    assert len(read.samples) == 2
    assert read.problems == f"1 of 3 lines left out: line 3: {why}"


def test_a_line_that_is_no_text_is_one_bad_line(tmp_path: Path) -> None:
    file = lines(tmp_path, entry("0.25"))
    file.write_bytes(file.read_bytes() + b"\n\xff\xfe\n")
    assert list(Aescot(file).bad) == [2]


@pytest.mark.parametrize("text", ["", "hello\n", "[1, 2", "[]"])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"f\.jsonl"):
        Aescot(file)


def test_a_path_that_leaves_the_files_folder_is_refused(tmp_path: Path) -> None:
    read = Aescot(lines(tmp_path, entry("0.5", "../secret.png")))
    with pytest.raises(UserError, match="leaves the file's folder"):
        read.open("../secret.png")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Eleven photographs, one of them missing, and a bad line."""
    for n in range(10):
        Image.new("RGB", (32, 32), (25 * n, 0, 0)).save(tmp_path / f"{n}.png")
    entries = [entry(f"<think>Red.</think><answer>0.{n}</answer>", f"{n}.png") for n in range(10)]
    return lines(tmp_path, *entries, entry("0.5", "missing.png"), "bad")


def test_sft_learns_their_words_and_scores(dataset: Path, file: Path) -> None:
    data = ComparativeData(str(dataset), aescot=str(file))
    with pytest.warns(UserWarning, match="1 of 12 lines left out: line 12: no JSON object"):
        data.setup("fit")
    with pytest.warns(UserWarning, match=r"1 of 11 train samples have a missing image, first missing\.png"):
        samples = data.samples("train")
    assert [s.answer for s in samples][:2] == [f"<think>Red.</think><answer>{n}.0</answer>" for n in (0, 1)]
    plain = ComparativeData(str(dataset))
    plain.setup("fit")
    assert data.samples("validation") == plain.samples("validation")


@pytest.mark.filterwarnings("ignore:.*left out")
def test_grpo_sees_whole_groups_of_them_with_their_absolute_scores(dataset: Path, file: Path) -> None:
    data = GroupData(str(dataset), aescot=str(file), group_size=4)
    data.setup("fit")
    groups = data.training_groups()
    assert [len(group) for group in groups] == [4, 4]
    assert [member.truth for member in groups[1]] == pytest.approx([4, 5, 6, 7])
    data.group_size = 16
    with pytest.raises(UserError, match="10 photographs, fewer than a group of 16"):
        data.training_groups()
