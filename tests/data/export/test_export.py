"""What was exported is opened by the libraries that others use, and says what the dataset says."""

import io
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image

from redaes.cli import main
from redaes.data.aescot import Aescot
from redaes.data.export import export
from redaes.data.export.card import card
from redaes.data.export.rows import TABLES, rows
from redaes.data.manifest import Manifest, read_records
from redaes.engine.build import build
from redaes.engine.config import load_config
from redaes.engine.runners import SerialRunner
from redaes.records import GroupRecord, PairRecord, ScoreRecord
from redaes.sources.skimage_photos import SkimagePhotos

HOSTILE = "<script>alert(1)</script> | `x` [y](javascript:z) \x1b[31m\n---\nlicense: mit"

YAML = """
source: {class_path: folder, init_args: {root: PHOTOS, license: LICENSE}}
split: {test: [coffee.png], validation: [rocket.png]}
sources: {train: 14, validation: 2, test: 2, size: 48, faults: {share: 0.9}}
editors: [procedural/tone, procedural/colour, procedural/detail, procedural/geometry, procedural/content]
verifiers: [pixel/success, pixel/fidelity]
judges: [pixel/detail, pixel/tone, pixel/colour]
groups: {train: 4, instructions: 5, min_variants: 1}
verification: {min_passing: 2}
calibration: 10
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    place = tmp_path_factory.mktemp("export")
    (place / "photos").mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        SkimagePhotos().open(name).save(place / "photos" / f"{name}.png")
    text = YAML.replace("PHOTOS", str(place / "photos")).replace("LICENSE", json.dumps(HOSTILE))
    (place / "data.yaml").write_text(text)
    build(load_config(place / "data.yaml"), place / "data", SerialRunner())
    return Manifest(place / "data")


@pytest.fixture
def exported(dataset: Manifest, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    written = export(dataset, tmp_path / "out", request.param)
    counts = {name: count for name, count in dataset.info["counts"].items() if name != "incomplete"}
    assert {name: sum(s["rows"] for s in splits.values()) for name, splits in written["tables"].items()} == counts
    assert all(splits for splits in written["tables"].values()), "the dataset is too small to show anything"
    return tmp_path / "out"


def expected(dataset: Manifest, table: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, with the bytes of images in place of their paths."""
    by_split: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for split, row in rows(dataset, table):
        for column in TABLES[table].images:
            row[column] = each(row[column], lambda path: dataset.path(path).read_bytes())
        by_split[split].append(row)
    return by_split


def each(value: Any, function: Any) -> Any:
    """A function applied to an image, to every one of several, or to none."""
    if isinstance(value, list):
        return [function(element) for element in value]
    return None if value is None else function(value)


def pixels(image: Image.Image) -> tuple[str, tuple[int, int], bytes]:
    return image.mode, image.size, image.tobytes()


def load(folder: Path, name: str, tmp_path: Path, **options: Any) -> datasets.DatasetDict:
    return datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"), **options)


# --- rows against records


def test_rows_say_what_the_records_say(dataset: Manifest) -> None:
    pairs = {p.id: p for p in read_records(dataset.root / "pairs.jsonl", PairRecord)}
    for split, row in rows(dataset, "pairs"):
        record = pairs.pop(row["id"])
        assert (split, row["license"], row["photograph"]) == (record.source.split, HOSTILE, record.source.photograph)
        assert (row["delta"], row["source_score"], row["reasoning"]) == (record.delta, record.score, record.reasoning)
        assert (row["instruction"], row["editor"]) == (record.edit.instruction.text, record.edit.editor)
        assert record.edit.fused is not None
        assert [place for place, v in enumerate(row["verdicts"]) if v["outlier"]] == list(record.edit.fused.outliers)
        assert row["consensus_method"] == record.edit.fused.method
    assert not pairs
    groups = {g.id: g for g in read_records(dataset.root / "groups.jsonl", GroupRecord)}
    for _, row in rows(dataset, "groups"):
        record = groups.pop(row["id"])
        assert row["g"] == [m.g for m in record.members]
        assert row["images"] == [m.image for m in record.members]
        assert [e["id"] for e in row["edits"]] == [m.edit.id for m in record.members if m.edit]
    assert not groups
    scores = {s.source.id: s.fused.value for s in read_records(dataset.root / "sources.jsonl", ScoreRecord)}
    assert {row["id"]: row["score"] for _, row in rows(dataset, "sources")} == scores
    assert all(row["id"].startswith(f"{split}-") for split, row in rows(dataset, "edits"))


# --- opened by others


@pytest.mark.parametrize("exported", ["hf"], indirect=True)
@pytest.mark.parametrize("table", list(TABLES))
def test_load_dataset_opens_every_table_of_hf_by_name(
    exported: Path, dataset: Manifest, table: str, tmp_path: Path
) -> None:
    loaded = load(exported, table, tmp_path)
    wanted = expected(dataset, table)
    assert set(loaded) == set(wanted)
    for split, opened in loaded.items():
        columns = TABLES[table].images
        for row, right in zip(opened, wanted[split], strict=True):
            for column in columns:
                shown = each(row.pop(column), pixels)
                assert shown == each(right.pop(column), lambda data: pixels(Image.open(io.BytesIO(data))))
            assert row == right


