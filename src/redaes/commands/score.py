"""`redaes score`: a number and a reason for every image; bad files are reported and the rest scored."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from redaes.data.images import list_images
from redaes.errors import UserError, nearest
from redaes.inference.listing import (
    FileFormat,
    Row,
    RowWriter,
    display_path,
    fingerprint,
    header,
    read_rows,
    to_line,
)
from redaes.inference.terminal import print_table, report_errors, score_with_progress

Format = Literal["table", "jsonl", "csv", "parquet"]
_FORMAT_OF_SUFFIX: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


def score(
    paths: list[str],
    model: str = "nano",
    format: Format | None = None,
    output: str | None = None,
    batch_size: int = 16,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """Score images: one row each, with path, score in [0, 10], reasoning and, where it failed, the error.

    An image that cannot be read or an answer without a number is reported on stderr and the rest is scored. With
    --output the work can be interrupted and repeated: images that the file already holds a score for, by the same
    model, are not scored again.

    Args:
        paths: image files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        format: table (for the terminal), jsonl, csv or parquet. Default: by the ending of --output, else table.
        output: file to write to instead of the terminal.
        batch_size: images scored at once.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).

    Returns:
        The exit code: 0 if every image has a score, 1 if one has none.

    Raises:
        UserError: a path that does not exist, an output that cannot be written, a model that cannot be loaded.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; it must be at least 1")
    files = list_images(paths)
    run = partial(score_with_progress, model=model, scorer=scorer, batch_size=batch_size, device=device)
    if output is None:
        return _score_to_stdout(run(files), _stdout_format(format))
    path = Path(output)
    return _score_to_file(files, run, path, _file_format(format, path), fingerprint(model, scorer))


def _score_to_stdout(batches: Iterable[list[Row]], form: Literal["table", "jsonl", "csv"]) -> int:
    rows: list[Row] = []
    failed = False
    for batch in batches:
        if form != "table":
            sys.stdout.write(("" if rows else header(form)) + "".join(to_line(row, form) for row in batch))
            sys.stdout.flush()
        rows += batch
        failed = report_errors(batch) or failed
    if form == "table":
        print_table(rows)
    return int(failed)


def _score_to_file(
    files: Sequence[Path],
    run: Callable[[Sequence[Path]], Iterable[list[Row]]],
    output: Path,
    form: FileFormat,
    model: str,
) -> int:
    kept = _rows_to_keep(output, form, model)
    done = {row.path for row in kept}
    left = [path for path in files if display_path(path) not in done]
    if len(left) < len(files):
        print(f"{output} already holds {len(files) - len(left)} of {len(files)} images", file=sys.stderr)
    failed = False
    with RowWriter(output, form, kept) as writer:
        for batch in run(left):
            writer.add(batch)
            failed = report_errors(batch) or failed
    print(f"wrote {output}", file=sys.stderr)
    return int(failed)


def _rows_to_keep(output: Path, form: FileFormat, model: str) -> list[Row]:
    if not output.is_file():
        return []
    rows = read_rows(output, form)
    others = sorted({row.model for row in rows} - {model})
    if others:
        raise UserError(f"{output} holds scores of another model ({others[0]}, not {model}); name another --output")
    return [row for row in rows if row.score is not None]


def _stdout_format(form: Format | None) -> Literal["table", "jsonl", "csv"]:
    if form == "parquet":
        raise UserError("--format parquet needs a file: add --output scores.parquet")
    return form or "table"


def _file_format(form: Format | None, output: Path) -> FileFormat:
    if form == "table":
        raise UserError("--format table is for the terminal; with --output choose jsonl, csv or parquet")
    if form is None and output.suffix.lower() not in _FORMAT_OF_SUFFIX:
        raise UserError(f"cannot tell the format of --output {output}; {nearest(output.suffix, _FORMAT_OF_SUFFIX)}")
    return form or _FORMAT_OF_SUFFIX[output.suffix.lower()]
