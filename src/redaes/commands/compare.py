"""`redaes compare`: two photographs seen together, and which is better, by how much, and why."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from redaes.data.images import VIEW_SIDE, open_image
from redaes.errors import UserError
from redaes.inference import ComparerProtocol, Difference
from redaes.inference.listing import display_path, fingerprint, load_scorer, printable

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SIDE = 900


def compare(
    first: str,
    second: str,
    model: str = "nano",
    format: Literal["table", "json"] = "table",
    html: str | None = None,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """Say by how much the second image is better than the first, from -10 to 10, in the model's words.

    The model is asked in both orders and its two answers are averaged, so that it does not matter which image is named
    first; how far they were apart is said as well.

    Args:
        first: an image file.
        second: an image file.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        format: table for people, json for programs.
        html: also write a page with both pictures, in one file that needs no network.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; it must be one that compares.

    Returns:
        The exit code: 0 if there is a difference, 1 if the model's answer holds none.

    Raises:
        UserError: a file that is no image, a page that cannot be written, a model that cannot be loaded or compare.
    """
    paths = (Path(first), Path(second))
    images = [open_image(path, max_side=VIEW_SIDE) for path in paths]
    if html is not None:
        from redaes.evaluation.html import refuse_unwritable

        refuse_unwritable(Path(html))
    asked = load_scorer(model, scorer=scorer, device=device)
    if not isinstance(asked, ComparerProtocol):
        raise UserError(f"the scorer {scorer!r} does not compare images; leave --scorer out, or use `redaes rank`")
    found = asked.compare_pairs([(images[0], images[1])])[0]
    names = (display_path(paths[0]), display_path(paths[1]))
    mark: str = getattr(asked, "fingerprint", "") or fingerprint(model, scorer)
    print(_as_json(names, found, mark) if format == "json" else _as_words(names, found))
    if html is not None:
        _write_page(Path(html), names, images, found, mark)
    if found.value is None:
        print(f"the model's answer holds no difference: {printable(found.text)}", file=sys.stderr)
    return int(found.value is None)


def verdict(difference: Difference, first: str, second: str) -> str:
    """Which image is better, by how much, in a sentence.

    Example:
        >>> verdict(Difference(-1.25, "", ""), "a.jpg", "b.jpg")
        'a.jpg is better by 1.2 points'
        >>> verdict(Difference(0.0, "", ""), "a.jpg", "b.jpg")
        'neither is better'
        >>> verdict(Difference(0.5, "", "", disagreement=4.0), "a.jpg", "b.jpg")
        'no clear winner'
    """
    if difference.value is None:
        return "no difference could be read"
    if not _one_winner(difference):
        return "no clear winner"
    if difference.value == 0:
        return "neither is better"
    return f"{second if difference.value > 0 else first} is better by {abs(difference.value):.1f} points"


def agreement(difference: Difference) -> str:
    """What the two orders say of the verdict; empty if the question was asked once.

    Example:
        >>> agreement(Difference(2.0, "", "", disagreement=0.5))
        'asked in both orders: each within 0.5 points of that'
        >>> agreement(Difference(0.5, "", "", disagreement=4.0))
        'asked in both orders: each names another winner (+4.5 and -3.5), so it says little'
    """
    value, apart = difference.value, difference.disagreement
    if value is None or apart is None:
        return ""
    if not _one_winner(difference):
        both = f"{value + apart:+.1f} and {value - apart:+.1f}"
        return f"asked in both orders: each names another winner ({both}), so it says little"
    return f"asked in both orders: each within {apart:.1f} points of that"


def _one_winner(difference: Difference) -> bool:
    """Whether the answers to both orders name the same image."""
    return difference.disagreement is None or difference.disagreement <= abs(difference.value or 0.0)


def _as_words(names: tuple[str, str], found: Difference) -> str:
    first, second = map(printable, names)
    lines = [verdict(found, first, second), agreement(found), printable(found.reasoning)]
    return "\n".join(line for line in lines if line)


def _as_json(names: tuple[str, str], found: Difference, model: str) -> str:
    shown = {
        "first": names[0],
        "second": names[1],
        "difference": found.value,
        "disagreement": found.disagreement,
        "std": found.std,
        "reasoning": found.reasoning,
        "model": model,
    }
    return json.dumps(shown, ensure_ascii=False, allow_nan=False)


def _write_page(page: Path, names: tuple[str, str], images: "list[Image]", found: Difference, model: str) -> None:
    from redaes.evaluation.html import render, thumbnail, write_page

    better = int(found.value > 0) if found.value and _one_winner(found) else None
    pictures = [(name, thumbnail(image, PICTURE_SIDE)) for name, image in zip(names, images, strict=True)]
    text = render(
        "comparison.html",
        pictures=pictures,
        better=better,
        found=found,
        verdict=verdict(found, *(Path(name).name for name in names)),
        agreement=agreement(found),
        model=model,
    )
    write_page(page, text)
