"""Compaction: the many small files of a log made few large ones, sorted by source, at a quiet moment.

    PREFIX/hash=X/GENERATION-NUMBER.parquet     X is the first digit of the source's hash

The core's ledger asks for one call at a time, and so do we; but the calls of a source are asked one after the other,
and its files are sorted by source: one row group read answers for all of them. (Sorted by key, as an index would
suggest, each would cost a read of its own. The index is in memory and does not care.)

In steps, so that memory is bounded: some 260,000 rows of new parts are taken at a time, with those generations that
are not much larger; older, larger ones stay as they are, and a row is rewritten a logarithmic number of times
(O'Neil et al., "The Log-Structured Merge-Tree", Acta Informatica 33, 1996). Each step writes its files, commits by
replacing the manifest, and deletes what it has taken in. Before the commit nobody reads the new files; after it
nobody reads the old ones. What a kill leaves of either is deleted by the next compaction.
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

STEP_ROWS = 2**18
"""Rows of new parts that one step takes in, or a few more."""

FILE_ROWS = 2**16
"""Rows of a file, at most."""

GROWTH = 4
"""A generation is rewritten if it has up to so many times the rows that come to it."""

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
        for parts in _steps(log, survey):
            _take_in(log, parts)
        log.compacted()
        log.load()


def _delete_leftovers(log: Log, survey: Survey) -> None:
    """Files of a compaction that never came to its end, or that one which did had no time to delete."""
    counted = set(survey.manifest.names())
    files = [stored.name for stored in log.storage.files(log.prefix, recursive=True)]
    unfinished = [name for name in files if f"{log.prefix}/hash=" in name and name not in counted]
    log.storage.delete([*survey.superfluous, *unfinished])


def _steps(log: Log, survey: Survey) -> Iterator[list[tuple[Part, Any]]]:
    """Parts and their rows that are not compacted yet, some at a time; each writer's in their order."""
    step: list[tuple[Part, Any]] = []
    for part in survey.parts:
        table = log.table(part.name)
        after = survey.manifest.compacted.get(part.writer, 0)
        step.append((part, table.filter(pc.greater(table.column(CLOCK), after)) if part.after < after else table))
        if sum(len(rows) for _, rows in step) >= STEP_ROWS:
            yield step
            step = []
    if step:
        yield step


def _take_in(log: Log, parts: list[tuple[Part, Any]]) -> None:
    """One step: write a generation, commit it, delete what is in it."""
    before = Manifest.read(log.storage, log.prefix)
    new = pa.concat_tables([table for _, table in parts])
    taken = _generations(before, len(new))
    number = 1 + max((g.number for g in before.generations), default=0)
    files, rows, totals = [], 0, []
    digits = _digits(new)
    for digit in DIGITS:
        inner = [name for g in taken for name in g.files if f"/hash={digit}/" in name]
        table = pa.concat_tables([*(log.table(name) for name in inner), new.filter(pc.equal(digits, digit))])
        table = _sorted(log, table)
        totals += sums_of(log.kind, table)
        rows += len(table)
        for start in range(0, len(table), FILE_ROWS):
            name = f"{log.prefix}/hash={digit}/{number:06d}-{start // FILE_ROWS:03d}.parquet"
            log.storage.write(name, to_parquet(log.kind, table.slice(start, FILE_ROWS)))
            files.append(name)
    generations = [g for g in before.generations if g not in taken]
    compacted = dict(before.compacted)
    for part, _ in parts:
        compacted[part.writer] = max(part.upto, compacted.get(part.writer, 0))
    clock = max(before.clock, *(part.upto for part, _ in parts))
    Manifest([*generations, Generation(number, files, rows, added(totals))], compacted, clock).write(
        log.storage, log.prefix
    )
    log.storage.delete([*(part.name for part, _ in parts), *(name for g in taken for name in g.files)])


def _generations(manifest: Manifest, rows: int) -> list[Generation]:
    """The latest generations, as long as they are not much larger than what comes to them."""
    taken = []
    for generation in reversed(manifest.generations):
        if generation.rows > GROWTH * rows:
            break
        taken.append(generation)
        rows += generation.rows
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