@pytest.mark.parametrize("exported", ["parquet"], indirect=True)
def test_load_dataset_and_pyarrow_open_plain_parquet(exported: Path, dataset: Manifest, tmp_path: Path) -> None:
    for table in TABLES:
        wanted = expected(dataset, table)
        loaded = load(exported, table, tmp_path)
        assert {split: list(opened) for split, opened in loaded.items()} == wanted
        file = pq.read_table(exported / table / "train-00000.parquet")
        assert file.to_pylist() == wanted["train"]


@pytest.mark.parametrize("exported", ["jsonl"], indirect=True)
def test_load_dataset_opens_json_lines_with_their_images(exported: Path, dataset: Manifest, tmp_path: Path) -> None:
    for table in ("pairs", "groups", "sources", "calibration"):
        loaded = load(exported, table, tmp_path)
        wanted = expected(dataset, table)
        assert set(loaded) == set(wanted)
        for split, opened in loaded.items():
            for row, right in zip(opened, wanted[split], strict=True):
                for column in TABLES[table].images:
                    shown = each(row.pop(column), pixels)
                    assert shown == each(right.pop(column), lambda data: pixels(Image.open(io.BytesIO(data))))
                assert row == right
    edits = datasets.load_dataset(
        "json",
        data_files=str(exported / "edits" / "train-*" / "metadata.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    for row, right in zip(edits, expected(dataset, "edits")["train"], strict=True):
        path, image = row.pop("image_path"), right.pop("image")
        assert (exported / "edits" / "train-00000" / path).read_bytes() == image if image else path == ""
        assert row == right


@pytest.mark.parametrize("exported", ["webdataset"], indirect=True)
def test_the_webdataset_library_reads_the_tars(exported: Path, dataset: Manifest) -> None:
    images = {"pairs": ["source_image.png", "edited_image.png"], "sources": ["png"], "calibration": ["png"]}
    for table in TABLES:
        for split, wanted in expected(dataset, table).items():
            samples = list(webdataset.WebDataset(str(exported / table / f"{split}-00000.tar"), shardshuffle=False))
            assert len({s["__key__"] for s in samples}) == len(wanted)
            for sample, right in zip(samples, wanted, strict=True):
                for column, name in zip(TABLES[table].images, images.get(table, []), strict=False):
                    assert sample[name] == right[column]
                if table == "groups":
                    assert [sample[f"{n}.png"] for n in range(len(right["images"]))] == right["images"]
                if table == "edits":
                    assert sample.get("png") == right["image"]
                values = {k: v for k, v in right.items() if k not in TABLES[table].images}
                assert json.loads(sample["json"]) == values


# --- shards, and the folder


def test_scored_sources_in_aescots_form_are_read_as_the_official_file_is(dataset: Manifest, tmp_path: Path) -> None:
    written = export(dataset, tmp_path / "out", "aescot", shard_bytes=1)
    sources = dataset.sources("train")
    assert written["tables"] == {
        "sources": {
            split: {"rows": len(dataset.sources(split)), "shards": 1} for split in ("train", "validation", "test")
        }
    }
    read = Aescot(tmp_path / "out" / "sources" / "train-00000" / "metadata.jsonl")
    assert (read.scale, read.bad) == ((0, 1), {})
    assert [s.reasoning for s in read.samples] == [r.reasoning for r in sources]
    assert [s.score for s in read.samples] == pytest.approx([r.fused.value for r in sources], abs=0.0501)
    assert all(read.open(s.image).size == (48, 48) for s in read.samples)
    assert "Aes-R1's question" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("format", ["hf", "parquet", "webdataset", "jsonl"])
def test_shards_are_bounded_and_hold_the_same_rows(dataset: Manifest, tmp_path: Path, format: Any) -> None:
    limit = 30_000
    written = export(dataset, tmp_path / "out", format, shard_bytes=limit)
    for table in ("pairs", "sources"):
        shards = sorted((tmp_path / "out" / table).glob("train-*"))
        assert len(shards) == written["tables"][table]["train"]["shards"] > 1
        for shard in shards:
            size = sum(f.stat().st_size for f in ([shard] if shard.is_file() else shard.iterdir()))
            assert size < 2 * limit  # headers of tar members and parquet's footer come on top
    if format == "hf":
        ids = [row["id"] for row in load(tmp_path / "out", "sources", tmp_path, split="train")]
        assert ids == [row["id"] for split, row in rows(dataset, "sources") if split == "train"]


@pytest.mark.parametrize("format", ["hf", "webdataset"])
def test_the_same_dataset_gives_the_same_bytes(dataset: Manifest, tmp_path: Path, format: Any) -> None:
    for name in ("a", "b"):
        export(dataset, tmp_path / name, format)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) > 10
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_an_export_is_whole_or_not_there(dataset: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset.root, broken)
    kept = Manifest(broken).sources("test")[-1].source.image
    (broken / kept).unlink()
    assert main(["data", "export", str(broken), str(tmp_path / "out")]) == 2
    assert f"{kept}: no such file" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


def test_only_an_earlier_export_is_replaced_and_only_when_asked(
    dataset: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["data", "export", str(dataset.root), str(out), "--format", "jsonl"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"{out}: {dataset.info['counts']['pairs']} pairs, ")
    assert main(words) == 2
    assert "holds an export already; choose another folder or pass --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--shard-mb", "1"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert main(["data", "export", str(dataset.root), str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "exists and is no export" in capsys.readouterr().err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    assert main(["data", "export", str(dataset.root), str(out), "--shard-mb", "0"]) == 2
    assert main(["data", "export", str(tmp_path), str(tmp_path / "new")]) == 2


def test_a_place_that_cannot_be_written_is_one_line(dataset: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "export", str(dataset.root), "/proc/nowhere/out"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write /proc/nowhere/out")


def test_names_in_records_get_into_no_path(dataset: Manifest, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(dataset.root, foreign)
    for name in ("sources", "calibration", "edits", "pairs", "groups"):
        text = (foreign / f"{name}.jsonl").read_text()
        (foreign / f"{name}.jsonl").write_text(
            text.replace('"id":"train-', '"id":"../../../../tmp/train-').replace(
                '"source_id":"train-', '"source_id":"../../../../tmp/train-'
            )
        )
    for format in ("jsonl", "webdataset"):
        export(Manifest(foreign), tmp_path / format, format)  # type: ignore[arg-type]
    names = [p.relative_to(tmp_path / "jsonl").as_posix() for p in (tmp_path / "jsonl").rglob("*.png")]
    assert names
    assert all(n.split("/")[-1].split(".")[0].isdecimal() for n in names)
    text = (foreign / "sources.jsonl").read_text()
    (foreign / "sources.jsonl").write_text(
        text.replace('"image":"images/train-000000.png"', '"image":"../../secret.png"')
    )
    assert main(["data", "export", str(foreign), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_edits_of_no_source_are_named(dataset: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(dataset.root, foreign)
    lines = (foreign / "sources.jsonl").read_text().splitlines(keepends=True)
    (foreign / "sources.jsonl").write_text("".join(lines[1:]))
    assert main(["data", "export", str(foreign), str(tmp_path / "out")]) == 2
    assert "belongs to no source" in capsys.readouterr().err


# --- the card


@pytest.mark.parametrize("exported", ["hf"], indirect=True)
def test_the_card_names_tables_licences_and_parts_and_nothing_foreign_takes_effect(
    exported: Path, dataset: Manifest
) -> None:
    text = (exported / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    configs = {c["config_name"]: c["data_files"] for c in yaml.safe_load(header)["configs"]}
    assert set(configs) == set(TABLES)
    assert yaml.safe_load(header)["license"] == "other"
    assert {"split": "validation", "path": "groups/validation-*.parquet"} in configs["groups"]
    assert f"| {dataset.info['counts']['sources']} |" in body
    assert "&lt;script&gt;alert\\(1\\)&lt;/script&gt; \\| \\`x\\` \\[y\\]\\(javascript:z\\)" in body
    assert "<script" not in text
    assert "\x1b" not in text
    assert "procedural/tone, procedural/colour" in body
    assert "folder" in body
    assert str(Path(dataset.info["config"]["source"]["init_args"]["root"]).parent) not in text
    for stage, count in dataset.info["statistics"]["funnel"].items():
        assert f"| {stage.replace('_', chr(92) + '_')} | {count} |" in body
    assert "| pairs |" not in body.split("## Tables")[0]


def test_the_card_stays_short_where_every_photograph_has_a_licence_of_its_own(dataset: Manifest) -> None:
    written = {"redaes": "1", "format": "hf", "tables": {name: {} for name in TABLES}}
    text = card(dataset.info, written, {f"by {n}": 1 + (n == 7) for n in range(250)})
    assert "| by 7 | 2 |\n| by 0 | 1 |" in text
    assert "| 150 others | 150 |" in text
    assert text.count("| by ") == 100


@pytest.mark.parametrize(("mode", "words"), [("lazy", "built lazily"), ("eager", "built eagerly")])
def test_the_card_says_how_the_dataset_was_built(dataset: Manifest, tmp_path: Path, mode: str, words: str) -> None:
    changed = Manifest(dataset.root)
    judges = [{"class_path": "local", "init_args": {"model": "/home/me/vlm"}}, {"class_path": "x", "model": "a/b-2B"}]
    changed.info["config"] = {**changed.info["config"], "mode": mode, "judges": judges}
    changed.info["incomplete"] = 3
    export(changed, tmp_path / "out", "webdataset")
    text = (tmp_path / "out" / "README.md").read_text()
    assert words in text
    assert "**Incomplete**: 3 sources" in text
    assert "| judges | local \\(vlm\\), x \\(a/b\\-2B\\) |" in text
    assert "configs" not in yaml.safe_load(text.split("---\n", 2)[1])
