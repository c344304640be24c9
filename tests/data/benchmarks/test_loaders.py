"""The official downloads go in as they are; everything that is wrong with one is counted and named."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.benchmarks import layouts

from redaes.data.benchmarks import about
from redaes.data.benchmarks.ava import KNOWN_MISSING_IDS
from redaes.data.benchmarks.lists import Rows, read_lines
from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.registry import create

WRITERS = {
    "ava": layouts.write_ava,
    "tad66k": layouts.write_tad66k,
    "flickr_aes": layouts.write_flickr_aes,
    "para": layouts.write_para,
    "aadb": layouts.write_aadb,
}


def load(name, root, **settings):
    return create("benchmarks", {"class_path": name, "root": str(root), **settings}).load()


def scores(benchmark):
    return {item.id: item.mos for item in benchmark.items}


@pytest.mark.parametrize("nest", ["", "download"])
@pytest.mark.parametrize("name", WRITERS)
def test_an_official_layout_gives_every_score_in_the_native_range(name, nest, tmp_path):
    truth = WRITERS[name](tmp_path / nest)
    benchmark = load(name, tmp_path)
    assert scores(benchmark) == pytest.approx(truth)
    assert (benchmark.n_listed, benchmark.left_out) == (12, {})
    assert all(0 <= benchmark.normalised(mos) <= 1 for mos in truth.values())
    assert all(item.path.is_file() for item in benchmark.items)


@pytest.mark.parametrize("images", ["image", "images", "images/images", "ava_images"])
def test_ava_images_lie_where_the_mirrors_put_them(images, tmp_path):
    assert scores(load("ava", (layouts.write_ava(tmp_path, images=images), tmp_path)[1])).keys()


@pytest.mark.parametrize("kind", [{"lists": "mat"}, {"prefixed": True, "images": "AADB_newtest"}])
def test_aadb_reads_its_mat_file_and_its_prefixed_names(kind, tmp_path):
    truth = layouts.write_aadb(tmp_path, **kind)
    assert scores(load("aadb", tmp_path)) == pytest.approx(truth)


@pytest.mark.parametrize("name", WRITERS)
def test_a_circulating_json_list_gives_its_own_scores(name, tmp_path):
    truth = WRITERS[name](tmp_path)
    entries = [{"image": f"{id}.jpg" if name == "ava" else id, "gt_score": mos} for id, mos in truth.items()]
    (tmp_path / "list.json").write_text(json.dumps([{**entries[0]}, *entries[1:5], {"image": "none.jpg"}]))
    benchmark = load(name, tmp_path, list_file=str(tmp_path / "list.json"))
    assert list(scores(benchmark).values()) == pytest.approx(list(truth.values())[:5])
    assert benchmark.left_out == {"score is not a number": ["none.jpg"]}
    assert "not the official split" in benchmark.split


def test_flickr_aes_takes_a_list_of_names_and_says_when_it_has_none(tmp_path):
    truth = layouts.write_flickr_aes(tmp_path)
    assert any("no test split" in note for note in load("flickr_aes", tmp_path).notes)
    names = list(truth)[3:7]
    (tmp_path / "names.txt").write_text("\n".join([*names, "stranger.jpg"]))
    benchmark = load("flickr_aes", tmp_path, list_file=str(tmp_path / "names.txt"))
    assert scores(benchmark) == {name: truth[name] for name in names}
    assert benchmark.left_out == {"listed without an annotation": ["stranger.jpg"]}
    assert "names.txt has 5 rows, the list that papers use 4737" in benchmark.notes
    ratings = load("flickr_aes", tmp_path, scores="ratings")
    assert scores(ratings) == pytest.approx({name: 5 * score for name, score in truth.items()}, abs=1e-3)


def test_the_ids_of_ava_that_nobody_has_are_expected(tmp_path):
    layouts.write_ava(tmp_path, listed_only=[*sorted(KNOWN_MISSING_IDS), "5"])
    benchmark = load("ava", tmp_path)
    assert set(benchmark.left_out["known to be missing everywhere"]) == KNOWN_MISSING_IDS
    assert benchmark.left_out["listed without an annotation"] == ["5"]
    assert benchmark.n_listed == 12 + 71


def test_a_list_of_names_says_why_the_sets_own_row_cannot_be_used(tmp_path):
    name, *_ = layouts.write_flickr_aes(tmp_path)
    with (tmp_path / "FLICKR-AES_image_score.txt").open("a") as file:
        file.write(" too-high.jpg 1.4\n")
    (tmp_path / "names.txt").write_text(f"{name}\nimages/too-high.jpg\n")
    benchmark = load("flickr_aes", tmp_path, list_file=str(tmp_path / "names.txt"))
    assert benchmark.left_out == {"score outside the range": ["images/too-high.jpg"]}


def test_ids_of_ava_with_several_rows_of_votes_are_named(tmp_path):
    truth = layouts.write_ava(tmp_path)
    first, *_ = truth
    with (tmp_path / "AVA.txt").open("a") as file:
        file.write(f"99 {first} 9 0 0 0 0 0 0 0 0 0 0 0 1\n")
    benchmark = load("ava", tmp_path)
    assert f"1 ids have several rows in AVA.txt, first {first}; the first counts" in benchmark.notes
    assert scores(benchmark) == pytest.approx(truth)


def test_a_training_list_in_place_of_the_test_list_is_refused(tmp_path):
    layouts.write_ava(tmp_path / "ava")
    listing = tmp_path / "ava/aesthetics_image_lists/generic_test.jpgl"
    listing.write_text("\n".join(map(str, range(1, 20_001))))
    with pytest.raises(
        UserError, match=r"not the official test list of AVA: it has 20000 rows, but lacks \d+ of the 70"
    ):
        load("ava", tmp_path / "ava")
    layouts.write_tad66k(tmp_path / "tad")
    rows = "".join(f"{n}.jpg,5.0\r\n" for n in range(52_248))
    (tmp_path / "tad/labels/merge/test.csv").write_text("image,score\r\n" + rows)
    with pytest.raises(UserError, match=r"not the official test list of TAD66K: 52248 rows, expected 14079"):
        load("tad66k", tmp_path / "tad")


def test_the_unmerged_lists_of_tad66k_are_no_test_list(tmp_path):
    layouts.write_tad66k(tmp_path)
    (tmp_path / "labels/merge/test.csv").unlink()
    with pytest.raises(UserError, match="unmerge/ is there, but 478 test images are in its training lists"):
        load("tad66k", tmp_path)


def test_every_bad_row_is_counted_and_named(tmp_path):
    truth = layouts.write_tad66k(tmp_path)
    names = list(truth)
    (tmp_path / "TAD66K" / names[0]).unlink()
    layouts.write_image(tmp_path / "TAD66K/nobody.jpg", 1)
    with (tmp_path / "labels/merge/test.csv").open("ab") as file:
        file.write(f"{names[1]},5\r\nx.jpg,eleven\r\ny.jpg,10.5\r\nz.jpg\r\n".encode() + b"\xff\xfe.jpg,5\r\n")
    benchmark = load("tad66k", tmp_path)
    assert benchmark.left_out == {
        "duplicated id": [names[1]],
        "score is not a number": ["x.jpg"],
        "score outside the range": ["y.jpg"],
        "wrong columns": ["test.csv:17"],
        "unreadable encoding": ["test.csv:18"],
        "image file missing": [names[0]],
        "image without a row": ["TAD66K/nobody.jpg"],
    }
    assert (benchmark.n_listed, len(benchmark.items)) == (17, 11)


LISTS = {
    "ava": "aesthetics_image_lists/generic_test.jpgl",
    "tad66k": "labels/merge/test.csv",
    "flickr_aes": "FLICKR-AES_image_score.txt",
    "para": "PARA/annotation/PARA-GiaaTest.csv",
    "aadb": "imgListFiles_label/imgListTestNewRegression_score.txt",
}
PARA_ROW = "session1,{},plant" + ",0" * 9 + ",{},0.5\r\n"
ROWS = {  # one that repeats an image, one whose score is outside the range, one with too few columns
    "ava": "{0}\n900000x\n",
    "tad66k": "{0},5\r\ntoo-high.jpg,10.5\r\nshort.jpg\r\n",
    "flickr_aes": " {0} 0.5\n too-high.jpg 1.4\n short.jpg\n",
    "para": PARA_ROW.format("{0}", 2.0) + PARA_ROW.format("too-high.jpg", 5.5) + "session1,short.jpg\r\n",
    "aadb": "{0} 0.5\ntoo-high.jpg 1.5\nshort.jpg\n",
}


TRAINING_LISTS = {
    "ava": "aesthetics_image_lists/generic_ls_train.jpgl",
    "tad66k": "labels/merge/train.csv",
    "para": "PARA/annotation/PARA-GiaaTrain.csv",
    "aadb": "imgListFiles_label/imgListTrainRegression_score.txt",
}


@pytest.mark.parametrize("name", TRAINING_LISTS)
def test_a_test_list_that_is_a_training_list_is_noted_once(name, tmp_path):
    WRITERS[name](tmp_path)
    assert not any("too, first" in note for note in load(name, tmp_path).notes)
    (tmp_path / TRAINING_LISTS[name]).write_bytes((tmp_path / LISTS[name]).read_bytes())
    (note,) = [note for note in load(name, tmp_path).notes if "too, first" in note]
    assert note.startswith(f"12 images are in {Path(TRAINING_LISTS[name]).name} too")


@pytest.mark.parametrize("name", WRITERS)
def test_every_set_counts_what_is_wrong_with_its_download(name, tmp_path):
    truth = WRITERS[name](tmp_path)
    whole = {item.id: item.path for item in load(name, tmp_path).items}
    lost, repeated = list(truth)[:2]
    whole[lost].unlink()
    stranger = whole[repeated].with_name("stranger.jpg")
    layouts.write_image(stranger, 1)
    with (tmp_path / LISTS[name]).open("a", newline="") as file:
        file.write(ROWS[name].format(repeated.rpartition("/")[2]))
    benchmark = load(name, tmp_path)
    left_out = {reason: list(ids) for reason, ids in benchmark.left_out.items()}
    assert left_out["image file missing"] == [lost]
    assert left_out["image without a row"] == [f"{stranger.parent.name}/{stranger.name}"]
    assert left_out["duplicated id"] == [repeated]
    assert len(left_out["wrong columns"]) == 1
    if name != "ava":  # a mean of votes from 1 to 10 cannot be outside
        assert [id.rpartition("/")[2] for id in left_out["score outside the range"]] == ["too-high.jpg"]
    rows_left_out = sum(len(ids) for reason, ids in left_out.items() if reason != "image without a row")
    assert benchmark.n_listed == len(benchmark.items) + rows_left_out
    assert scores(benchmark) == pytest.approx({id: truth[id] for id in list(truth)[1:]})


@pytest.mark.parametrize("name", ["para", "aadb"])
def test_a_longer_list_than_the_official_one_is_refused(name, tmp_path):
    WRITERS[name](tmp_path)
    row = PARA_ROW.format("{}.jpg", 2.0) if name == "para" else "{}.jpg 0.5\n"
    with (tmp_path / LISTS[name]).open("a", newline="") as file:
        file.write("".join(row.format(number) for number in range(9_000)))
    with pytest.raises(UserError, match=r"is not the official test list of .* is it the training list"):
        load(name, tmp_path)


def test_votes_that_are_none_are_counted(tmp_path):
    truth = layouts.write_ava(tmp_path)
    first, second = list(truth)[:2]
    text = (tmp_path / "AVA.txt").read_text().splitlines()
    text[0] = f"1 {first} -1" + " 3" * 9 + " 0 0 1"
    text[1] = f"2 {second} 1 2 3"
    (tmp_path / "AVA.txt").write_text("\n".join(text))
    left_out = load("ava", tmp_path).left_out
    assert left_out["score is not a number"] == [first]
    assert left_out["wrong columns"] == [second]


def test_images_that_no_list_of_aadb_mentions_are_told_from_those_of_the_training_list(tmp_path):
    for kind in ("txt", "mat"):
        truth = layouts.write_aadb(tmp_path / kind, lists=kind, images="datasetImages_originalSize")
        assert len(truth) == 12
        for number, trained in enumerate([layouts._names(1, 900)[0], "stranger.jpg"]):
            layouts.write_image(tmp_path / kind / "datasetImages_originalSize" / trained, number)
        assert load("aadb", tmp_path / kind).left_out == {
            "image without a row": ["datasetImages_originalSize/stranger.jpg"]
        }


def test_wrong_columns_and_an_empty_folder_are_told_apart(tmp_path):
    layouts.write_para(tmp_path)
    (tmp_path / "PARA/annotation/PARA-GiaaTest.csv").write_text("image,score\na,1\n")
    with pytest.raises(UserError, match=r"no column sessionId, imageName, aestheticScore_mean; its columns are image"):
        load("para", tmp_path)
    with pytest.raises(UserError, match=r"no AVA\.txt|no aesthetics_image_lists"):
        load("ava", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        load("ava", tmp_path / "nowhere")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_ones_own_is_read_by_the_names_of_its_columns(delimiter, tmp_path):
    for index in range(3):
        layouts.write_image(tmp_path / f"{index}.png", index)
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["stars", "file"], [1, "0.png"], [4, "1.png"], [3, "gone.png"]])
    benchmark = load("csv", tmp_path / "mine.csv", path="file", score="stars")
    assert scores(benchmark) == {"0.png": 1, "1.png": 4}
    assert benchmark.native_range == (1, 4)
    assert benchmark.left_out["image file missing"] == ["gone.png"]
    assert [name.partition("/")[2] for name in benchmark.left_out["image without a row"]] == ["2.png"]
    assert "measured" in benchmark.notes[1]


def test_every_benchmark_says_where_it_is_obtained():
    assert set(about()) >= {*WRITERS, "csv", "groups"}
    assert about()["ava"].images == 19_930


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reading_of_lines(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("lines") / "list.txt"
    path.write_bytes(data)
    assert all(text is None or text.strip() for _, text in read_lines(path))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.floats(), st.text(max_size=4), st.none()))))
def test_every_row_ends_up_in_one_place(listed):
    rows = Rows(1, 10)
    for id, score in listed:
        rows.add(id, score)
    assert rows.n_listed == len(listed) == len(rows.rows) + sum(map(len, rows.left_out.values()))
    assert all(1 - 1e-6 <= row.mos <= 10 + 1e-6 for row in rows.rows.values())


def test_the_groups_of_a_dataset_keep_their_group_and_their_scores(dataset):
    manifest = Manifest(dataset)
    groups = manifest.groups("train")
    benchmark = load("groups", dataset, split="train")
    assert benchmark.n_listed == sum(len(group.members) for group in groups)
    members = {item.id: item for item in benchmark.items}
    source = members[groups[0].members[0].image]
    assert (source.mos, source.group) == (groups[0].score, groups[0].id)
    assert all(0 <= item.mos <= 10 for item in benchmark.items)
    with pytest.raises(UserError, match="no image of a"):
        load("groups", dataset, split="nosuch")
