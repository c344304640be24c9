"""Whether a checkpoint still answers all three questions: parse rate, direction and order, on held-out edits.

    python benchmarks/questions.py DATASET --model nano --json

In: a dataset of `redaes data build`, whose test photographs training never saw. Pairs are a source and one edit of its
group, with the judges' consensus difference, at least `--least` points. Per question: `parsed`, the share of pairs with
an answer; `decided`, the share with one other than 0; `direction`, of those, the share with the judges' sign (chance:
`majority`, what always naming the commoner sign would get); `srcc`, with the judges' difference, over those parsed.

    compare_once     PT-O1 in one order        compare     PT-O1 in both orders, halved difference
    predict_edit     PT-O2                     scores      the difference of two scores
"""

import argparse
import json
import random
import statistics
from collections.abc import Sequence

from scipy.stats import spearmanr

from redaes import Difference, Scorer
from redaes.data.manifest import Manifest
from redaes.data.samples import group_edits
from redaes.prompts import DELTA_RANGE, parse_answer


def summary(answers: Sequence[float | None], truth: Sequence[float]) -> dict[str, float]:
    """One question's figures."""
    parsed = [(a, t) for a, t in zip(answers, truth, strict=True) if a is not None]
    decided = [(a, t) for a, t in parsed if a != 0]
    return {
        "parsed": round(len(parsed) / len(truth), 3),
        "decided": round(len(decided) / len(truth), 3),
        "direction": round(statistics.fmean((a > 0) == (t > 0) for a, t in decided), 3) if decided else float("nan"),
        "srcc": round(float(spearmanr(*zip(*parsed, strict=True)).statistic), 3),
    }


def first_order(difference: Difference) -> float | None:
    """What the first of the two orders alone said."""
    return parse_answer(difference.text.split("\n")[0], DELTA_RANGE)


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--pairs", type=int, default=400, help="how many, drawn at random")
    parser.add_argument("--least", type=float, default=0.3, help="smallest difference, in points")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    manifest = Manifest(options.dataset)
    edits = [edit for edit in group_edits(manifest, "test") if abs(edit.delta) >= options.least]
    edits = random.Random(0).sample(edits, min(options.pairs, len(edits)))
    truth = [edit.delta for edit in edits]
    before = [manifest.open(edit.source.image) for edit in edits]
    after = [manifest.open(edit.edit.image) for edit in edits]
    scorer = Scorer(options.model, batch_size=32)
    compared = scorer.compare_pairs(list(zip(before, after, strict=True)))
    instructions = [edit.edit.instruction.text for edit in edits]
    predicted = scorer.predict_edits(list(zip(before, instructions, strict=True)))
    scores = [(a.value, b.value) for a, b in zip(scorer.score(before), scorer.score(after), strict=True)]
    better = statistics.fmean(t > 0 for t in truth)
    found = {
        "pairs": len(edits),
        "majority": round(max(better, 1 - better), 3),
        "compare_once": summary([first_order(d) for d in compared], truth),
        "compare": summary([d.value for d in compared], truth),
        "predict_edit": summary([d.value for d in predicted], truth),
        "scores": summary([None if a is None or b is None else b - a for a, b in scores], truth),
        "model": scorer.fingerprint,
    }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
