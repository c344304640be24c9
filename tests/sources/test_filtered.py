"""What must not be trained on is left out, whatever form it comes in, and each one is named with the reason."""

import csv
import hashlib
import logging

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from redaes.cli import main
from redaes.errors import UserError
from redaes.registry import create
from redaes.sources import Photograph, PhotoSource
from redaes.sources.duplicates import Hashed, first_of_duplicates, on_list
from redaes.sources.facts import Facts, FactsFile, read_list
from redaes.sources.filtered import FilteredPhotos
from redaes.sources.folder import FolderPhotos

from .photos import bomb, encoded, photo


def names(source: PhotoSource) -> list[str]:
    return [photograph.name for photograph in source.photographs()]


def folder(root, **settings):
    return {"class_path": "folder", "init_args": {"root": str(root), **settings}}


def reasons(source: FilteredPhotos) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in csv.DictReader(source.report.open(newline=""))}


@pytest.fixture
def pool(tmp_path):
    """Photographs, some of them the same as others."""
    root = tmp_path / "pool"
    root.mkdir()
    for i in range(6):
        photo(i).save(root / f"{i}.png")
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())  # c sorts after the digits
    photo(1).save(root / "again.jpg", quality=60)
    photo(2).resize((192, 144), Image.Resampling.LANCZOS).save(root / "larger.png")
    photo(10, (40, 30)).save(root / "small.png")
    (root / "half.jpg").write_bytes(encoded(photo(11, (640, 480)), "JPEG")[:4000])
    (root / "bomb.png").write_bytes(bomb())
    return root


@pytest.fixture
def benchmark(tmp_path):
    """A benchmark with photographs 3 and 4 of the pool, one byte for byte and one in another format and size."""
    root = tmp_path / "benchmark"
    (root / "images").mkdir(parents=True)
    photo(3).save(root / "images" / "three.png")
    photo(4).resize((80, 60), Image.Resampling.LANCZOS).save(root / "four.jpg", quality=80)
    photo(20).save(root / "other.png")
    return root


def test_small_unreadable_duplicate_and_excluded_photographs_are_left_out_and_named(pool, benchmark, tmp_path, caplog):
    hashes = tmp_path / "hashes.csv"
    assert main(["data", "hash", str(benchmark), "--output", str(hashes)]) == 0
    source = create(
        "sources",
        {
            "class_path": "redaes.sources.filtered.FilteredPhotos",
            "init_args": {"source": folder(pool), "min_size": 64, "exclude": str(hashes)},
        },
    )
    with caplog.at_level(logging.WARNING):
        assert names(source) == ["0.png", "1.png", "2.png", "5.png"]
    assert reasons(source) == {
        "half.jpg": "unreadable",
        "small.png": "too small",
        "3.png": "image to exclude",
        "4.png": "image to exclude",
        "copy.png": "duplicate",
        "again.jpg": "duplicate",
        "larger.png": "duplicate",
    }
    assert source.left_out == {"unreadable": 1, "too small": 1, "image to exclude": 2, "duplicate": 3}
    assert "3 left out, duplicate: again.jpg (of 1.png), copy.png (of 0.png), larger.png (of 2.png)" in caplog.text
    assert f"3.png ({benchmark}/images/three.png of hashes.csv)" in caplog.text
    assert str(source.report) in caplog.text
    assert np.array_equal(np.asarray(source.open("1.png")), np.asarray(photo(1)))


def test_exact_duplicates_alone_are_the_same_file(pool):
    source = FilteredPhotos(folder(pool), duplicates="exact")
    assert "copy.png" not in names(source)
    assert reasons(source) == {"copy.png": "duplicate", "half.jpg": "unreadable"}
    everything = FilteredPhotos(folder(pool), duplicates="keep")
    assert set(names(everything)) == {p.name for p in FolderPhotos(str(pool)).photographs()}


