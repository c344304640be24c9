"""Advice for one photograph: which edit would help and by how much, before it is made; then only those that really do.

In: a photograph, a model that predicts edits (PT-O2, Sec. 3.2) and compares images (PT-O1), an instructor, an editor.
Out: advice, best first; attempts of a closed loop that makes the best edit, looks at the result, and keeps it only if
it is better. The model never scores what it has not seen made. The loop is ours, not from the paper.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redaes.calls import CallError
from redaes.editors.operations import OPERATIONS, STRENGTHS, request
from redaes.errors import UserError
from redaes.inference import ComparerProtocol, Difference, EditPredictorProtocol
from redaes.records import Instruction

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.editors import Editor
    from redaes.instructors import Instructor

Proposer = Callable[["Image", int], Sequence[Instruction]]
"""From a photograph and a seed to the edits to consider."""


@dataclass(frozen=True)
class Advice:
    """One edit that could be made, and what the model expects of it.

    Attributes:
        instruction: what to ask an editor for.
        predicted: by how much it would change the photograph, in [-10, 10]; its value is None where the model's answer
            could not be parsed.
    """

    instruction: Instruction
    predicted: Difference


@dataclass(frozen=True)
class Attempt:
    """One edit that was made, or could not be.

    Attributes:
        round: from 1; a round begins with advice for the photograph as it is by then.
        advice: that was followed.
        edited: what came out; None where the editor failed.
        verified: by how much it is better than the photograph before it, as the model sees both; None without `edited`.
        kept: the next round begins with it.
        error: why there is no edit, in one line; empty otherwise.
    """

    round: int
    advice: Advice
    edited: "Image | None"
    verified: Difference | None
    kept: bool
    error: str = ""


def propose_all(image: "Image", seed: int) -> list[Instruction]:
    """The whole category set: every operation that is meant to improve, in every strength; a `Proposer`."""
    improving = [category for category, operation in OPERATIONS.items() if operation.improving]
    return [request(category, strength) for category in improving for strength in STRENGTHS]


def propose_by(instructor: "Instructor", count: int = 12) -> Proposer:
    """A `Proposer` that asks an instructor: one edit aimed at what is wrong, the others diverse.

    Args:
        instructor: looks at the photograph.
        count: edits to propose, at least 1; fewer where it proposes the same twice.
    """

    def propose(image: "Image", seed: int) -> list[Instruction]:
        asked = [instructor.instruct(image, seed)]
        if count > 1:
            asked += instructor.diversify(image, count - 1, seed)
        return list({instruction.text: instruction for instruction in asked}.values())

    return propose


def advise(image: "Image", scorer: EditPredictorProtocol, instructions: Sequence[Instruction]) -> list[Advice]:
    """Predict what each edit would do to a photograph, without making any (PT-O2).

    Args:
        image: RGB.
        scorer: predicts.
        instructions: edits to consider; of several strengths of one category only the most promising is advised.

    Returns:
        Best first, equal ones in the given order; those without a prediction last.
    """
    predicted = scorer.predict_edits([(image, instruction.text) for instruction in instructions])
    advice = [Advice(*both) for both in zip(instructions, predicted, strict=True)]
    advice.sort(key=lambda one: (one.predicted.value is None, -(one.predicted.value or 0.0)))
    best: dict[str, Advice] = {}
    for one in advice:
        best.setdefault(_family(one.instruction), one)
    return list(best.values())


def improve(
    image: "Image",
    scorer: "ComparerProtocol | EditPredictorProtocol",
    editor: "Editor",
    propose: Proposer = propose_all,
    *,
    known: Sequence[Advice] | None = None,
    rounds: int = 3,
    tries: int = 3,
    min_gain: float = 0.0,
    seed: int = 0,
) -> Iterator[Attempt]:
    """Follow the best advice, keep it if the result is really better, and begin again with the result.

    A round tries the most promising edits in turn until one is kept. The loop ends with a round that keeps none. An
    edit that was refused once is not tried again.

    Args:
        image: RGB.
        scorer: predicts edits and compares images.
        editor: makes the edits.
        propose: says which edits to consider.
        known: advice for the photograph as it is, which the first round follows; None asks for it.
        rounds: edits to keep, at most.
        tries: edits to make in one round, at most.
        min_gain: an edit is kept if the model, seeing both images, finds it better by more than this, in points.
        seed: of proposals and editor.

    Yields:
        Every attempt as soon as it is judged.

    Raises:
        UserError: the scorer cannot do both, or the editor failed at every edit of the first round.
    """
    if not isinstance(scorer, ComparerProtocol) or not isinstance(scorer, EditPredictorProtocol):
        raise UserError("this scorer cannot predict edits and compare images; use a checkpoint of ours, such as nano")
    refused: set[str] = set()
    for number in range(1, rounds + 1):
        advice = known if known is not None else advise(image, scorer, propose(image, seed + number))
        known = None
        attempts = []
        for one in _worth_trying(advice, refused)[:tries]:
            attempts.append(_attempt(number, image, one, scorer, editor, min_gain, seed + number))
            yield attempts[-1]
            if attempts[-1].kept:
                break
            refused.add(one.instruction.text)
        if number == 1 and attempts and all(attempt.error for attempt in attempts):
            raise UserError(f"{editor.name} made none of the edits: {attempts[-1].error}")
        if not attempts or attempts[-1].edited is None or not attempts[-1].kept:
            return
        image = attempts[-1].edited


def _worth_trying(advice: Sequence[Advice], refused: Collection[str]) -> list[Advice]:
    return [a for a in advice if (a.predicted.value or 0.0) > 0 and a.instruction.text not in refused]


def _attempt(
    number: int,
    image: "Image",
    advice: Advice,
    scorer: ComparerProtocol,
    editor: "Editor",
    min_gain: float,
    seed: int,
) -> Attempt:
    try:
        edited = editor.edit(image, advice.instruction, seed)
    except (CallError, UserError) as error:  # this edit cannot be made; another may
        return Attempt(number, advice, None, None, kept=False, error=" ".join(str(error).split()))
    (verified,) = scorer.compare_pairs([(image, edited)])
    kept = verified.value is not None and verified.value > min_gain
    return Attempt(number, advice, edited, verified, kept)


def _family(instruction: Instruction) -> str:
    """What several strengths of one edit have in common."""
    words = (word for word in instruction.text.split() if word.strip(".,") not in STRENGTHS)
    return f"{instruction.category} {' '.join(words)}"
