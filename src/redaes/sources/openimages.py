"""Photographs listed by CSV files in the form of Open Images, with the images in a folder, each called by its id."""

import csv
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from redaes.data.images import ImageError, image_size, read_image_file, walk_images
from redaes.errors import UserError, nearest
from redaes.sources import Photograph
from redaes.sources.listing import EncodedPhotos, LeftOut, Photographs, inside, is_utf8, shards_of, stamp_of

ROWS_AT_ONCE = 10_000
NO_ROW = 0


class OpenImagesPhotos(EncodedPhotos):
    """The photographs of a folder that have a row in the CSV files, with the row's licence.

    A photograph is called by its path under the folder; its id is the file's name without its ending. Rows without a
    photograph and photographs without a row are counted and reported. The column `Rotation` is not applied.

    Args:
        root: the folder of the images, searched recursively.
        csv: a file with columns such as ImageID, OriginalURL, License, Author, or a folder of such files.
        id_column: the column of the ids.
        license_column: the column of the licences; empty: `license` holds for all.
        license: the licence of rows without one.
        report: a CSV file to name in what was left out and why; empty: the log names some.

    Raises:
        UserError: no such CSV files.
    """

    def __init__(
        self,
        root: str,
        csv: str,
        id_column: str = "ImageID",
        license_column: str = "License",
        license: str = "not stated",
        report: str = "",
    ) -> None:
        self.root = Path(root)
        self.tables = shards_of(csv, ".csv")
        self.id_column = id_column
        self.license_column = license_column
        self.license = license
        self.report = report

    def photographs(self) -> Photographs:
        """In the order of the images' paths.

        Raises:
            UserError: no such folder, a file that is no such CSV, or no photograph with a row.
        """
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder; give the folder that holds the photographs")
        with LeftOut(str(self.root), self.report) as left_out:
            files = Photographs(self._files(left_out))
            licenses, codes = self._licenses(files, left_out)
            kept = Photographs(
                Photograph(name, licenses[code]) for (name, _), code in zip(files, codes, strict=True) if code != NO_ROW
            )
        self.left_out = left_out.counts
        if not kept:
            raise UserError(f"no photograph in {self.root} has a row in {', '.join(self.tables)}")
        return kept

    def _files(self, left_out: LeftOut) -> Iterator[Photograph]:
        for name in walk_images(self.root):
            if not is_utf8(name):
                left_out.add(name, "unreadable", "its name is not UTF-8")
                continue
            try:
                image_size(self.root / name, name)
            except ImageError as error:
                left_out.add(name, "unreadable", error.reason)
                continue
            yield Photograph(name, "")

    def _licenses(self, files: Photographs, left_out: LeftOut) -> "tuple[list[str], array[int]]":
        """The distinct licences, and for each file the place of its own; `NO_ROW` for none."""
        ids = Photographs(Photograph(PurePosixPath(name).stem, "") for name, _ in files)
        places: dict[str, int] = {}
        codes = array("I", [NO_ROW]) * len(files)
        rows = self._rows()
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            for (id, license), position in zip(chunk, ids.positions([id for id, _ in chunk]), strict=True):
                if position < 0:
                    left_out.add(id, "row without image")
                elif codes[position] != NO_ROW:
                    left_out.add(id, "row occurs twice")
                else:
                    codes[position] = places.setdefault(license, len(places) + 1)
        repeats = ids.repeats()
        for position, (name, _) in enumerate(files):
            if position in repeats:
                left_out.add(name, "id occurs twice")
            elif codes[position] == NO_ROW:
                left_out.add(name, "image without row")
        return ["", *places], codes

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Id and licence of every row."""
        for path in self.tables.values():
            try:
                with path.open(encoding="utf-8-sig", newline="") as file:
                    reader = csv.DictReader(file, strict=True)
                    for column in filter(None, (self.id_column, self.license_column)):
                        if column not in (reader.fieldnames or ()):
                            raise UserError(
                                f"{path} has no column {column!r} ({nearest(column, reader.fieldnames or ())})"
                            )
                    for row in reader:
                        yield row[self.id_column] or "", row.get(self.license_column) or self.license
            except (OSError, ValueError, csv.Error) as error:
                raise UserError(f"{path} cannot be read as CSV: {error}") from error

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return read_image_file(inside(self.root, name))

    def stamp(self, name: str) -> str:
        """Size and time of the file."""
        return stamp_of(inside(self.root, name))