def test_only_allowed_licences_pass_and_the_others_are_not_even_examined(pool, tmp_path):
    for patterns, kept in ((["cc-by-*", "CC0"], 11), ("CC-BY-4.0", 11), (["CC-BY-SA*"], 0), ([], 0)):
        source = FilteredPhotos(folder(pool, license="CC-BY-4.0"), licenses=patterns, duplicates="keep")
        if kept:
            assert len(source.photographs()) == kept
            assert {p.license for p in source.photographs()} == {"CC-BY-4.0"}
        else:
            with pytest.raises(UserError, match="no photograph is left: 11 licence not allowed"):
                source.photographs()
    with pytest.raises(UserError, match="no photograph is left"):
        FilteredPhotos(folder(pool), licenses="CC0", min_size=10, facts=str(tmp_path / "facts.sqlite")).photographs()
    with FactsFile(tmp_path / "facts.sqlite") as file:
        assert file.find(names(FolderPhotos(str(pool)))) == {}


class CountingPhotos(FolderPhotos):
    """A folder that counts what is read of it."""

    reads = 0

    def read(self, name: str) -> bytes:
        self.reads += 1
        return super().read(name)


def test_photographs_are_examined_once_until_their_file_changes(pool, tmp_path):
    spec = {"class_path": f"{__name__}.CountingPhotos", "init_args": {"root": str(pool)}}
    source = FilteredPhotos(spec, min_size=64, workers=1)
    first = names(source)
    assert source.source.reads == 11
    assert names(source) == first
    assert source.source.reads == 11
    photo(30, (50, 50)).save(pool / "0.png")  # now too small; its copy takes its place
    assert set(names(source)) == {*first, "copy.png"} - {"0.png"}
    assert source.source.reads == 12


def test_a_long_examination_says_how_far_it_is(pool, monkeypatch, caplog):
    monkeypatch.setattr("redaes.sources.facts.TOLD_EVERY", 0.0)
    monkeypatch.setattr("redaes.sources.facts.AT_ONCE", 4)
    with caplog.at_level(logging.WARNING):
        names(FilteredPhotos(folder(pool)))
    assert [m for m in caplog.messages if m.startswith("examined")][1].startswith(
        "examined 8 photographs; what is known"
    )


def test_any_number_of_workers_leaves_the_same(pool, tmp_path):
    kept = [
        names(FilteredPhotos(folder(pool), facts=str(tmp_path / f"{workers}.sqlite"), workers=workers))
        for workers in (1, 5)
    ]
    assert kept[0] == kept[1]


def test_a_source_without_files_is_compared_by_its_pixels():
    skimage = {"class_path": "skimage", "init_args": {"names": ["coffee", "chelsea", "rocket"]}}
    assert names(FilteredPhotos(skimage, min_size=400)) == ["coffee", "rocket"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"duplicates": "neer"}, "must be keep, exact or near"),
        ({"distance": 17}, "from 0 to 16"),
        ({"min_size": "big"}, r"'min_size' of source .* is 'big'; it must be int"),
        ({"exclude": "nowhere.csv"}, r"nowhere.csv.* is no list of hashes"),
    ],
)
def test_a_wrong_setting_is_one_line(pool, settings, message):
    spec = {"class_path": "redaes.sources.filtered.FilteredPhotos", "init_args": {"source": folder(pool), **settings}}
    with pytest.raises(UserError, match=message):
        create("sources", spec).photographs()


# --- lists of hashes


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_list_names_every_image_with_its_hashes(benchmark, tmp_path, capsys, suffix):
    (benchmark / "bad.png").write_bytes(b"nothing")
    (benchmark / "half.jpg").write_bytes(encoded(photo(11, (640, 480)), "JPEG")[:4000])
    out = tmp_path / f"list.{suffix}"
    assert main(["data", "hash", str(benchmark), "--output", str(out)]) == 1
    shown = capsys.readouterr()
    assert "3 images hashed, 2 could not be read" in shown.out
    assert "half.jpg: is truncated" in shown.err
    listed = {facts.name: facts for facts in read_list(out)}
    assert set(listed) == {f"{benchmark}/{n}" for n in ("four.jpg", "images/three.png", "other.png")}
    three = listed[f"{benchmark}/images/three.png"]
    assert three.sha256 == hashlib.sha256((benchmark / "images" / "three.png").read_bytes()).hexdigest()
    assert three.phash == str(imagehash.phash(photo(3)))
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name or p.name.endswith("tmp")] == []
    assert main(["data", "hash", str(benchmark), "--output", str(out)]) == 2
    assert main(["data", "hash", str(tmp_path / "nowhere"), "--output", str(tmp_path / "other.csv")]) == 2
    assert not list(tmp_path.glob("other*"))
    assert main(["data", "hash", str(benchmark), "--output", str(out), "--overwrite"]) == 1


