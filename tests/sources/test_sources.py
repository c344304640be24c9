import csv
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from redaes.data.images import ImageError
from redaes.errors import UserError
from redaes.registry import create
from redaes.sources import Photograph, PhotoSource
from redaes.sources.folder import FolderPhotos
from redaes.sources.listing import LeftOut, Photographs
from redaes.sources.openimages import OpenImagesPhotos
from redaes.sources.parquet import ParquetPhotos
from redaes.sources.skimage_photos import PHOTOGRAPHS, SkimagePhotos
from redaes.sources.webdataset import WebDatasetPhotos

from .photos import bomb, encoded, photo

LICENSES = ["CC0", "CC-BY", "CC0", "CC-BY"]


def same(image: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_every_photograph_of_scikit_image_opens_without_a_download():
    source = SkimagePhotos()
    assert isinstance(source, PhotoSource)
    assert {p.name for p in source.photographs()} == set(PHOTOGRAPHS)
    assert {"astronaut", "chelsea", "coffee", "rocket", "motorcycle"} <= set(PHOTOGRAPHS)
    for photograph in source.photographs():
        assert photograph.license
        image = source.open(photograph.name)
        assert image.mode == "RGB"
        assert min(image.size) >= 256


def test_an_unknown_photograph_is_named_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'coffee'"):
        SkimagePhotos(["cofee"])


# --- the list


def test_a_list_of_photographs_is_what_went_in_however_it_is_read():
    items = [Photograph(f"ünï/{i}.jpg", LICENSES[i % 4]) for i in range(50)] + [Photograph("", "")]
    listed = Photographs(items)
    assert list(listed) == items
    assert list(listed) == items  # a second time too
    assert (len(listed), listed[-1], listed[-51], listed[7]) == (51, items[-1], items[0], items[7])
    assert list(listed[3:40:5]) == items[3:40:5]
    assert listed.positions(["ünï/9.jpg", "nowhere", ""]) == [9, -1, 50]
    assert listed.repeats() == set()
    assert Photographs([*items, items[4], items[50], items[4]]).repeats() == {51, 52, 53}
    with pytest.raises(IndexError):
        listed[51]


def test_a_list_of_photographs_takes_little_more_than_their_names():
    import tracemalloc

    tracemalloc.start()
    listed = Photographs(Photograph(f"{i:020d}", "CC0") for i in range(100_000))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listed) == 100_000
    assert taken < 100_000 * 40


def test_what_is_left_out_is_counted_named_in_a_file_and_cannot_write_on_the_terminal(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), LeftOut("somewhere", tmp_path / "new" / "report.csv") as left_out:
        for i in range(5):
            left_out.add(f"{i}.jpg", "unreadable", "is\x1b[31m bad,\nvery")
        left_out.add(os.fsdecode(b"\xff.jpg"), "too small")
    assert left_out.counts == {"unreadable": 5, "too small": 1}
    rows = list(csv.reader((tmp_path / "new" / "report.csv").open(newline="")))
    assert rows[0] == ["name", "reason", "detail"]
    assert rows[1] == ["0.jpg", "unreadable", "is\x1b[31m bad,\nvery"]
    assert rows[-1] == [r"\udcff.jpg", "too small", ""]
    assert "5 left out, unreadable: 0.jpg (is [31m bad, very)" in caplog.text
    assert "\x1b" not in caplog.text


# --- folder


def test_a_folder_lists_what_can_be_read_in_order_and_reports_the_rest(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "b" / "two.jpg")
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(encoded(photo(1)))
    report = tmp_path / "report.csv"
    source = FolderPhotos(str(tmp_path), report=str(report))
    with caplog.at_level(logging.WARNING):
        names = [p.name for p in source.photographs()]
    assert names == ["a.png", "b/two.jpg"]
    assert source.left_out == {"unreadable": 3}
    assert "broken.jpg" in caplog.text
    assert {row["name"] for row in csv.DictReader(report.open())} == {"broken.jpg", "bomb.png", r"\udcff.png"}
    assert source.open("a.png").mode == "RGB"
    assert source.read("b/two.jpg") == (tmp_path / "b" / "two.jpg").read_bytes()


