"""AADB (Kong et al., ECCV 2016): the new test list of 1,000 images, from its text files or from `AADBinfo.mat`.

Only 39 different scores occur in it: ties are heavy. A small download names its files with the score before the name.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from redaes.data.benchmarks import About
from redaes.data.benchmarks.lists import OfficialSet, Row, Rows, find_file, read_pairs
from redaes.errors import UserError

_PREFIX = re.compile(r"^\d\.\d{3}_", re.ASCII)


class Aadb(OfficialSet):
    """AADB as distributed; see `OfficialSet` for the settings."""

    name = "aadb"
    split = "TestNew"
    expected = 1_000
    native_range = (0.0, 1.0)
    folders = ("AADB_newtest_originalSize", "AADB_newtest", "datasetImages_originalSize", "datasetImages_warp256")
    about: ClassVar[About] = About(
        "AADB",
        1_000,
        "https://github.com/aimerykong/deepImageAestheticsAnalysis",
        "Creative Commons photographs, research only; Adobe holds a patent",
        "imgListFiles_label/imgListTestNewRegression_score.txt or AADBinfo.mat, AADB_newtest_originalSize/<name>.jpg",
    )

    def official(self) -> tuple[Rows, Path]:
        """The new test list, with its attributes where they are there."""
        name = "imgListTestNewRegression_score.txt"
        path = find_file(self.root, f"imgListFiles_label/{name}", name)
        rows = Rows(*self.native_range)
        if path is None:
            path = self.need("AADBinfo.mat")
            pairs: list[tuple[str, str | float]] = list(_read_mat(path))
        else:
            pairs = list(read_pairs(path, rows))
        attributes = self._attributes(path) if path.suffix == ".txt" else {}
        for image, score in pairs:
            bare = _PREFIX.sub("", image)
            rows.add(bare, score, extra=attributes.get(bare, {}))
        train = path.with_name("imgListTrainRegression_score.txt")
        if path.suffix == ".txt" and train.is_file():
            self.say_if_it_leaks(
                rows.rows, (_PREFIX.sub("", name) for name, _ in read_pairs(train, Rows())), train.name
            )
        return rows, path

    @staticmethod
    def _attributes(path: Path) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for file in sorted(path.parent.glob("imgListTestNewRegression_*.txt")):
            if file != path:
                attribute = file.stem.partition("_")[2]
                rows = Rows()
                for image, value in read_pairs(file, rows):
                    rows.add(_PREFIX.sub("", image), value)
                for row in rows.rows.values():
                    found.setdefault(row.id, {})[attribute] = row.mos
        return found

    def file_names(self, row: Row) -> list[str]:
        """The name, the name without a score before it, and with one."""
        names = super().file_names(row)
        bare = _PREFIX.sub("", names[-1])
        return [*names, bare, f"{row.mos:.3f}_{bare}"]

    def mentioned(self) -> set[str] | None:
        """The images of all lists; None without the training list."""
        path = self.official()[1]
        if path.suffix == ".mat":
            lists = [value for key, value in _load_mat(path).items() if key.endswith("NameList")]
            names = {str(name) for names in lists for name in names.reshape(-1)}
        elif (path.parent / "imgListTrainRegression_score.txt").is_file():
            files = path.parent.glob("imgList*Regression_score.txt")
            names = {name for file in files for name, _ in read_pairs(file, Rows())}
        else:
            return None
        return {_PREFIX.sub("", name) for name in names}

    def key(self, path: Path) -> str:
        """The name without a score before it."""
        return _PREFIX.sub("", path.name)


def _load_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{path} is no MATLAB file: {error}") from error
    return content


def _read_mat(path: Path) -> list[tuple[str, str | float]]:
    content = _load_mat(path)
    try:
        names, scores = content["testNameList"].reshape(-1), content["testScore"].reshape(-1)
    except KeyError as error:
        raise UserError(f"{path} is not AADBinfo.mat: it has no {error}") from error
    if len(names) != len(scores):
        raise UserError(f"{path} has {len(names)} names and {len(scores)} scores")
    return [(str(name), float(score)) for name, score in zip(names, scores, strict=True)]