def test_hashing_goes_on_where_it_was_interrupted(benchmark, tmp_path):
    out = tmp_path / "list.csv"
    with FactsFile(tmp_path / "list.csv.partial") as file:  # what a killed run leaves
        stamp = FolderPhotos(str(benchmark)).stamp("other.png")
        file.put([Facts(f"{benchmark}/other.png", stamp, "ab" * 32, "00" * 8, 1, 1, "")])
    assert main(["data", "hash", str(benchmark), "--output", str(out)]) == 0
    assert {f.name: f.sha256 for f in read_list(out)}[f"{benchmark}/other.png"] == "ab" * 32


@pytest.mark.parametrize(
    "text", ["name\nx\n", "name,phash\nx,zzzzzzzzzzzzzzzz\n", "name,phash\nx,12\n", "name,phash,sha256\nx,,12\n"]
)
def test_a_file_that_is_no_list_is_named(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=r"list.csv:2 is no list of hashes"):
        list(read_list(tmp_path / "list.csv"))


def test_a_file_of_facts_that_is_something_else_is_named(tmp_path):
    (tmp_path / "facts.sqlite").write_text("no database, but long enough to be looked at as one" * 20)
    with pytest.raises(UserError, match="delete it or name another"), FactsFile(tmp_path / "facts.sqlite") as file:
        file.find(["x"])


# --- what counts as the same, against the plain definitions


def hashed(values: list[tuple[int, int]]) -> Hashed:
    """Photographs of (file, perceptual hash)."""
    return Hashed.of(
        (Photograph(str(i), ""), Facts(str(i), "", f"{sha:064x}" if sha else "", f"{phash:016x}", 1, 1, ""))
        for i, (sha, phash) in enumerate(values)
    )


HASHES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 3, 7, 15, 31, 2**63, 2**63 + 1, 2**40])), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(HASHES, st.integers(0, 3))
def test_the_photographs_kept_are_those_of_the_plain_rule(values, distance):
    values = [(sha + 1, phash * 8 + sha) for sha, phash in values if phash < 2**60]
    values = [(sha, next(p for s, p in values if s == sha)) for sha, _ in values]  # one file has one hash
    kept: list[int] = []
    expected = []
    for place, (_, phash) in enumerate(values):
        near = [k for k in kept if (values[k][1] ^ phash).bit_count() <= distance]
        if not near:
            kept.append(place)
        expected.append(bool(near))
    firsts = first_of_duplicates(hashed(values), distance).tolist()
    assert [first != place for place, first in enumerate(firsts)] == expected
    assert all(first in kept for first in firsts)
    assert all((values[f][1] ^ values[p][1]).bit_count() <= distance for p, f in enumerate(firsts))
    exact = first_of_duplicates(hashed(values), None).tolist()
    assert exact == [[s for s, _ in values].index(sha) for sha, _ in values]


@settings(max_examples=60, deadline=None)
@given(HASHES, HASHES, st.integers(0, 3))
def test_what_is_on_a_list_is_found_by_file_or_by_hash(values, listed, distance):
    found = on_list(hashed(values), hashed(listed), distance)
    same = {
        place: {
            other
            for other, (file, phash) in enumerate(listed)
            if (file and file == values[place][0]) or (phash ^ values[place][1]).bit_count() <= distance
        }
        for place in range(len(values))
    }
    assert set(found) == {place for place, others in same.items() if others}
    assert all(other in same[place] for place, other in found.items())