def test_an_image_whose_end_is_missing_is_found_when_it_is_opened(tmp_path):
    (tmp_path / "half.jpg").write_bytes(encoded(photo(1, (640, 480)), "JPEG")[:4000])
    source = FolderPhotos(str(tmp_path))
    assert [p.name for p in source.photographs()] == ["half.jpg"]
    with pytest.raises(ImageError, match="truncated"):
        source.open("half.jpg")


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../outside.png"])
def test_a_name_cannot_leave_the_folder(tmp_path, name):
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "inside").mkdir()
    for method in ("open", "read", "stamp"):
        with pytest.raises(UserError, match="outside"):
            getattr(FolderPhotos(str(tmp_path / "inside")), method)(name)


def test_a_folder_without_a_photograph_is_said(tmp_path):
    with pytest.raises(UserError):
        FolderPhotos(str(tmp_path)).photographs()


# --- parquet


def write_shards(root, struct: bool, **options) -> None:
    """Four photographs in two shards."""
    for shard in range(2):
        data = [encoded(photo(2 * shard + i)) for i in range(2)]
        images = [{"bytes": d, "path": None} for d in data] if struct else data
        table = pa.table({"image": images, "id": ["d", "c"] if shard else ["b", "a"], "lic": LICENSES[:2]})
        pq.write_table(table, root / f"train-0000{shard}.parquet", **options)


@pytest.mark.parametrize("struct", [True, False], ids=["struct", "bytes"])
def test_parquet_rows_are_called_by_shard_and_row_or_by_their_id(tmp_path, struct):
    write_shards(tmp_path, struct)
    plain = ParquetPhotos(str(tmp_path), license="CC0")
    assert list(plain.photographs()) == [
        Photograph(f"train-0000{shard}.parquet/{row}", "CC0") for shard in range(2) for row in range(2)
    ]
    named = ParquetPhotos(str(tmp_path), id="id", license_column="lic")
    assert list(named.photographs()) == [Photograph(n, lic) for n, lic in zip("badc", LICENSES, strict=True)]
    assert same(plain.open("train-00001.parquet/0"), photo(2))
    assert same(ParquetPhotos(str(tmp_path), id="id").open("c"), photo(3))  # a new process opens without listing
    assert plain.stamp("train-00000.parquet/1") != ""


def test_a_data_set_written_by_hugging_face_is_opened(tmp_path):
    import datasets

    rows = {"photo": [photo(i) for i in range(3)], "license": ["CC0", None, ""]}
    features = datasets.Features({"photo": datasets.Image(), "license": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    source = ParquetPhotos(str(tmp_path / "data.parquet"), image="photo", license_column="license", license="unknown")
    assert [p.license for p in source.photographs()] == ["CC0", "unknown", "unknown"]
    assert same(source.open("data.parquet/2"), photo(2))


def test_rows_in_any_order_from_any_row_group_are_the_right_ones(tmp_path):
    values = [encoded(photo(i, (16, 16))) for i in range(100)]
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet", row_group_size=40)
    source = ParquetPhotos(str(tmp_path))
    for row in [*range(100), *np.random.default_rng(0).permutation(100).tolist()]:
        assert source.read(f"a.parquet/{row}") == values[row]


def test_several_threads_read_the_right_rows(tmp_path):
    values = [encoded(photo(i, (16, 16))) for i in range(200)]
    pq.write_table(pa.table({"image": values, "id": [f"n{i}" for i in range(200)]}), tmp_path / "a.parquet")
    source = ParquetPhotos(str(tmp_path), id="id")
    order = np.random.default_rng(0).permutation(400) % 200
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, [f"n{i}" for i in order])) == [values[i] for i in order]


def test_a_damaged_page_costs_its_own_rows_only(tmp_path):
    values = [np.random.default_rng(i).bytes(3000) for i in range(64)]
    pages = {"use_dictionary": False, "write_batch_size": 16, "data_page_size": 1000, "compression": "gzip"}
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet", row_group_size=32, **pages)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[60_000:70_000] = bytes(10_000)  # in the second page of the first row group
    (tmp_path / "a.parquet").write_bytes(data)
    source = ParquetPhotos(str(tmp_path))
    assert source.read("a.parquet/3") == values[3]
    for _ in range(2):
        with pytest.raises(ImageError, match="cannot be read"):
            source.read("a.parquet/20")
    assert source.read("a.parquet/3") == values[3]
    assert source.read("a.parquet/63") == values[63]


