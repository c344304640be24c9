"""`redaes rank`: images, best first: in the terminal, as a page, as stars for photo programs."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from redaes.commands.contact_sheet import write_contact_sheet
from redaes.data.images import list_images
from redaes.errors import UserError
from redaes.inference.listing import Row, display_path, header, printable, to_line
from redaes.inference.terminal import print_table, report_errors, score_with_progress
from redaes.inference.xmp import SidecarNames, rated_by_person, sidecars, stars_by_rank, write_rating
from redaes.inference.xmp import stars as stars_by_score


@dataclass(frozen=True)
class RankedRow(Row):
    """A scored image and its place.

    Attributes:
        rank: from 1, the best; of bursts only the best image is ranked, and the others have its rank.
        stars: from 1 to 5.
        burst: number of its burst, from 1 in the order taken; None where bursts were not looked for.
        best: of its burst; true where bursts were not looked for.
    """

    rank: int
    stars: int
    burst: int | None
    best: bool


def rank(
    paths: list[str],
    model: str = "nano",
    top: int | None = None,
    bursts: bool = False,
    gap: float = 3.0,
    xmp: bool = False,
    xmp_names: SidecarNames = "both",
    stars: Literal["absolute", "relative"] = "absolute",
    replace_ratings: bool = False,
    html: str | None = None,
    format: Literal["table", "jsonl", "csv"] = "table",
    batch_size: int | None = None,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """Score images and list them best first; equal scores are ordered by path.

    Args:
        paths: image files, folders (searched recursively), or patterns such as 'photos/2024-*.jpg'.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        top: show only this many of the best.
        bursts: show only the best of each burst: frames that were taken one after another and look alike.
        gap: seconds between two frames of a burst, at most.
        xmp: write a rating of 1 to 5 stars for every image into an XMP sidecar beside it, for photo programs. The image
            is not touched, and a rating that a person gave is left alone.
        xmp_names: full for IMG.jpg.xmp (darktable, digiKam), stem for IMG.xmp (Lightroom, which reads it for a raw file
            of that name), or both.
        stars: absolute: a star for each two points of the score; relative: by place, few with five and few with one.
            With --bursts an image that is not the best of its burst gets one star.
        replace_ratings: also replace ratings that a person gave.
        html: also write a page with the pictures, in one file that needs no network.
        format: how to list them on the terminal: table, jsonl or csv.
        batch_size: images scored at once. Default: the scorer's own choice; of our models 64 if small, else 16.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).

    Returns:
        The exit code: 0 if every image has a score, 1 if one has none.

    Raises:
        UserError: no images, an output that cannot be written, a model that cannot be loaded.
    """
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    if gap < 0:
        raise UserError(f"--gap is {gap}; it must be 0 seconds or more")
    files = list_images(paths)
    if html is not None:
        from redaes.evaluation.html import refuse_unwritable

        refuse_unwritable(Path(html))
    batches = score_with_progress(files, model, scorer=scorer, batch_size=batch_size, device=device)
    rows = [row for batch in batches for row in batch]
    failed = report_errors(rows)
    placed = ranked(rows, _bursts(files, gap) if bursts else None, relative=stars == "relative")
    best = [row for row in placed if row.best][:top]
    if format == "table":
        print_table(best, numbered=True, columns=_columns(best, placed, bursts, xmp))
    else:
        sys.stdout.write(header(format, RankedRow) + "".join(to_line(row, format) for row in best))
    if xmp:
        failed |= _write_ratings(placed, files, xmp_names, replace_ratings)
    if html is not None:
        others = {row.path: [o for o in placed if o.burst == row.burst and not o.best] for row in best if bursts}
        write_contact_sheet(Path(html), paths, best, rows, files, ranked=True, others=others)
    return int(failed)


def ranked(rows: Sequence[Row], bursts: dict[str, int] | None = None, *, relative: bool = False) -> list[RankedRow]:
    """The rows that hold a score, best first, equal scores by path.

    Args:
        rows: in any order.
        bursts: number of each image's burst, by path; None where bursts are no matter.
        relative: stars by place instead of by score.
    """
    scored = sorted((row for row in rows if row.score is not None), key=lambda row: (-(row.score or 0.0), row.path))
    numbers = [row.path if bursts is None else bursts[row.path] for row in scored]
    places = {number: place for place, number in enumerate(dict.fromkeys(numbers), 1)}
    seen: set[str | int] = set()
    placed = []
    for row, number in zip(scored, numbers, strict=True):
        best, place = number not in seen, places[number]
        seen.add(number)
        given = stars_by_rank(place, len(places)) if relative else stars_by_score(row.score or 0.0)
        burst = None if bursts is None else bursts[row.path]
        placed.append(RankedRow(**asdict(row), rank=place, stars=given if best else 1, burst=burst, best=best))
    return placed


def _bursts(files: Sequence[Path], gap: float) -> dict[str, int]:
    from redaes.inference.bursts import find_bursts

    found = find_bursts(files, gap)
    more = sum(len(burst) > 1 for burst in found)
    print(f"{len(files)} images, {more} bursts of two and more", file=sys.stderr)
    return {display_path(path): number for number, burst in enumerate(found, 1) for path in burst}


def _columns(shown: Sequence[RankedRow], placed: Sequence[RankedRow], bursts: bool, xmp: bool) -> dict[str, list[str]]:
    """What the table says beside the scores: the stars that were given, and what a frame is the best of."""
    columns: dict[str, list[str]] = {}
    if xmp:
        columns["stars"] = ["★" * row.stars for row in shown]
    if bursts:
        frames = Counter(row.burst for row in placed)
        columns["burst"] = [f"best of {frames[row.burst]}" if frames[row.burst] > 1 else "" for row in shown]
    return columns


def _write_ratings(rows: Sequence[RankedRow], files: Sequence[Path], names: SidecarNames, replace: bool) -> bool:
    """Rate every scored image that no person has rated; tells whether a sidecar could not be written.

    Where two images share a sidecar, it says what the better is worth.
    """
    by_name = {display_path(path): path for path in files}
    written: set[Path] = set()
    kept = wrong = 0
    for row in rows:
        image = by_name[row.path]
        if not replace and any(map(rated_by_person, sidecars(image))):
            kept += 1
            continue
        for sidecar in sidecars(image, names):
            if sidecar in written:
                continue
            written.add(sidecar)
            try:
                write_rating(sidecar, row.stars, row.score or 0.0, row.model, replace=replace)
            except UserError as error:
                wrong += 1
                print(printable(str(error)), file=sys.stderr)
    left = f"; {kept} that a person had rated are left alone" if kept else ""
    print(f"rated {len(rows) - kept} images in {len(written) - wrong} sidecars{left}", file=sys.stderr)
    return wrong > 0
