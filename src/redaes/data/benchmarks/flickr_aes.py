"""FLICKR-AES (Ren et al., ICCV 2017): no split is distributed. The list that everyone uses has 4,737 names and has to
be given; without it every rated image is taken, and the notes say so.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from redaes.data.benchmarks import About, Benchmark
from redaes.data.benchmarks.lists import OfficialSet, Rows, read_pairs, read_table
from redaes.errors import UserError

LISTED = 4_737


class FlickrAes(OfficialSet):
    """FLICKR-AES as distributed.

    Args:
        root: as of `OfficialSet`.
        list_file: the test list; 4,737 names are in circulation.
        images: as of `OfficialSet`.
        scores: `released`, the weighted means on 0.2-1.0, or `ratings`, the means of the workers' ratings on 1-5.
    """

    name = "flickr_aes"
    split = "all rated images"
    folders = ("40K", "images")
    about: ClassVar[About] = About(
        "FLICKR-AES",
        LISTED,
        "https://github.com/alanspike/personalizedImageAesthetics",
        "Creative Commons photographs; research only",
        "FLICKR-AES_image_score.txt, 40K/<name>.jpg; no split",
    )

    def __init__(
        self, root: str, list_file: str = "", images: str = "", scores: Literal["released", "ratings"] = "released"
    ) -> None:
        super().__init__(root, list_file, images)
        if scores not in ("released", "ratings"):
            raise UserError(f"scores is {scores!r}; it must be released or ratings")
        self.scores = scores
        self.native_range = (0.2, 1.0) if scores == "released" else (1.0, 5.0)

    def load(self) -> Benchmark:
        """See `BenchmarkProtocol.load`; says so where every rated image was taken."""
        benchmark = super().load()
        note = (
            f"no test split is distributed: all rated images were taken, not the {LISTED} that papers use (list_file)"
        )
        if self.list_file:
            if benchmark.n_listed == LISTED:
                return benchmark
            note = f"{Path(self.list_file).name} has {benchmark.n_listed} rows, the list that papers use {LISTED}"
        return replace(benchmark, notes=[*benchmark.notes, note])

    def official(self) -> tuple[Rows, Path]:
        """All rated images."""
        rows = Rows(*self.native_range)
        if self.scores == "ratings":
            path = self.need("FLICKR-AES_image_labeled_by_each_worker.csv")
            self._add_ratings(path, rows)
        else:
            path = self.need("FLICKR-AES_image_score.txt")
            for name, score in read_pairs(path, rows):
                rows.add(name, score)
        return rows, path

    def _add_ratings(self, path: Path, rows: Rows) -> None:
        ratings: dict[str, list[str]] = {}
        for cells in read_table(path, ["worker", "imagePair", "score"], rows):
            ratings.setdefault(cells["imagePair"], []).append(cells["score"])
        for name, given in ratings.items():
            counts = [given.count(str(score)) for score in range(1, 6)]
            usable = sum(counts) == len(given)
            mos = sum(k * count for k, count in enumerate(counts, 1)) / len(given) if usable else "not 1 to 5"
            rows.add(name, mos, votes=tuple(counts))

    def mentioned(self) -> set[str]:
        """The rated images."""
        rows = self.official()[0]
        return {*rows.rows, *(id for ids in rows.left_out.values() for id in ids)}
