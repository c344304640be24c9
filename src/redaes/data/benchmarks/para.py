"""PARA (Yang et al., CVPR 2022): `annotation/PARA-GiaaTest.csv`, 3,000 images, read by the names of its columns."""

from pathlib import Path
from typing import ClassVar

from redaes.data.benchmarks import About
from redaes.data.benchmarks.lists import OfficialSet, Rows, find_file, read_table

FOLDERS = ("annotation/", "PARA/annotation/", "")
LEVELS = [f"aestheticScore_{1 + 0.5 * k:.1f}" for k in range(9)]


class Para(OfficialSet):
    """PARA as distributed; see `OfficialSet` for the settings."""

    name = "para"
    split = "PARA-GiaaTest"
    expected = 3_000
    native_range = (1.0, 5.0)
    folders = ("imgs", "PARA/imgs")
    about: ClassVar[About] = About(
        "PARA",
        3_000,
        "https://cv-datasets.institutecv.com/#/data-sets (OPPO, on registration)",
        "research and learning only, no commercial use, no transfer",
        "annotation/PARA-GiaaTest.csv, imgs/session<k>/iaa_pub<n>_.jpg",
    )

    def official(self) -> tuple[Rows, Path]:
        """The test list; an image is named by its session and its file."""
        path = self.need(*(f"{folder}PARA-GiaaTest.csv" for folder in FOLDERS))
        rows = Rows(*self.native_range)
        for cells in read_table(path, ["sessionId", "imageName", "aestheticScore_mean"], rows):
            counts = [cells.get(level, "").removesuffix(".0") for level in LEVELS]
            votes = tuple(map(int, counts)) if all(c.isascii() and c.isdigit() for c in counts) else ()
            extra = {"semantic": cells["semantic"]} if cells.get("semantic") else {}
            rows.add(self._id(cells), cells["aestheticScore_mean"], votes=votes, extra=extra)
        if train := self._training_list():
            self.say_if_it_leaks(rows.rows, self._ids(train), train.name)
        return rows, path

    def _training_list(self) -> Path | None:
        return find_file(self.root, *(f"{folder}PARA-GiaaTrain.csv" for folder in FOLDERS))

    def _ids(self, path: Path) -> set[str]:
        return {self._id(cells) for cells in read_table(path, ["sessionId", "imageName"], Rows())}

    @staticmethod
    def _id(cells: dict[str, str]) -> str:
        return f"{cells['sessionId']}/{cells['imageName']}"

    def mentioned(self) -> set[str] | None:
        """The images of both lists."""
        train = self._training_list()
        return None if train is None else self._ids(self.official()[1]) | self._ids(train)

    def key(self, path: Path) -> str:
        """Session and file."""
        return f"{path.parent.name}/{path.name}"
