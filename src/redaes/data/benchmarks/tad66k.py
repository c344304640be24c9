"""TAD66K (He et al., IJCAI 2022): `labels/merge/test.csv`, 14,079 images. Not `unmerge`, whose training lists hold 478
of them; from it come the themes alone.
"""

from pathlib import Path
from typing import ClassVar

from redaes.data.benchmarks import About
from redaes.data.benchmarks.lists import OfficialSet, Rows, bases, find_file, read_table
from redaes.errors import UserError


class Tad66k(OfficialSet):
    """TAD66K as distributed; see `OfficialSet` for the settings."""

    name = "tad66k"
    split = "merge/test"
    expected = 14_079
    native_range = (1.0, 10.0)
    folders = ("TAD66K", "imgs", "images")
    about: ClassVar[About] = About(
        "TAD66K",
        14_079,
        "https://github.com/woshidandan/TANet-image-aesthetics-and-quality-assessment",
        "repository Apache-2.0; none is stated for the photographs",
        "labels/merge/test.csv, TAD66K/<name>.jpg",
    )

    def official(self) -> tuple[Rows, Path]:
        """The merged test list, with themes where the unmerged lists are there."""
        names = [f"{folder}merge/test.csv" for folder in ("labels/", "dataset/", "")]
        path = find_file(self.root, *names)
        if path is None:
            unmerged = find_file(
                self.root, *(name.replace("merge/test.csv", "unmerge/test/tree.csv") for name in names)
            )
            found = " (unmerge/ is there, but 478 test images are in its training lists)" if unmerged else ""
            raise UserError(f"no labels/merge/test.csv under {self.root}{found}; TAD66K holds {self.about.layout}")
        rows, themes = self._rows(path), self._themes()
        for id, row in rows.rows.items():
            if id in themes:
                row.extra["theme"] = themes[id]  # type: ignore[index]
        train = path.with_name("train.csv")
        if train.is_file():
            self.say_if_it_leaks(rows.rows, self._rows(train).rows, train.name)
        return rows, path

    def _rows(self, path: Path) -> Rows:
        rows = Rows(*self.native_range)
        for cells in read_table(path, ["image", "score"], rows):
            rows.add(cells["image"], cells["score"], extra={})
        return rows

    def _themes(self) -> dict[str, str]:
        files = {
            file
            for base in bases(self.root)
            for name in ("labels/unmerge", "dataset/unmerge", "unmerge")
            for file in (base / name).glob("*/*.csv")
        }
        return {cells["image"]: file.stem for file in sorted(files) for cells in read_table(file, ["image"], Rows())}

    def mentioned(self) -> set[str] | None:
        """The images of both merged lists."""
        test = self.official()[1]
        train = test.with_name("train.csv")
        if not train.is_file():
            return None
        return {cells["image"] for file in (test, train) for cells in read_table(file, ["image"], Rows())}
