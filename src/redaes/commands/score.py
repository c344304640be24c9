"""`redaes score`: a number and a reason for every image; bad files are reported and the rest scored."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Literal

from redaes.commands.contact_sheet import write_contact_sheet
from redaes.data.images import list_images
from redaes.errors import UserError, nearest
from redaes.inference.listing import (
    FileFormat,
    Row,
    RowWriter,
    display_path,
    fingerprint,
    header,
    opened,
    printable,
    rows_to_keep,
    to_line,
)
from redaes.inference.pools import RemoteImage, is_url, runner_named, scoring_runner
from redaes.inference.shards import ShardError, list_shards, row_files, score_shard
from redaes.inference.terminal import print_table, report_errors, score_with_progress, with_progress
from redaes.registry import PluginSpec

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
    html: str | None = None,
    image: str = "",
    batch_size: int | None = None,
    device: str | None = None,
    scorer: str = "redaes",
    runner: str | None = None,
) -> int:
    """Score images: one row each, with path, score in [0, 10], reasoning and, where it failed, the error.

    An image that cannot be read or an answer without a number is reported on stderr and the rest is scored. With
    --output the work can be interrupted and repeated: images that the file already holds a score for, by the same
    model, are not scored again. Shards of images, parquet or tar (WebDataset), give one parquet file of rows each.

    Args:
        paths: image files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'; or shards, such as
            'shards/*.tar', and folders of them; or, with a runner that reads them, addresses such as
            's3://bucket/photos'.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        format: table (for the terminal), jsonl, csv or parquet. Default: by the ending of --output, else table.
        output: file to write to instead of the terminal; for shards the folder for their rows.
        html: also write a page with the pictures, in one file that needs no network.
        image: of shards, the column (parquet) or the extension (tar) of the images. Default: 'image', or a sample's
            first image.
        batch_size: images scored at once. Default: the scorer's own choice; of our models 64 if small, else 16.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).
        runner: where the scorers work: a plug-in that can score, such as ray, or a YAML file with its class_path and
            init_args. Default: this process.

    Returns:
        The exit code: 0 if every image has a score, 1 if one has none.

    Raises:
        UserError: a path that does not exist, an output that cannot be written, a model that cannot be loaded.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; it must be at least 1")
    where = runner_named(runner) if runner else None
    elsewhere = [path for path in paths if is_url(path)]
    shards = [] if elsewhere else list_shards(paths)
    if shards:
        if output is None or format not in (None, "parquet") or html is not None:
            raise UserError("shards give parquet files: name a folder with --output, without --format and --html")
        return _score_shards(row_files(shards, Path(output)), model, scorer, image, batch_size, device, where)
    if elsewhere and (where is None or len(elsewhere) < len(paths) or html is not None):
        raise UserError(f"{elsewhere[0]} is read by a runner: add --runner, such as ray; no local paths and no --html")
    files = scoring_runner(where).images(paths) if elsewhere and where else list_images(paths)
    if html is not None:
        from redaes.evaluation.html import refuse_unwritable

        refuse_unwritable(Path(html))
    run = partial(score_with_progress, model=model, scorer=scorer, batch_size=batch_size, device=device, runner=where)
    if output is None:
        rows = _score_to_stdout(run(files), _stdout_format(format))
    else:
        path = Path(output)
        rows = _score_to_file(files, run, path, _file_format(format, path), fingerprint(model, scorer))
    if html is not None:
        local = [file for file in files if isinstance(file, Path)]
        write_contact_sheet(Path(html), paths, rows, rows, local, ranked=False)
    return int(any(row.score is None for row in rows))


def _score_shards(
    rows: Mapping[Path, Path],
    model: str,
    scorer: str,
    image: str,
    batch_size: int | None,
    device: str | None,
    runner: PluginSpec | None,
) -> int:
    """Score shard after shard with one scorer, which is made when the first image needs it.

    A shard that cannot be read is reported, and the rest scored; where there is no other, it is the error.
    """
    mark, failed = fingerprint(model, scorer), False
    with ExitStack() as stack:
        made = partial(opened, model, scorer=scorer, batch_size=batch_size, device=device, runner=runner)
        load = cache(lambda: stack.enter_context(made()))
        for number, (shard, file) in enumerate(rows.items(), 1):
            print(f"shard {number} of {len(rows)}: {shard}", file=sys.stderr)
            batches = score_shard(shard, file, load, mark, image=image, batch_size=batch_size)
            try:
                for batch in with_progress(batches, None):
                    failed = report_errors(batch) or failed
            except ShardError as error:
                if len(rows) == 1:
                    raise
                print(printable(str(error)), file=sys.stderr)
                failed = True
    return int(failed)


def _score_to_stdout(batches: Iterable[list[Row]], form: Literal["table", "jsonl", "csv"]) -> list[Row]:
    rows: list[Row] = []
    for batch in batches:
        if form != "table":
            sys.stdout.write(("" if rows else header(form)) + "".join(to_line(row, form) for row in batch))
            sys.stdout.flush()
        rows += batch
        report_errors(batch)
    if form == "table":
        print_table(rows)
    return rows


def _score_to_file(
    files: Sequence[Path | RemoteImage],
    run: Callable[[Sequence[Path | RemoteImage]], Iterable[list[Row]]],
    output: Path,
    form: FileFormat,
    model: str,
) -> list[Row]:
    """Score what the file does not hold; the rows of `files`, old and new."""
    kept = rows_to_keep(output, form, model)
    done = {row.path for row in kept}
    left = [path for path in files if display_path(path) not in done]
    if len(left) < len(files):
        print(f"{output} already holds {len(files) - len(left)} of {len(files)} images", file=sys.stderr)
    rows = {row.path: row for row in kept}
    with RowWriter(output, form, kept) as writer:
        for batch in run(left):
            writer.add(batch)
            report_errors(batch)
            rows |= {row.path: row for row in batch}
    print(f"wrote {output}", file=sys.stderr)
    return [rows[display_path(path)] for path in files]


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
