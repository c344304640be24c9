"""AVA (Murray et al., CVPR 2012): votes from 1 to 10; the official test list of 20,000 ids, of which 19,930 are usable.

The score is the mean of the raw votes. Lists in circulation round it, which moves the fourth decimal of a correlation.
"""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

from redaes.data.benchmarks import About
from redaes.data.benchmarks.lists import (
    DUPLICATE,
    ENCODING,
    KNOWN_MISSING,
    NO_ANNOTATION,
    NO_IMAGE,
    NOT_A_NUMBER,
    WRONG_COLUMNS,
    OfficialSet,
    Row,
    Rows,
    find_file,
    read_lines,
)
from redaes.errors import UserError

KNOWN_MISSING_IDS = frozenset(
    """
    11714 11723 11739 11771 11772 11782 11784 11791 11832 11837 11850 11877 11895 11908 11944 11955 11971 11977
    12010 12038 327179 327237 327252 327370 327458 327498 327571 327671 327796 327870 328189 328667 328700 328746
    328816 328823 329020 329153 329164 329186 329273 329376 329417 329426 471202 475125 713979 714589 714599
    952559 952695 953286 953722 954045 954190 954213 954234 954254 954261 954455 954535 954546 954614 954712
    954732 954737 954771 954793 954823 954826
    """.split()  # noqa: SIM905 (seventy lines otherwise)
)
"""Ids of the official test list that no list in circulation has an image or an annotation for."""


class Ava(OfficialSet):
    """AVA as distributed; see `OfficialSet` for the settings."""

    name = "ava"
    split = "generic_test"
    expected = 20_000
    native_range = (1.0, 10.0)
    folders = ("image", "images", "images/images", "ava_images")
    about: ClassVar[About] = About(
        "AVA",
        19_930,
        "https://github.com/imfing/ava_downloader (lists; images from its mirrors)",
        "photographers keep all rights; not to be redistributed",
        "AVA.txt, aesthetics_image_lists/generic_test.jpgl, image/<id>.jpg",
    )

    def official(self) -> tuple[Rows, Path]:
        """The ids of the test list with the means of their votes."""
        path = self.need("aesthetics_image_lists/generic_test.jpgl", "generic_test.jpgl")
        annotated = self.annotated()
        why = annotated.why
        rows, ids = Rows(*self.native_range), []
        for number, text in read_lines(path):
            id = (text or "").strip().removesuffix(".jpg")
            row = annotated.rows.get(id)
            if text is None:
                rows.leave_out(ENCODING, f"{path.name}:{number}")
            elif not id.isascii() or not id.isdigit():
                rows.leave_out(WRONG_COLUMNS, f"{path.name}:{number}")
            elif row is None:
                reason = KNOWN_MISSING if id in KNOWN_MISSING_IDS else why.get(id, NO_ANNOTATION)
                rows.leave_out(reason, id)
            else:
                rows.add(id, row.mos, votes=row.votes, extra=row.extra)
            ids.append(id)
        absent = KNOWN_MISSING_IDS.difference(ids)
        if len(ids) == self.expected and absent:
            raise UserError(
                f"{path} is not the official test list of AVA: it has {len(ids)} rows, but lacks {len(absent)} of the "
                f"{len(KNOWN_MISSING_IDS)} ids known to be in it, first {min(absent)}; is it generic_ls_train?"
            )
        repeated = sorted(set(annotated.left_out.get(DUPLICATE, ())).intersection(rows.rows))
        if repeated:
            self.notes.append(
                f"{len(repeated)} ids have several rows in AVA.txt, first {repeated[0]}; the first counts"
            )
        self._compare_with_training(ids)
        return rows, path

    def _compare_with_training(self, test: list[str]) -> None:
        train = find_file(self.root, "aesthetics_image_lists/generic_ls_train.jpgl", "generic_ls_train.jpgl")
        if train is not None:
            self.say_if_it_leaks(test, ((text or "").strip() for _, text in read_lines(train)), train.name)

    def annotated(self) -> Rows:
        """Every row of AVA.txt."""
        return self._annotated

    @cached_property
    def _annotated(self) -> Rows:
        """AVA.txt: index, id, ten counts of votes, two tags, challenge. A quarter of a million rows, read once."""
        path = self.need("AVA.txt")
        rows = Rows(*self.native_range)
        for number, text in read_lines(path):
            cells = [] if text is None else text.split()
            if text is None:
                rows.leave_out(ENCODING, f"{path.name}:{number}")
            elif len(cells) != 15:
                rows.leave_out(WRONG_COLUMNS, cells[1] if len(cells) > 1 else f"{path.name}:{number}")
            elif not all(cell.isascii() and cell.isdigit() for cell in cells[2:12]) or not any(map(int, cells[2:12])):
                rows.leave_out(NOT_A_NUMBER, cells[1])
            else:
                votes = tuple(map(int, cells[2:12]))
                mos = sum(k * count for k, count in enumerate(votes, 1)) / sum(votes)
                rows.add(cells[1], mos, votes=votes, extra={"challenge": cells[14]})
        if not rows.rows:
            raise UserError(f"{path} is not AVA.txt: no row has 15 columns, with ten counts of votes")
        return rows

    def mentioned(self) -> set[str]:
        """The images of AVA.txt."""
        annotated = self.annotated()
        return {f"{id}.jpg" for id in (*annotated.rows, *(id for ids in annotated.left_out.values() for id in ids))}

    def file_names(self, row: Row) -> list[str]:
        """`<id>.jpg`; lists in circulation name the file."""
        return [name if name.endswith(".jpg") else f"{name}.jpg" for name in super().file_names(row)]

    def missing_reason(self, id: str) -> str:
        """The 70 are expected."""
        return KNOWN_MISSING if Path(id).stem in KNOWN_MISSING_IDS else NO_IMAGE