def test_a_row_is_read_without_its_shard(tmp_path):
    value = np.random.default_rng(0).bytes(1_000_000)
    pages = {"use_dictionary": False, "write_batch_size": 2}  # pyarrow ends pages only between batches it writes
    pq.write_table(pa.table({"image": [value] * 80}), tmp_path / "a.parquet", **pages)
    code = (
        "import pyarrow as pa\nfrom redaes.sources.parquet import ParquetPhotos\n"
        f"source = ParquetPhotos({str(tmp_path)!r})\n"
        "print(len(source.read('a.parquet/79')), pa.default_memory_pool().max_memory())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    length, most = map(int, shown.split())
    assert length == len(value)
    assert most < 50 * len(value)  # of 80 in the one row group


def test_parquet_rows_that_cannot_be_used_are_reported_or_refused_when_opened(tmp_path, caplog):
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(photo(9)))
    root = tmp_path / "root"
    (root / "files").mkdir(parents=True)
    (root / "files" / "x.png").write_bytes(encoded(photo(5)))
    images = [
        {"bytes": None, "path": "files/x.png"},
        {"bytes": None, "path": "../outside.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": bomb(), "path": None},
        {"bytes": b"nothing", "path": None},
        {"bytes": b"nothing", "path": None},
    ]
    pq.write_table(pa.table({"image": images, "id": [1, 2, 3, 4, 5, 1, None]}), root / "a.parquet")
    source = ParquetPhotos(str(root), id="id")
    with caplog.at_level(logging.WARNING):
        assert [p.name for p in source.photographs()] == ["1", "2", "3", "4", "5"]
    assert source.left_out == {"name occurs twice": 1, "no name": 1}
    assert same(source.open("1"), photo(5))
    for name, reason in {
        "2": "outside",
        "3": "no image",
        "4": "no image",
        "5": "pixels",
        "7": "is no",
    }.items():
        with pytest.raises(UserError, match=reason):
            source.open(name)
    with pytest.raises(ImageError, match="no shard and row"):
        ParquetPhotos(str(root)).open("../root/a.parquet/0")
    with pytest.raises(ImageError, match="7 rows"):
        ParquetPhotos(str(root)).open("a.parquet/7")


def test_a_wrong_column_or_file_is_one_line(tmp_path):
    write_shards(tmp_path, struct=True)
    with pytest.raises(UserError, match=r"no column 'imag' .did you mean 'image'"):
        ParquetPhotos(str(tmp_path), image="imag").photographs()
    with pytest.raises(UserError, match="images are bytes"):
        ParquetPhotos(str(tmp_path), image="lic").photographs()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="no parquet file"):
        ParquetPhotos(str(tmp_path)).photographs()
    with pytest.raises(UserError, match="no such file or folder"):
        create("sources", {"class_path": "parquet", "init_args": {"root": str(tmp_path / "nowhere")}})


# --- webdataset


