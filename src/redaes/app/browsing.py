"""A dataset, page by page: its pairs, its groups and the edits that were rejected, with every judgement.

A file of records is read once, for what it can be filtered by; then only the records of the page that is looked at are
read, by their places in the file. So the first look takes as long as the file is long, and the others do not.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.evaluation.dataset_cards import Card, Gallery
from redaes.evaluation.dataset_survey import Survey
from redaes.evaluation.html import Album
from redaes.evaluation.words import outcome
from redaes.records import Edit, GroupRecord, PairRecord, Record, ScoreRecord, Split

R = TypeVar("R", bound=Record)

Kind = Literal["pairs", "groups", "rejected"]
KINDS: dict[Kind, str] = {"pairs": "pairs", "groups": "groups", "rejected": "rejected edits"}

CARDS_SHOWN = 6
PICTURES_SHOWN = 20 << 20
"""Bytes of pictures in one page of cards."""


class Entry(NamedTuple):
    """What a record can be found by.

    Attributes:
        place: of its line in the file, in bytes.
        split: of its photograph.
        editors: who made the edits it holds.
        categories: of these edits.
        words: their instructions, in lower case.
    """

    place: int
    split: Split
    editors: frozenset[str]
    categories: frozenset[str]
    words: str


@dataclass(frozen=True)
class Wanted:
    """Which records to show; an empty text lets everything through.

    Attributes:
        kind: pairs, groups or rejected edits.
        split: train, validation or test.
        editor: whose edits.
        category: of which edits.
        words: all of them in one of the instructions.
    """

    kind: Kind = "pairs"
    split: str = ""
    editor: str = ""
    category: str = ""
    words: str = ""

    def holds(self, entry: Entry) -> bool:
        """Whether a record is wanted."""
        return (
            self.split in ("", entry.split)
            and (not self.editor or self.editor in entry.editors)
            and (not self.category or self.category in entry.categories)
            and all(word in entry.words for word in self.words.lower().split())
        )


@dataclass(frozen=True)
class Leaf:
    """One page of cards.

    Attributes:
        cards: what is on it.
        number: which page it is, from 1.
        pages: how many there are, at least 1.
        found: records that are wanted, on all pages.
    """

    cards: Sequence[Card]
    number: int
    pages: int
    found: int


class Browser:
    """A dataset opened for browsing.

    Args:
        root: the dataset's folder.

    Raises:
        UserError: no dataset there, or one of another schema version.
    """

    def __init__(self, root: str | Path) -> None:
        self.dataset = Manifest(root)
        self.config = self.dataset.info.get("config", {})
        self.threshold = float(self.config.get("verification", {}).get("threshold", 7.5))

    def leaf(self, wanted: Wanted, number: int = 1) -> Leaf:
        """One page of what is wanted; a number beyond the last page gives the last.

        Raises:
            UserError: a record that is damaged, by file and line.
        """
        found = [entry for entry in self._entries[wanted.kind] if wanted.holds(entry)]
        pages = max(1, -(-len(found) // CARDS_SHOWN))
        number = max(1, min(number, pages))
        shown = [entry.place for entry in found[(number - 1) * CARDS_SHOWN : number * CARDS_SHOWN]]
        return Leaf(self._cards(wanted.kind, shown), number, pages, len(found))

    def editors(self) -> list[str]:
        """Whose edits the dataset holds."""
        return sorted({name for entries in self._entries.values() for e in entries for name in e.editors})

    def categories(self) -> list[str]:
        """Of the edits the dataset holds."""
        return sorted({name for entries in self._entries.values() for e in entries for name in e.categories})

    def _cards(self, kind: Kind, places: Sequence[int]) -> list[Card]:
        held = Survey()
        match kind:
            case "pairs":
                held.pairs = self._read("pairs", PairRecord, places)
            case "groups":
                held.groups = self._read("groups", GroupRecord, places)
            case "rejected":
                held.rejected = self._read("edits", Edit, places)
        ids = [pair.source.id for pair in held.pairs] + [group.source.id for group in held.groups]
        ids += [edit.source_id for edit in held.rejected]
        scored = self._read("sources", ScoreRecord, [self._sources[i][0] for i in ids if i in self._sources])
        held.sources = {record.source.id: record for record in scored}
        if kind != "rejected":
            for i in ids:
                held.siblings[i] = self._read("edits", Edit, self._edits_of[i])
        album = Album(PICTURES_SHOWN, self.dataset.path)
        return Gallery(held, album, self.threshold, self.config.get("mode") == "lazy").cards()

    def _read(self, name: str, kind: type[R], places: Sequence[int]) -> list[R]:
        with (self.dataset.root / f"{name}.jsonl").open("rb") as file:
            records = []
            for place in places:
                file.seek(place)
                records.append(kind.model_validate_json(file.readline()))
            return records

    @cached_property
    def _sources(self) -> dict[str, tuple[int, Split]]:
        return {r.source.id: (at, r.source.split) for at, r in _lines(self.dataset.root / "sources.jsonl", ScoreRecord)}

    @cached_property
    def _edits(self) -> list[tuple[str, bool, Entry]]:
        """Every edit: of which source, whether it was rejected, what it can be found by."""
        return [
            (edit.source_id, outcome(edit) != "valid", _entry(at, self._sources[edit.source_id][1], [edit]))
            for at, edit in _lines(self.dataset.root / "edits.jsonl", Edit)
            if edit.source_id in self._sources
        ]

    @cached_property
    def _edits_of(self) -> dict[str, list[int]]:
        places: defaultdict[str, list[int]] = defaultdict(list)
        for source, _, entry in self._edits:
            places[source].append(entry.place)
        return places

    @cached_property
    def _entries(self) -> dict[Kind, list[Entry]]:
        root = self.dataset.root
        return {
            "pairs": [_entry(at, p.source.split, [p.edit]) for at, p in _lines(root / "pairs.jsonl", PairRecord)],
            "groups": [
                _entry(at, group.source.split, [member.edit for member in group.members if member.edit])
                for at, group in _lines(root / "groups.jsonl", GroupRecord)
            ],
            "rejected": [entry for _, rejected, entry in self._edits if rejected],
        }


def _entry(place: int, split: Split, edits: Sequence[Edit]) -> Entry:
    words = "\n".join(edit.instruction.text.lower() for edit in edits)
    return Entry(
        place, split, frozenset(e.editor for e in edits), frozenset(e.instruction.category for e in edits), words
    )


def _lines(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    """Every record with the place of its line."""
    if not path.is_file():
        raise UserError(f"no {path.name} in this dataset")
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield place, kind.model_validate_json(line)
            except ValueError as error:
                raise UserError(f"{path.name}:{number} is not a {kind.__name__}") from error
            place += len(line)
