"""The gallery of a dataset's report: sampled pairs, groups and rejected edits as cards that a page can filter.

In: a `Survey`. Out: `Card`s for the template. A card carries the values that the page's script compares: numbers, and
the places of editors and categories in a list, so that no text from a model ever becomes part of an expression.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from redaes.engine.stages import mean_verification
from redaes.evaluation.dataset_survey import Survey
from redaes.evaluation.html import Album
from redaes.evaluation.words import consensus_words, outcome_words, outlier_names
from redaes.fusion import population_std
from redaes.records import Edit, GroupRecord, PairRecord, ScoreRecord, Source

GROUP_SIDE = 224
"""The longer side of a picture in a group, in pixels; pairs have `html.THUMBNAIL_SIDE`."""
SIBLINGS_SHOWN = 30
"""Edits listed below a card at most."""


@dataclass(frozen=True)
class Judged:
    """An edit with the words that explain it.

    Attributes:
        edit: the record.
        picture: a `data:` address; empty if there is none to show.
        why: how its consensus came about; empty if it was not judged.
        out: the judges whose verdicts stand out.
        left_out: why it is not in the dataset; empty if it is.
    """

    edit: Edit
    picture: str = ""
    why: str = ""
    out: tuple[str, ...] = ()
    left_out: str = ""

    @property
    def verified(self) -> float | None:
        """The verifiers' mean; None without any."""
        return mean_verification(self.edit.verifications) if self.edit.verifications else None

    @property
    def spread(self) -> float:
        """Standard deviation of the judges' verdicts, 0 without any."""
        values = [verdict.value for verdict in self.edit.verdicts]
        return population_std(values) if values else 0.0


@dataclass(frozen=True)
class Card:
    """One entry of the gallery.

    Attributes:
        kind: pair, group or rejected.
        id: of the record.
        source: the photograph; None if its record was not found.
        before: the source's picture, a `data:` address or empty.
        score: S(x), where it is known.
        scored: how the source was scored; None if its record was not found.
        shown: the edits it is about: one, or a group's variants.
        others: other edits of the same source, left out of the dataset.
        hidden: how many more of these there are.
        editors: places in the gallery's list of editors.
        categories: places in the gallery's list of categories.
    """

    kind: str
    id: str
    source: Source | None
    before: str
    score: float | None
    scored: ScoreRecord | None
    shown: Sequence[Judged]
    others: Sequence[Judged] = ()
    hidden: int = 0
    editors: tuple[int, ...] = ()
    categories: tuple[int, ...] = ()

    @property
    def score_why(self) -> str:
        """How S(x) came about."""
        return consensus_words(self.scored.verdicts, self.scored.fused) if self.scored else ""

    @property
    def score_out(self) -> tuple[str, ...]:
        """The judges whose scores of the source stand out."""
        return outlier_names(self.scored.verdicts, self.scored.fused) if self.scored else ()

    @property
    def deltas(self) -> list[float]:
        """Consensus differences of the edits it is about."""
        return [j.edit.fused.value for j in self.shown if j.edit.fused]

    @property
    def orientations(self) -> list[str]:
        """Of the edits it is about."""
        return sorted({j.edit.instruction.orientation for j in self.shown})

    @property
    def spread(self) -> float:
        """The judges' largest disagreement."""
        return max((j.spread for j in self.shown), default=0.0)


@dataclass
class Gallery:
    """Turns samples into cards.

    Args:
        held: the samples.
        album: the pictures.
        threshold: the verifiers' mean at which an edit passes.
        lazy: how the dataset was built.
    """

    held: Survey
    album: Album
    threshold: float
    lazy: bool
    _editors: dict[str, int] = field(default_factory=dict)
    _categories: dict[str, int] = field(default_factory=dict)

    def cards(self) -> list[Card]:
        """Pairs, then groups, then rejected edits, each in the order in which they were drawn."""
        return [
            *map(self._pair, self.held.pairs),
            *map(self._group, self.held.groups),
            *map(self._rejected, self.held.rejected),
        ]

    def facets(self) -> dict[str, list[tuple[int, str]]]:
        """Editors and categories of the cards made so far, as (place, name), by name."""
        lists = {"editor": self._editors, "category": self._categories}
        return {
            name: sorted(((i, text) for text, i in known.items()), key=lambda p: p[1]) for name, known in lists.items()
        }

    def _pair(self, pair: PairRecord) -> Card:
        others = self.held.siblings[pair.source.id]
        rest = [e for e in others if e.id != pair.edit.id and not _for_group(e)]
        before = self.album.picture(pair.source.image)
        shown = [self._judged(pair.edit, self.album.picture(pair.edit.image))]
        return self._card("pair", pair.id, pair.source, before, pair.score, shown, rest)

    def _group(self, group: GroupRecord) -> Card:
        before = self.album.picture(group.source.image, GROUP_SIDE)
        best_first = sorted((m for m in group.members if m.edit), key=lambda m: -m.g)
        shown = [self._judged(m.edit, self.album.picture(m.image, GROUP_SIDE)) for m in best_first if m.edit]
        kept = {judged.edit.id for judged in shown}
        rest = [e for e in self.held.siblings[group.source.id] if e.id not in kept and _for_group(e)]
        return self._card("group", group.id, group.source, before, group.score, shown, rest)

    def _rejected(self, edit: Edit) -> Card:
        scored = self.held.sources.get(edit.source_id)
        before = self.album.picture(scored.source.image) if scored else ""
        shown = [self._judged(edit, self.album.picture(edit.image), left_out=True)]
        score = scored.fused.value if scored else None
        return self._card("rejected", edit.id, scored.source if scored else None, before, score, shown, [])

    def _card(
        self,
        kind: str,
        name: str,
        source: Source | None,
        before: str,
        score: float | None,
        shown: Sequence[Judged],
        rest: Sequence[Edit],
    ) -> Card:
        scored = self.held.sources.get(source.id) if source else None
        return Card(
            kind=kind,
            id=name,
            source=source,
            before=before,
            score=score,
            scored=scored,
            shown=shown,
            others=[self._judged(edit, "", left_out=True) for edit in rest[:SIBLINGS_SHOWN]],
            hidden=max(0, len(rest) - SIBLINGS_SHOWN),
            editors=_places(self._editors, (j.edit.editor for j in shown)),
            categories=_places(self._categories, (j.edit.instruction.category for j in shown)),
        )

    def _judged(self, edit: Edit, picture: str, left_out: bool = False) -> Judged:
        return Judged(
            edit=edit,
            picture=picture,
            why=consensus_words(edit.verdicts, edit.fused) if edit.fused else "",
            out=outlier_names(edit.verdicts, edit.fused),
            left_out=outcome_words(edit, self.threshold, self.lazy) if left_out else "",
        )


def _for_group(edit: Edit) -> bool:
    """Edits of groups are judged without being verified."""
    return edit.passed is None and bool(edit.verdicts)


def _places(known: dict[str, int], names: Iterable[str]) -> tuple[int, ...]:
    """Where names are in a list; new ones are put at its end."""
    return tuple(sorted({known.setdefault(name, len(known)) for name in names}))
