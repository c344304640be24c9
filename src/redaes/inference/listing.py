"""Score many image files: one row per file, whatever happens to single files.

In: paths (see `redaes.data.images.list_images`) and a scorer. Out: rows, in order, in batches; tables, JSON lines, CSV
or parquet. An image that cannot be read, and an answer that holds no score, become rows with an `error` and no score.

A file of rows can be continued: rows of the same model that hold a score are kept, everything else is scored again.
The model is told by its fingerprint, so that one file never mixes two models. A file is told by its path alone.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from errno import EISDIR
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeVar

from redaes.data.ahead import ahead
from redaes.data.images import VIEW_SIDE, ImageError, decode, open_image
from redaes.errors import UserError
from redaes.inference import ScorerProtocol
from redaes.inference.asking import Asking, LoadedScorer, Outcome, Read, images_at_once
from redaes.inference.pools import RemoteImage, ScorerPool, scoring_runner
from redaes.registry import PluginSpec

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
FileFormat = Literal["jsonl", "csv", "parquet"]
ROWS_AT_ONCE = 8192
NO_SCORE = "the model's answer holds no score"


@dataclass(frozen=True)
class Row:
    """What is known of one image file.

    Attributes:
        path: as it was named or found, in UTF-8.
        score: in [0, 10]; None if there is none, and then `error` says why.
        reasoning: the model's words; empty if it gave none.
        error: one line; empty if the image has a score.
        model: fingerprint of the model asked.
    """

    path: str
    score: float | None
    reasoning: str
    error: str
    model: str


def score_files(
    files: Sequence[Path | RemoteImage],
    scorer: ScorerProtocol | ScorerPool,
    model: str,
    *,
    batch_size: int | None = None,
) -> Iterator[list[Row]]:
    """Score files in batches; the next batch is read while the present one is scored.

    Args:
        files: image files, readable or not, or images elsewhere.
        scorer: sees each readable image at most `VIEW_SIDE` pixels wide and high, or as its `view_side` says; or many.
        model: fingerprint to write into the rows.
        batch_size: files per batch; None: as many as the scorer works on at once.

    Yields:
        The rows of one batch, in the order of `files`.
    """
    return score_items(files, scorer, model, name=display_path, read=_open_file, batch_size=batch_size)


def score_items(
    items: Sequence[T],
    scorer: ScorerProtocol | ScorerPool,
    model: str,
    *,
    name: Callable[[T], str],
    read: "Callable[[T, int], Image]",
    batch_size: int | None = None,
) -> Iterator[list[Row]]:
    """Score whatever images can be read from, in batches; the next batch is read while the present one is scored.

    Args:
        items: one for each image.
        scorer: sees each readable image; or many that do, which choose their batches themselves.
        model: fingerprint to write into the rows.
        name: what a row calls an item.
        read: opens an item, its longer side at most so many pixels; raises an `ImageError` where it cannot. For a pool
            items and function are picklable.
        batch_size: images per batch; None: as many as the scorer works on at once.

    Yields:
        The rows of one batch, in the order of `items`.

    Raises:
        ScorerGivenUp: the scorer's settings are at fault, or it breaks on image after image; the rows before were
            handed on.
    """
    if isinstance(scorer, ScorerPool):
        asked = _from_pool(items, scorer, read)
    else:
        asked = _outcomes(items, scorer, read, batch_size or images_at_once(scorer))
    remaining = iter(items)
    with closing(asked) as batches:
        for outcomes in batches:
            yield [_row(name(item), outcome, model) for outcome, item in zip(outcomes, remaining, strict=False)]


def _outcomes(
    items: Sequence[T], scorer: ScorerProtocol, read: "Callable[[T, int], Image]", batch_size: int
) -> Generator[list[Outcome], None, None]:
    """Of a scorer in this process."""
    asking, side = Asking(scorer, batch_size), getattr(scorer, "view_side", VIEW_SIDE)
    with closing(ahead(lambda item: _read(read, item, side), items, held=batch_size, threads=2)) as opened:
        while batch := [each.image for each in islice(opened, batch_size)]:
            yield asking.outcomes(batch)
            asking.check()


def _from_pool(
    items: Sequence[T], pool: ScorerPool, read: "Callable[[T, int], Image]"
) -> Generator[list[Outcome], None, None]:
    """Of many scorers elsewhere."""
    with closing(pool.ask(items, partial(_read, read))) as asked:
        for some in asked:
            yield [said.outcome for said in some]


def _read(read: "Callable[[T, int], Image]", item: T, side: int) -> Read:
    try:
        return Read(read(item, side))
    except ImageError as error:
        return Read(error)


def _open_file(file: Path | RemoteImage, side: int) -> "Image":
    if isinstance(file, Path):
        return open_image(file, max_side=side)
    try:
        return decode(file.fetch(file.url), file.url, max_side=side)
    except ImageError:
        raise
    except UserError as error:
        raise ImageError(file.url, str(error)) from error


def _row(name: str, outcome: Outcome, model: str) -> Row:
    error = NO_SCORE if outcome.status == "unparsed" else outcome.error
    return Row(name, outcome.value, outcome.reasoning, error, model)


@contextmanager
def opened(
    model: str, *, scorer: str, batch_size: int | None, device: str | None, runner: PluginSpec | None = None
) -> Iterator[ScorerProtocol | ScorerPool]:
    """The scorer that serves a model, in this process; or many, where a runner has them.

    Args:
        model: as of `load_scorer`.
        scorer: as of `load_scorer`.
        batch_size: as of `load_scorer`.
        device: as of `load_scorer`.
        runner: a plug-in that can score; None: this process.

    Raises:
        UserError: as of `load_scorer`; a runner that cannot score, or opens another model than is here.
    """
    if runner is None:
        yield load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
        return
    make = partial(_load, model, scorer=scorer, batch_size=batch_size, device=device)
    with scoring_runner(runner).scorers(make) as pool:
        here = fingerprint(model, scorer)
        if pool.fingerprint != here:
            raise UserError(f"the runner's processes have another model than is here ({pool.fingerprint}, not {here})")
        yield pool


def _load(model: str, *, scorer: str, batch_size: int | None, device: str | None) -> LoadedScorer:
    loaded = load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
    return LoadedScorer(model, fingerprint(model, scorer), loaded, images_at_once(loaded, batch_size))


def load_scorer(
    model: str, *, scorer: str = "redaes", batch_size: int | None = None, device: str | None = None
) -> ScorerProtocol:
    """Make the scorer that serves a model.

    Args:
        model: a checkpoint folder, `nano`, or a hub id; whatever a scorer of another package understands.
        scorer: which scorer plug-in.
        batch_size: images in one forward pass; None: the scorer's own choice.
        device: where the model runs; None chooses.

    Raises:
        UserError: no such scorer, or a model that it cannot open.
    """
    from redaes.registry import create

    size = {} if batch_size is None else {"batch_size": batch_size}
    made: ScorerProtocol = create("scorers", scorer, model=model, device=device, **size)
    return made


def display_path(path: Path | RemoteImage) -> str:
    """The path or URL as UTF-8 text; bytes that are not UTF-8 are written as escapes.

    Example:
        >>> display_path(Path("a/b.jpg"))
        'a/b.jpg'
    """
    return os.fsencode(path if isinstance(path, Path) else path.url).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text of foreign origin made safe for a terminal: no control characters, one line.

    Example:
        >>> printable("fine\\x1b[31m\\nred")
        'fine [31m red'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def fingerprint(model: str, scorer: str = "redaes") -> str:
    """A short name that differs when the model's files differ: `<name>@<hash>`.

    Args:
        model: a checkpoint folder, `nano`, or a hub id, which stands for itself.
        scorer: which scorer plug-in; models of another than ours are told by scorer and name alone.

    Raises:
        UserError: not a checkpoint that can be opened.
    """
    from redaes.models.vlm import checkpoint_path

    if scorer != "redaes":
        return f"{scorer}:{model}"
    folder = Path(checkpoint_path(model))
    return f"{folder.resolve().name}@{hash_folder(folder)}" if folder.is_dir() else model


def read_rows(path: Path, file_format: FileFormat) -> list[Row]:
    """The rows of a file written by `RowWriter`, whole or interrupted; a last line torn by a crash is left out.

    Raises:
        UserError: the file is something else.
    """
    try:
        if file_format == "parquet" and _journal(path).is_file():  # it begins with what the file holds
            return _rows_of_jsonl(_whole_lines(_journal(path)))
        if file_format == "parquet":
            return [Row(**values) for values in _pyarrow_parquet().read_table(path).to_pylist()]
        return _rows_of_jsonl(_whole_lines(path)) if file_format == "jsonl" else _rows_of_csv(_whole_lines(path))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f"{path} exists and is no {file_format} file written by `redaes score` ({printable(str(error))}); "
            "name another --output"
        ) from error


def rows_to_keep(path: Path, file_format: FileFormat, model: str) -> list[Row]:
    """The rows with a score that a file holds already; none where there is no file.

    Raises:
        UserError: the file is something else, or its rows are of another model.
    """
    if not path.is_file() and not (file_format == "parquet" and _journal(path).is_file()):
        return []
    rows = read_rows(path, file_format)
    others = sorted({row.model for row in rows} - {model})
    if others:
        raise UserError(f"{path} holds scores of another model ({others[0]}, not {model}); name another --output")
    return [row for row in rows if row.score is not None]


def is_finished(path: Path) -> bool:
    """Whether a parquet file of rows is there, and holds all that was scored for it."""
    return path.is_file() and not _journal(path).exists()


def to_line(row: Row, file_format: Literal["jsonl", "csv"]) -> str:
    """One row as a line of text, line end included."""
    if file_format == "jsonl":
        return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n"
    return _csv_line(["" if value is None else value for value in asdict(row).values()])


def header(file_format: Literal["jsonl", "csv"], kind: type[Row] = Row) -> str:
    """What stands before the first row: the column names in CSV, nothing in JSON lines."""
    return _csv_line([field.name for field in fields(kind)]) if file_format == "csv" else ""


class RowWriter(AbstractContextManager["RowWriter"]):
    """A file of rows that loses nothing: every batch is on disk before the next is scored.

    JSON lines and CSV are appended to. Parquet cannot be: its rows go to JSON lines in a hidden file beside it, and it
    is written from them on closing, also after an error. If even that is prevented, `read_rows` finds them there.

    Args:
        path: the file; its folder must exist.
        file_format: how to write.
        kept: rows to begin with; whatever else the file held is replaced.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, file_format: FileFormat, kept: Sequence[Row] = ()) -> None:
        self.path = path
        self.file_format = file_format
        self._appended = _journal(path) if file_format == "parquet" else path
        self._text: Literal["jsonl", "csv"] = "csv" if file_format == "csv" else "jsonl"
        from redaes.data.manifest import write_atomically  # pydantic with it, which a scorer can do without

        try:
            if file_format == "parquet":
                _pyarrow_parquet()
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            write_atomically(self._appended, header(self._text) + "".join(to_line(row, self._text) for row in kept))
            self._file: IO[str] = self._appended.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows of one batch."""
        self._file.write("".join(to_line(row, self._text) for row in rows))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        if self.file_format == "parquet":
            _write_parquet(self.path, self._appended)
            self._appended.unlink()


def _journal(path: Path) -> Path:
    """Where the rows of a parquet file are until it is written."""
    return path.with_name(f".{path.name}.jsonl")


def _write_parquet(path: Path, lines: Path) -> None:
    """A parquet file from JSON lines, some thousands of rows in memory at a time."""
    pa, parquet = import_module("pyarrow"), _pyarrow_parquet()
    text = [(name, pa.string()) for name in ("reasoning", "error", "model")]
    schema = pa.schema([("path", pa.string()), ("score", pa.float64()), *text])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with parquet.ParquetWriter(temporary, schema) as writer, lines.open(encoding="utf-8") as file:
        while some := list(islice(file, ROWS_AT_ONCE)):
            rows = _rows_of_jsonl("".join(some))
            writer.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema))
    temporary.replace(path)


def _whole_lines(path: Path) -> str:
    """Text of a file up to its last line end."""
    text = path.read_bytes().decode("utf-8")
    return text[: text.rfind("\n") + 1]


def hash_folder(folder: Path) -> str:
    """Of names, sizes and contents; of large files (weights) only the first and the last MiB, to stay quick."""
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:12]


def _rows_of_jsonl(text: str) -> list[Row]:
    return [Row(**json.loads(line)) for line in text.split("\n") if line]


def _rows_of_csv(text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    expected = [field.name for field in fields(Row)]
    if text and reader.fieldnames != expected:
        raise ValueError(f"its columns are not {', '.join(expected)}")
    complete: list[dict[str, Any]] = [values for values in reader if None not in values.values()]
    return [Row(**{**values, "score": float(values["score"]) if values["score"] else None}) for values in complete]


def _csv_line(values: Sequence[object]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
    return buffer.getvalue()


def _pyarrow_parquet() -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError("parquet files need pyarrow; install it with: pip install 'redaes[data]'") from error
