"""The questions that the page puts to the scorer, as plain functions of what was uploaded.

In: `Upload`s and a scorer. Out: rows, a comparison, advice, with small pictures as `data:` addresses to show them by.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redaes.app.uploads import Photograph, Refused, Upload, opened, within_limit
from redaes.data.images import ImageError
from redaes.editors.procedural import PlainEditor
from redaes.evaluation.html import thumbnail
from redaes.inference import ComparerProtocol, Difference, EditPredictorProtocol, ScorerProtocol
from redaes.inference.advice import Advice, advise, propose_all
from redaes.inference.listing import Row, header, score_items, to_line

if TYPE_CHECKING:
    from PIL.Image import Image

WORDS = ((0.25, "about as good as"), (1.0, "slightly better than"), (3.0, "better than"), (5.0, "clearly better than"))
FAR = "far better than"


@dataclass(frozen=True)
class Scored:
    """One file's row in the ranking.

    Attributes:
        row: as `redaes score` writes it, the file's name as its path.
        picture: a `data:` address; empty of a file that could not be opened.
    """

    row: Row
    picture: str


def score_uploads(
    uploads: Sequence[Upload],
    scorer: ScorerProtocol,
    model: str,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> list[Scored]:
    """Score what was uploaded: best first, equal scores by name, files without a score last.

    Args:
        uploads: files, photographs or not.
        scorer: sees each photograph at most `VIEW_SIDE` pixels wide and high.
        model: fingerprint to write into the rows.
        tell: called with the number of files done and of all, after every batch.
    """
    taken, left_out = within_limit(uploads)
    pictures: dict[Upload, str] = {}

    def read(upload: Upload, side: int) -> "Image":
        file = opened(upload)
        if isinstance(file, Refused):
            raise ImageError(file.name, file.reason)
        pictures[upload] = thumbnail(file.image)
        return file.image

    rows: list[Row] = []
    for batch in score_items(taken, scorer, model, name=lambda upload: upload.name, read=read):
        rows += batch
        tell(len(rows), len(taken))
    scored = [Scored(row, pictures.get(upload, "")) for upload, row in zip(taken, rows, strict=True)]
    scored += [Scored(Row(file.name, None, "", file.reason, model), "") for file in left_out]
    return sorted(scored, key=lambda s: (s.row.score is None, -(s.row.score or 0.0), s.row.path))


def as_csv(scored: Sequence[Scored]) -> str:
    """The rows as `redaes score --format csv` writes them."""
    return header("csv") + "".join(to_line(s.row, "csv") for s in scored)


def compare_uploads(first: Upload, second: Upload, scorer: ComparerProtocol) -> Difference | list[Refused]:
    """By how much the second photograph is better, or which of the files is none and why."""
    files = [opened(first), opened(second)]
    refused = [file for file in files if isinstance(file, Refused)]
    if refused:
        return refused
    a, b = (file.image for file in files if isinstance(file, Photograph))
    return scorer.compare_pairs([(a, b)])[0]


def difference_words(value: float | None) -> str:
    """A difference as a person would say it [ours].

    Args:
        value: in [-10, 10], above 0 where the second is better; None where the model's answer holds no number.

    Example:
        >>> difference_words(1.3)
        'The second photograph is better than the first.'
        >>> difference_words(-0.4)
        'The first photograph is slightly better than the second.'
    """
    if value is None:
        return "The model's answer holds no number."
    better, other = ("second", "first") if value >= 0 else ("first", "second")
    words = next((words for below, words in WORDS if abs(value) < below), FAR)
    return f"The {better} photograph is {words} the {other}."


@dataclass(frozen=True)
class Proposals:
    """Edits that could be made of a photograph.

    Attributes:
        photograph: that was uploaded.
        advice: what the model expects of each edit, best first; last those for which its answer holds no number.
    """

    photograph: Photograph
    advice: Sequence[Advice]


def advise_on(upload: Upload, scorer: EditPredictorProtocol) -> Proposals | Refused:
    """What would help a photograph most, or why the file is none."""
    photograph = opened(upload)
    if isinstance(photograph, Refused):
        return photograph
    return Proposals(photograph, advise(photograph.image, scorer, propose_all(photograph.image, 0)))


@dataclass(frozen=True)
class Tried:
    """An edit that was made after all.

    Attributes:
        photograph: before it.
        advice: that was followed.
        edited: what came out.
        seen: how much better the model finds it, seeing both photographs.
    """

    photograph: Photograph
    advice: Advice
    edited: "Image"
    seen: Difference


def try_out(photograph: Photograph, advice: Advice, scorer: ComparerProtocol) -> Tried:
    """Make an edit, and ask the model what it thinks of it now that it sees it."""
    edited = PlainEditor().edit(photograph.image, advice.instruction, 0)
    return Tried(photograph, advice, edited, scorer.compare_pairs([(photograph.image, edited)])[0])
