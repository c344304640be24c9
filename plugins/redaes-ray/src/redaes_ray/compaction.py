"""Compaction: the many small files of a log made few large ones, sorted by source, at a quiet moment.

    PREFIX/sorted/shard=X/GENERATION-NUMBER.parquet     X is the first digit of the source's hash

The core's ledger asks for one call at a time, and so do we; but the calls of a source are asked one after the other,
and its files are sorted by source: one row group read answers for all of them. (Sorted by key, as an index would
suggest, each would cost a read of its own. The index is in memory and does not care.)

In steps, so that memory is bounded: a quarter of a gigabyte of new rows is taken at a time, with those generations
that are not much larger, a shard of them at a time; older, larger ones stay as they are, and a row is rewritten a
logarithmic number of times (O'Neil et al., "The Log-Structured Merge-Tree", Acta Informatica 33, 1996). Each step
writes its files, commits by replacing the manifest, and deletes what it has taken in. Before the commit nobody reads
the new files; after it nobody reads the old ones. What a kill leaves of either is deleted by the next compaction.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redaes.engine.database import key_hash
from redaes_ray.log import Log, Survey, added, sums_of
from redaes_ray.manifest import Generation, Manifest
from redaes_ray.parts import CLOCK, ROW, WRITER, Part, to_parquet

STEP_BYTES = 2**28
"""New rows, as they are in memory, that one step takes in, or a part more."""

LARGEST_BYTES = 2**33
"""A generation's rows, as they would be in memory. A shard of it is in memory while it is made."""

FILE_GROUPS = 256
"""Row groups of a file, at most."""

GROWTH = 4
"""A generation is rewritten if it is up to so many times as large as what comes to it."""

DIGITS = "0123456789abcdef"


def compact(log: Log) -> None:
    """Compact a log. No other process may compact it, and no writer should be writing: what it writes meanwhile stays
    as it is, but others that look for it have to look again.

    Raises:
        UserError: a file is damaged, or the storage fails. Nothing is lost, and the next compaction goes on.
    """
    with log.exclusively():
        survey = log.survey()
        _delete_leftovers(log, survey)
        gone = set(survey.manifest.names()) - set(survey.sorted)
        for parts in _steps(log, survey):
            _take_in(log, parts, gone)
        log.compacted()
        log.load()


def _delete_leftovers(log: Log, survey: Survey) -> None:
    """Files of a compaction that never came to its end, or that one which did had no time to delete."""
    counted = set(survey.manifest.names())
    unfinished = [name for name in survey.sorted if name not in counted]
    log.storage.delete([*survey.superfluous, *unfinished])


def _steps(log: Log, survey: Survey) -> Iterator[list[tuple[Part, Any]]]:
    """Parts and their rows that are not compacted yet, some at a time; each writer's in their order."""
    step: list[tuple[Part, Any]] = []
    for part in survey.parts:
        table = log.table(part.name)
        after = survey.manifest.compacted.get(part.writer, 0)
        step.append((part, table.filter(pc.greater(table.column(CLOCK), after)) if part.after < after else table))
        if sum(rows.nbytes for _, rows in step) >= STEP_BYTES:
            yield step
            step = []
    if step:
        yield step


def _take_in(log: Log, parts: list[tuple[Part, Any]], gone: set[str]) -> None:
    """One step: write a generation, commit it, delete what is in it."""
    before = Manifest.read(log.storage, log.prefix)
    new = pa.concat_tables([table for _, table in parts])
    taken = _generations(before, new.nbytes)
    number = 1 + max((g.number for g in before.generations), default=0)
    files, size, totals = [], 0, []
    file_rows = FILE_GROUPS * log.kind.group_rows
    digits = _digits(new)
    for digit in DIGITS:
        inner = [name for g in taken for name in g.files if f"/shard={digit}/" in name and name not in gone]
        table = pa.concat_tables([*(log.table(name) for name in inner), new.filter(pc.equal(digits, digit))])
        if not len(table):
            continue
        table = _sorted(log, table)
        totals += sums_of(log.kind, table)
        size += table.nbytes
        for start in range(0, len(table), file_rows):
            name = f"{log.prefix}/sorted/shard={digit}/{number:06d}-{start // file_rows:03d}.parquet"
            log.storage.write(name, to_parquet(log.kind, table.slice(start, file_rows)))
            files.append(name)
    generations = [g for g in before.generations if g not in taken]
    compacted = dict(before.compacted)
    for part, _ in parts:
        compacted[part.writer] = max(part.upto, compacted.get(part.writer, 0))
    clock = max(before.clock, *(part.upto for part, _ in parts))
    Manifest([*generations, Generation(number, files, size, added(totals))], compacted, clock).write(
        log.storage, log.prefix
    )
    log.storage.delete([*(part.name for part, _ in parts), *(name for g in taken for name in g.files)])


def _generations(manifest: Manifest, size: int) -> list[Generation]:
    """The latest generations, as long as they are not much larger than what comes to them."""
    taken = []
    for generation in reversed(manifest.generations):
        if generation.size > GROWTH * size or generation.size + size > LARGEST_BYTES:
            break
        taken.append(generation)
        size += generation.size
    return taken


def _digits(table: Any) -> Any:
    """The partition of each row."""
    sources = table.column("source").combine_chunks().dictionary_encode()
    digits = [f"{key_hash(source) & (2**64 - 1):016x}"[0] for source in sources.dictionary.to_pylist()]
    return pa.array(digits, pa.string()).take(sources.indices)


def _sorted(log: Log, table: Any) -> Any:
    """Rows by source and then in their order, of one key only the latest where only that counts."""
    table = table.sort_by([(name, "ascending") for name in ("source", CLOCK, WRITER, ROW)])
    if log.kind.latest and len(table):
        source = table.column("source").combine_chunks()
        last = np.append(np.asarray(pc.not_equal(source[:-1], source[1:])), True)
        table = table.filter(pa.array(last))
    return table
