"""What is dropped onto the page is opened, or refused in one line that a person understands."""

from pathlib import Path

import pytest
from tests.app.conftest import uploads

from redaes.app.uploads import MOST_PHOTOGRAPHS, Photograph, Refused, Upload, opened, within_limit


def test_photographs_are_opened_whatever_they_are_called(good: list[Path], tmp_path: Path) -> None:
    for upload in uploads(*good):
        photograph = opened(upload)
        assert isinstance(photograph, Photograph)
        assert photograph.name == upload.name
        assert photograph.image.mode == "RGB"
    unnamed = tmp_path / "blob"
    unnamed.write_bytes(good[0].read_bytes())
    assert isinstance(opened(Upload(str(unnamed), "blob")), Photograph)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "is not a photograph in a known format"),
        ("drawing", "is not a photograph in a known format"),
        ("program", "is not a photograph in a known format"),
        ("truncated", "is truncated"),
        ("empty", "is empty"),
        ("bomb", "is 12000 x 12000 pixels, above the limit of 89 megapixels"),
        ("huge", "is larger than 50 MB"),
    ],
)
def test_what_is_no_photograph_is_refused_in_one_line(bad: dict[str, Path], kind: str, words: str) -> None:
    refused = opened(*uploads(bad[kind]))
    assert isinstance(refused, Refused)
    assert refused.reason.startswith(words)
    assert "\n" not in refused.reason
    assert str(bad[kind].parent) not in refused.reason


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    refused = opened(Upload(str(tmp_path / "gone.jpg"), "gone.jpg"))
    assert refused == Refused("gone.jpg", "is no longer there; drop it again")


def test_more_than_the_limit_are_left_out_by_name() -> None:
    many = [Upload("", f"{i}.jpg") for i in range(MOST_PHOTOGRAPHS + 2)]
    taken, left_out = within_limit(many)
    assert taken == many[:MOST_PHOTOGRAPHS]
    assert [refused.name for refused in left_out] == ["100.jpg", "101.jpg"]
    assert "100 photographs" in left_out[0].reason
