"""A storage: files are there whole or not at all, wherever it is; what goes wrong is said in one line, without keys."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaes.errors import UserError
from redaes_ray.storage import Missing, Storage, without_keys


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage.of(request.getfixturevalue("bucket"))
    urls = {"folder": tmp_path / "root", "file": f"file://{tmp_path}/root", "memory": f"memory://{tmp_path}"}
    return Storage.of(urls[request.param])


def sizes(storage: Storage) -> dict[str, int]:
    return {stored.name: stored.size for stored in storage.files("a", recursive=True)}


def test_what_is_written_is_read_listed_and_deleted(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/one", b"1")
    storage.write("a/one", b"11")
    storage.write("a/b/two", b"", durable=False)
    assert storage.read("a/one") == b"11"
    assert sizes(storage) == {"a/b/two": 0, "a/one": 2}
    assert [stored.name for stored in storage.files("a")] == ["a/one"]
    assert storage.folders("a") == ["a/b"]
    assert (storage.exists("a/one"), storage.exists("a/b"), storage.exists("a/none")) == (True, False, False)
    with storage.opened("a/one") as file:
        assert (file.size(), file.read_at(1, 1)) == (2, b"1")
    storage.download("a/one", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"11"
    storage.delete(["a/one", "a/none"])
    assert sizes(storage) == {"a/b/two": 0}


def test_many_files_are_listed_and_deleted(storage: Storage) -> None:
    names = [f"many/{n:03d}" for n in range(40)]
    for name in names:
        storage.write(name, name.encode())
    assert list(storage.in_parallel(storage.read, names)) == [name.encode() for name in names]
    storage.delete(names[:-1])
    assert [stored.name for stored in storage.files("many")] == names[-1:]


def test_what_is_not_there_is_missing(storage: Storage) -> None:
    assert storage.files("nothing") == []
    assert storage.folders("nothing") == []
    with pytest.raises(Missing, match=r"cannot read .*/nothing.*: there is none"):
        storage.read("nothing")
    with pytest.raises(Missing), storage.opened("nothing"):
        pass


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.of(tmp_path)
    storage.write("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*/a: No space left on device"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a"]


def test_only_old_half_written_files_are_removed(tmp_path: Path) -> None:
    storage = Storage.of(tmp_path)
    storage.write("unfinished/old", b"")
    storage.write("unfinished/young", b"")
    os.utime(tmp_path / "unfinished" / "old", (1e9, 1e9))
    storage.remove_unfinished()
    assert [stored.name for stored in storage.files("unfinished")] == ["unfinished/young"]


def test_a_scheme_without_whole_puts_writes_aside_and_renames(tmp_path: Path) -> None:
    storage = Storage.of(f"local://{tmp_path}")  # fsspec's own name for a local disk
    storage.write("a/b", b"1")
    assert storage.read("a/b") == b"1"
    assert storage.files("unfinished") == []
    assert (tmp_path / "unfinished").is_dir()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://AKIAEXAMPLE:verysecret@bucket/a", r"s3://\[redacted\]@bucket/a has a key in it"),
        ("s3://bucket/a?secret_key=verysecret", r"secret_key=\[redacted\] has a key in it"),
        ("nonsense://bucket/a", "cannot use nonsense://bucket/a: Protocol not known"),
        ("s3://", "s3:// names no place"),
    ],
)
def test_a_url_that_is_none_or_tells_a_key_is_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Storage.of(url)
    assert "verysecret" not in str(raised.value)


@given(secret=st.text("abcdefgh0123456789", min_size=8), user=st.text("ABC", max_size=4))
def test_no_part_of_a_url_that_may_be_a_key_is_shown(secret: str, user: str) -> None:
    shown = without_keys(f"s3://{user}:{secret}@bucket/path?region=r&token={secret}")
    assert secret not in shown
    assert without_keys(shown.replace("[redacted]@", "").partition("?")[0]) == "s3://bucket/path"


def test_errors_of_a_bucket_are_one_line_without_keys(bucket: str) -> None:
    elsewhere = Storage.of(bucket.replace("bucket-", "nobucket-"))
    with pytest.raises(UserError, match=r"cannot write s3://nobucket.*NO_SUCH_BUCKET") as raised:
        elsewhere.write("a", b"")
    assert "\n" not in str(raised.value)
    assert "a-secret-of-the-tests-1" not in str(raised.value)
    with pytest.raises(UserError, match=r"cannot read s3://.*NETWORK_CONNECTION"):
        Storage.of("s3://bucket/a?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1").read("a")


def test_the_endpoint_may_come_from_the_environment(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Storage.of(bucket).write("a", b"1")
    place, _, settings = bucket.partition("?")
    server = settings.split("&")[0].partition("=")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    assert Storage.of(f"{place}?region=us-east-1").read("a") == b"1"
