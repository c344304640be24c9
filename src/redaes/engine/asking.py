"""The six questions of the engine, put to plug-ins through the ledger.

A question is what its answer depends on beside the plug-in itself: the pixels, the instruction, a count, a seed. How it
is put is decided by the `Ask` behind it: `redaes.engine.calling.Calls.ask` finds an answer in the ledger or gets and
records it; `directly` just asks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redaes.calls import Role, UnusableAnswer
from redaes.engine.calling import Lost
from redaes.engine.objects import Objects, Picture
from redaes.records import Instruction, Record, Verdict, Verification

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.editors import Editor
    from redaes.instructors import Instructor
    from redaes.judges import Judge
    from redaes.verifiers import Verifier

T = TypeVar("T")
R = TypeVar("R", bound=Record)


class Ask(Protocol):
    """Get one answer, from the ledger or from the plug-in."""

    def __call__(
        self,
        role: Role,
        plugin: Any,
        images: Sequence[Picture],
        question: Mapping[str, Any],
        function: Callable[[], T],
        source: str,
        dump: Callable[[T], Any],
        load: Callable[[Any], T],
    ) -> T:
        """What `function` returns, or returned before; `dump` and `load` are its way into the ledger and back."""
        ...


class Asking:
    """Questions about one source.

    Args:
        ask: how a question is put.
        objects: where edited images are kept.
        source: the source's id, recorded with every call.
    """

    def __init__(self, ask: Ask, objects: Objects, source: str) -> None:
        self._ask = ask
        self._objects = objects
        self._source = source

    def score(self, judge: "Judge", image: Picture) -> Verdict:
        """A score in [0, 10]."""
        return self._record("score", judge, (image,), {}, lambda: judge.score(image.image), Verdict)

    def compare(self, judge: "Judge", source: Picture, edited: Picture) -> Verdict:
        """A difference in [-10, 10], positive where `edited` is better."""
        pair = (source, edited)
        return self._record("compare", judge, pair, {}, lambda: judge.compare(source.image, edited.image), Verdict)

    def instruct(self, instructor: "Instructor", image: Picture, seed: int) -> Instruction:
        """One targeted edit."""
        question = {"seed": seed}
        return self._record(
            "instruct", instructor, (image,), question, lambda: instructor.instruct(image.image, seed), Instruction
        )

    def diversify(self, instructor: "Instructor", image: Picture, count: int, seed: int) -> list[Instruction]:
        """Diverse edits."""
        return self._ask(
            "diversify",
            instructor,
            (image,),
            {"count": count, "seed": seed},
            lambda: instructor.diversify(image.image, count, seed),
            self._source,
            lambda instructions: [i.model_dump(mode="json") for i in instructions],
            lambda stored: [Instruction.model_validate(i) for i in stored],
        )

    def edit(self, editor: "Editor", image: Picture, instruction: Instruction, seed: int) -> Picture:
        """The edited image. What an endpoint made is in the object store before anybody sees it.

        What was computed here can be computed again, and is kept only if the dataset keeps it.
        """
        return self._ask(
            "edit",
            editor,
            (image,),
            {"instruction": instruction.model_dump(mode="json"), "seed": seed},
            lambda: Picture.of(_of_the_same_size(editor.edit(image.image, instruction, seed), image.image)),
            self._source,
            self._objects.put if getattr(editor, "endpoint", "") else _sha,
            self._kept,
        )

    def verify(self, verifier: "Verifier", source: Picture, edited: Picture, instruction: Instruction) -> Verification:
        """VIEScore's sub-scores."""
        question = {"instruction": instruction.model_dump(mode="json")}
        pair = (source, edited)
        return self._record(
            "verify",
            verifier,
            pair,
            question,
            lambda: verifier.verify(source.image, edited.image, instruction),
            Verification,
        )

    def _kept(self, sha: str) -> Picture:
        """An edited image of the ledger."""
        image = self._objects.get(sha)
        if image is None:
            raise Lost(f"its image {sha[:12]}... is gone or damaged")
        return Picture(image, sha)

    def _record(
        self,
        role: Role,
        plugin: Any,
        images: tuple[Picture, ...],
        question: dict[str, Any],
        function: Callable[[], R],
        kind: type[R],
    ) -> R:
        """A question that is answered by a record."""
        return self._ask(
            role,
            plugin,
            images,
            question,
            function,
            self._source,
            lambda r: r.model_dump(mode="json"),
            kind.model_validate,
        )


def _dump(record: Record) -> Any:
    return record.model_dump(mode="json")


def _sha(picture: Picture) -> str:
    return picture.sha


def _of_the_same_size(edited: "Image", source: "Image") -> "Image":
    """An editor's answer, unless it breaks its contract."""
    if edited.mode != "RGB" or edited.size != source.size:
        raise UnusableAnswer(
            f"the edited image is {edited.mode} of {edited.width} x {edited.height} pixels; "
            f"it must be RGB of {source.width} x {source.height}, as its source is"
        )
    return edited