def write_tar(path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_samples_of_tar_shards_are_found_by_key_with_their_licences(tmp_path):
    long = "folder/" + "k" * 150  # more than a plain header holds
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        members = {
            "000.jpg": encoded(photo(0), "JPEG"),
            "000.json": json.dumps({"meta": {"license": "CC-BY"}}).encode(),
            f"{long}.png": encoded(photo(1)),
            f"{long}.txt": b"words",
        }
        write_tar(tmp_path / "00.tar", members, format)
        source = WebDatasetPhotos(str(tmp_path), license_field="meta.license", license="unknown")
        listed = source.photographs()
        assert list(listed) == [Photograph("00.tar/000", "CC-BY"), Photograph(f"00.tar/{long}", "unknown")]
        fresh = WebDatasetPhotos(str(tmp_path))  # a worker opens without listing
        assert fresh.read("00.tar/000") == members["000.jpg"]
        assert same(fresh.open(f"00.tar/{long}"), photo(1))


def test_tars_of_the_webdataset_library_are_read(tmp_path):
    import webdataset

    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for i in range(3):
                name = f"{shard}{i}"
                writer.write({"__key__": name, "png": photo(3 * shard + i), "json": {"license": LICENSES[i]}})
    source = WebDatasetPhotos(str(tmp_path))
    assert [p.name for p in source.photographs()] == [
        "0.tar/00",
        "0.tar/01",
        "0.tar/02",
        "1.tar/10",
        "1.tar/11",
        "1.tar/12",
    ]
    assert [p.license for p in source.photographs()] == LICENSES[:3] * 2
    assert same(source.open("1.tar/11"), photo(4))


def test_samples_that_cannot_be_used_are_reported(tmp_path, caplog):
    members = {
        "a.txt": b"no image",
        "b.png": encoded(photo(1)),
        "b.json": b"{broken",
        "c.jpg": b"not an image",
        "../../d.png": encoded(photo(2)),
        "e.png": encoded(photo(3, (400, 300))),
    }
    path = tmp_path / "s.tar"
    write_tar(path, members)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(members["e.png"][:60]) + 1000])
    source = WebDatasetPhotos(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert [p.name for p in source.photographs()] == ["s.tar/b", "s.tar/c", "s.tar/../../d"]
    assert source.left_out["no image"] == 2  # `a` has none, that of `e` is cut off
    assert same(source.open("s.tar/../../d"), photo(2))  # a key only: nothing is unpacked, no path is made of it
    with pytest.raises(ImageError):
        source.open("s.tar/c")
    for name in ("s.tar/a", "nowhere.tar/b", "../s.tar/b"):
        with pytest.raises(ImageError, match="no shard and key"):
            source.open(name)


def test_a_compressed_shard_is_refused_with_what_to_do(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(UserError, match="unpack compressed shards"):
        WebDatasetPhotos(str(tmp_path)).photographs()


# --- openimages

HEADER = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,Rotation\n"
BY = "https://creativecommons.org/licenses/by/2.0/"


def test_open_images_are_joined_with_their_rows_and_what_has_no_partner_is_counted(tmp_path, caplog):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("b.jpg", "sub/a.jpg", "alone.jpg", "sub/b.png"):
        photo(1).save(images / name)
    (images / "bad.jpg").write_bytes(b"nothing")
    rows = [f'{i},train,u,l,{BY},p,"An ""author"", A.",t,0.0\n' for i in ("a", "b", "gone", "a", "bad")]
    (tmp_path / "rows.csv").write_text("\ufeff" + HEADER + "".join(rows), encoding="utf-8")
    source = OpenImagesPhotos(str(images), str(tmp_path / "rows.csv"), report=str(tmp_path / "report.csv"))
    with caplog.at_level(logging.WARNING):
        assert list(source.photographs()) == [Photograph("b.jpg", BY), Photograph("sub/a.jpg", BY)]
    assert source.left_out == {
        "unreadable": 1,
        "row without image": 2,  # `gone`, and `bad` whose image is none
        "row occurs twice": 1,
        "image without row": 1,
        "id occurs twice": 1,
    }
    named = {(r["name"], r["reason"]) for r in csv.DictReader((tmp_path / "report.csv").open())}
    assert {
        ("gone", "row without image"),
        ("alone.jpg", "image without row"),
        ("sub/b.png", "id occurs twice"),
    } <= named
    assert same(source.open("sub/a.jpg"), Image.open(images / "sub" / "a.jpg"))
    with pytest.raises(UserError, match="outside"):
        source.open("../rows.csv")


def test_rows_without_a_licence_get_the_one_for_all(tmp_path):
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("ImageID,License\na,\n")
    for license in ("unknown", ""):
        source = OpenImagesPhotos(str(tmp_path), str(tmp_path / "rows.csv"), license=license)
        assert list(source.photographs()) == [Photograph("a.png", license)]
    without = OpenImagesPhotos(str(tmp_path), str(tmp_path / "rows.csv"), license_column="", license="CC0")
    assert list(without.photographs()) == [Photograph("a.png", "CC0")]


def test_a_csv_that_is_not_of_open_images_is_one_line(tmp_path):
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("Image,License\na,b\n")
    with pytest.raises(UserError, match=r"no column 'ImageID' .did you mean 'Image'"):
        OpenImagesPhotos(str(tmp_path), str(tmp_path / "rows.csv")).photographs()
    (tmp_path / "rows.csv").write_text(HEADER + "z,,,,,,,,\n")
    with pytest.raises(UserError, match=r"no photograph in .* has a row"):
        OpenImagesPhotos(str(tmp_path), str(tmp_path / "rows.csv")).photographs()
