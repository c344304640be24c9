"""`redaes advise`: which edit would help a photograph, and by how much; with --apply, a loop that makes it better."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.inference.advice import Advice, Attempt, Proposer


def advise(
    image: str,
    model: str = "nano",
    instructor: str = "",
    count: int = 12,
    top: int = 10,
    apply: str = "",
    rounds: int = 3,
    tries: int = 3,
    min_gain: float = 0.0,
    side: int = 1600,
    output: str = "advice",
    html: str | None = None,
    format: Literal["table", "json"] = "table",
    seed: int = 0,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """List the edits that would help a photograph, best first, by what the model expects of each before it is made.

    With --apply the best edit is made and the model looks at both photographs; the edit is kept only if it is really
    better, and the search goes on from there. What comes out lies in --output: the photograph, and a strip of pictures
    from before to after.

    Args:
        image: the photograph.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        instructor: a plug-in that proposes edits, such as 'pixel', or a file or mapping with class_path and init_args.
            Default: the whole category set, in three strengths.
        count: edits that an instructor proposes.
        top: edits to list.
        apply: the editor that makes the edits, such as 'procedural', or a file or mapping with class_path and
            init_args. Default: none are made.
        rounds: edits to keep, at most.
        tries: edits to try in a round until one is kept.
        min_gain: keep an edit if the model, seeing both, finds it better by more than this many points.
        side: longer side of the photograph that is edited and saved, in pixels; 0 keeps it whole.
        output: folder for what --apply makes.
        html: also write a page with the advice and what became of it, in one file that needs no network.
        format: table for people, json for programs.
        seed: of proposals and editor.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; it must predict edits.

    Returns:
        The exit code: 0; 1 if no answer of the model could be read.

    Raises:
        UserError: a photograph or plug-in that cannot be used, or an output that cannot be written.
    """
    from redaes.data.images import open_image
    from redaes.inference import EditPredictorProtocol
    from redaes.inference.advice import advise as predict
    from redaes.inference.advice import improve
    from redaes.inference.listing import display_path, load_scorer
    from redaes.presets import read_plugin
    from redaes.registry import create

    for name, value, least in (("count", count, 1), ("top", top, 1), ("rounds", rounds, 1), ("tries", tries, 1)):
        if value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}")
    if side and side < 64:
        raise UserError(f"--side is {side}; it must be at least 64, or 0 for the whole photograph")
    if html is not None:
        from redaes.evaluation.html import refuse_unwritable

        refuse_unwritable(Path(html))
    photograph = open_image(image, max_side=side or None)
    editor = create("editors", read_plugin(apply)) if apply else None
    propose = _proposer(instructor, count)
    loaded = load_scorer(model, scorer=scorer, device=device)
    if not isinstance(loaded, EditPredictorProtocol):
        raise UserError(f"the scorer {scorer!r} cannot predict edits; use --scorer redaes and a checkpoint of ours")
    advice = predict(photograph, loaded, propose(photograph, seed))
    shown = [one for one in advice if one.predicted.value is not None][:top]
    if unread := sum(one.predicted.value is None for one in advice):
        print(f"of {unread} of {len(advice)} edits the model's prediction could not be read", file=sys.stderr)
    attempts: list[Attempt] = []
    if editor is not None:
        how: Any = {"known": advice, "rounds": rounds, "tries": tries, "min_gain": min_gain, "seed": seed}
        attempts = _follow(improve(photograph, loaded, editor, propose, **how))
    name = display_path(Path(image))
    document = _document(name, model, advice, attempts)
    if editor is not None:
        document |= _save(Path(output), Path(image), photograph, attempts)
    if format == "json":
        print(json.dumps(document, ensure_ascii=False, allow_nan=False))
    else:
        _show(shown)
    if html is not None:
        _write_page(Path(html), name, model, photograph, shown, attempts)
    return int(not shown)


def _proposer(instructor: str, count: int) -> "Proposer":
    from redaes.inference.advice import propose_all, propose_by
    from redaes.presets import read_plugin
    from redaes.registry import create

    return propose_by(create("instructors", read_plugin(instructor)), count) if instructor else propose_all


def _follow(loop: "Iterator[Attempt]") -> "list[Attempt]":
    """Every attempt of the loop, each told on stderr as soon as it is judged."""
    from redaes.inference.listing import printable

    attempts = []
    for attempt in loop:
        attempts.append(attempt)
        words = printable(attempt.advice.instruction.text)
        print(f"round {attempt.round}: {words} {printable(outcome(attempt))}", file=sys.stderr)
    if not attempts:
        print("nothing was tried: the model expects no gain of any edit", file=sys.stderr)
    return attempts


def outcome(attempt: "Attempt") -> str:
    """What became of an attempt, in a few words."""
    from redaes.evaluation.words import signed

    if attempt.error:
        return f"could not be made: {attempt.error}"
    expected = f"expected {signed(attempt.advice.predicted.value or 0.0, 1)}"
    if attempt.verified is None or attempt.verified.value is None:
        return f"{expected}, the comparison could not be read: not kept"
    return f"{expected}, seen {signed(attempt.verified.value, 1)}: {'kept' if attempt.kept else 'not kept'}"


def _document(image: str, model: str, advice: "Sequence[Advice]", attempts: "Sequence[Attempt]") -> dict[str, Any]:
    return {
        "image": image,
        "model": model,
        "advice": [{**one.instruction.model_dump(), "predicted": one.predicted.value} for one in advice],
        "attempts": [
            {
                "round": one.round,
                "instruction": one.advice.instruction.text,
                "predicted": one.advice.predicted.value,
                "verified": one.verified.value if one.verified else None,
                "reasoning": one.verified.reasoning if one.verified else "",
                "kept": one.kept,
                "error": one.error,
            }
            for one in attempts
        ],
    }


def _save(folder: Path, source: Path, photograph: "Image", attempts: "Sequence[Attempt]") -> dict[str, Any]:
    """The improved photograph and the strip, if any edit was kept; their paths, by name."""
    from redaes.data.images import exif_of
    from redaes.inference.listing import display_path
    from redaes.inference.strip import strip

    kept = [attempt for attempt in attempts if attempt.kept and attempt.edited is not None]
    if not kept:
        print("no edit was kept: the photograph stays as it is", file=sys.stderr)
        return {"improved": None, "strip": None}
    improved, drawn = folder / f"{source.stem}-improved.jpg", folder / f"{source.stem}-strip.jpg"
    edited = [(attempt.edited, _caption(attempt)) for attempt in kept if attempt.edited is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        edited[-1][0].save(improved, quality=95, exif=exif_of(source))
        strip([(photograph, "before"), *edited]).save(drawn, quality=90)
    except OSError as error:
        raise UserError(f"cannot write into --output {folder}: {error.strerror or error}") from error
    names = {"improved": display_path(improved), "strip": display_path(drawn)}
    print("wrote {improved} and {strip}".format_map(names), file=sys.stderr)
    return names


def _caption(attempt: "Attempt") -> str:
    from redaes.evaluation.words import signed

    gain = signed(attempt.verified.value, 1) if attempt.verified and attempt.verified.value is not None else ""
    return f"{attempt.round}. {attempt.advice.instruction.text} {gain}"


def _show(advice: "Sequence[Advice]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from redaes.evaluation.words import signed
    from redaes.inference.listing import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("expected gain", "right"), ("", "left"), ("edit", "left"), ("kind", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    most = max((abs(one.predicted.value or 0.0) for one in advice), default=0.0) or 1.0
    for one in advice:
        value = one.predicted.value or 0.0
        colour = "green" if value > 0 else "red"
        bar = Text("█" * round(10 * abs(value) / most), colour)
        table.add_row(
            Text(signed(value, 1), colour),
            bar,
            Text(printable(one.instruction.text)),
            Text(one.instruction.orientation, "dim"),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _write_page(
    page: Path,
    image: str,
    model: str,
    photograph: "Image",
    advice: "Sequence[Advice]",
    attempts: "Sequence[Attempt]",
) -> None:
    from redaes.evaluation.html import render, script, thumbnail, write_page

    slider, allowed = script("slider.js")
    kept = [attempt for attempt in attempts if attempt.kept and attempt.edited is not None]
    most = max((abs(one.predicted.value or 0.0) for one in advice), default=0.0) or 1.0
    text = render(
        "advice.html",
        image=image,
        model=model,
        before=thumbnail(photograph, 1200),
        after=thumbnail(kept[-1].edited, 1200) if kept and kept[-1].edited is not None else "",
        advice=advice,
        most=most,
        attempts=[(a, outcome(a), thumbnail(a.edited) if a.edited is not None else "") for a in attempts],
        kept=len(kept),
        script=slider,
        script_source=allowed,
    )
    write_page(page, text)
