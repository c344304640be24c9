"""What the engine's terms mean, in words for a reader of a report: the funnel, the consensus, why an edit was left out.

In: records. Out: plain text, with model text inside it as it came; whoever shows it escapes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redaes.engine.stages import all_better, mean_verification, same_direction
from redaes.fusion import population_std
from redaes.records import Edit, Fused, Verdict

FUNNEL = (
    ("sources", "source images, each scored by every judge"),
    ("pair_edits", "edits made of them, one instruction for all editors"),
    ("pair_edits_verified", "of these did what was asked and no more"),
    ("pair_edits_judged", "of these were judged (their source has enough verified edits)"),
    ("pair_edits_unanimously_better", "of these are better in the eyes of every judge"),
    ("pairs", "pairs for stage 1: one of them for each source, at random"),
    ("group_edits", "edits made for groups, an instruction and an editor each"),
    ("group_edits_unanimous", "of these all judges call better, or all worse"),
    ("groups", "groups with enough of them"),
)
METHOD_WORDS = {
    "weighted_average": "the average of all of them",
    "normal_average": "the average of those that do not stand out",
    "weighted_median": "the weighted median",
    "median": "the one in the middle",
    "conservative_average": "the middle between their average and their median",
    "robust_median": "Tukey's biweight, an average that hardly listens to those far away",
    "mean": "their mean",
}
LEVEL_WORDS = {"high": "close together", "medium": "moderately close together", "low": "far apart"}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def outlier_names(verdicts: Sequence[Verdict], fused: Fused | None) -> tuple[str, ...]:
    """The judges whose verdicts stand out, in config order."""
    return () if fused is None else tuple(verdicts[i].judge for i in fused.outliers if i < len(verdicts))


def consensus_words(verdicts: Sequence[Verdict], fused: Fused) -> str:
    """Why the consensus is what it is: level, outliers, method.

    Example:
        >>> verdicts = [Verdict(judge=name, value=value, reasoning="") for name, value in [("a", 1.0), ("b", 1.2)]]
        >>> consensus_words(verdicts, Fused(value=1.1, level="high", outliers=(), method="median"))
        'Two verdicts close together (standard deviation 0.10), none stands out: median, the one in the middle.'
    """
    if len(verdicts) < 2:
        return "One verdict, taken as it is."
    out = outlier_names(verdicts, fused)
    standing = f"{' and '.join(out) or 'none'} {'stand' if len(out) > 1 else 'stands'} out"
    spread = f"{LEVEL_WORDS[fused.level]} (standard deviation {population_std([v.value for v in verdicts]):.2f})"
    meaning = METHOD_WORDS.get(fused.method)
    method = fused.method.replace("_", " ") + (f", {meaning}" if meaning else "")
    return f"{_number(len(verdicts)).capitalize()} verdicts {spread}, {standing}: {method}."


# What may become of an edit, by its own record; `outcome` gives the key.
OUTCOMES = {
    "valid": "valid: verified, and all judges agree",
    "not_verified": "the verifiers' mean is too low",
    "not_judged": "verified but not judged",
    "not_better": "not every judge calls it better",
    "no_direction": "the judges disagree on the direction",
    "not_examined": "made but never examined",
}


def outcome(edit: Edit) -> str:
    """What became of an edit: a key of `OUTCOMES`.

    Edits of groups are not verified (`passed` is None) and need one direction; those of pairs must be better.
    """
    if edit.passed is False:
        return "not_verified"
    if not edit.verdicts:
        return "not_judged" if edit.passed else "not_examined"
    if edit.passed is None:
        return "valid" if same_direction(edit) else "no_direction"
    return "valid" if all_better(edit) else "not_better"


def outcome_words(edit: Edit, threshold: float, lazy: bool) -> str:
    """Why an edit is not in the dataset, with its own numbers.

    Args:
        edit: an edit that was left out.
        threshold: the verifiers' mean at which an edit passes.
        lazy: the engine asked nothing whose answer could not change the dataset.
    """
    match outcome(edit):
        case "not_verified":
            mean = f"Not verified: {mean_verification(edit.verifications):.1f} on average, {threshold:g} are needed."
            return mean if edit.verifications else "Not verified."
        case "not_judged" if lazy:
            return (
                "Verified but not judged: too few edits of this source passed, or a better place in the draw was valid."
            )
        case "not_judged":
            return "Verified but not judged: too few edits of this source passed."
        case "not_better":
            against = [v for v in edit.verdicts if v.value <= 0]
            return f"Not unanimous: {_said(against)}, and every judge must say better."
        case "no_direction":
            return f"No common direction: {_said(edit.verdicts)}."
        case "not_examined":
            return "Never examined: its source was settled without it." if lazy else "Never examined."
    return (
        "Valid, but the group was full or too small."
        if edit.passed is None
        else "Valid, but another valid edit of this source was drawn."
    )


def _said(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(f"{v.judge} says {signed(v.value)}" for v in verdicts)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, the minus a true one.

    Example:
        >>> signed(0.04), signed(-1.25, 2)
        ('0.0', '−1.25')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested statistics as (dotted name, value) rows."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flattened(inner, f"{name}.{index}")
    else:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
