"""`redaes evaluate`: how well a model orders the groups of a split, with intervals, as one JSON file."""

import sys
import time
from pathlib import Path

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.records import Split


def evaluate(
    data: str = "data",
    output: str = "evaluation.json",
    model: str = "nano",
    split: Split = "test",
    samples: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """Score every image of a split's groups and measure the agreement with the judges' consensus.

    Args:
        data: a dataset folder written by `redaes data build`.
        output: the JSON file to write: measures with 95 % intervals, and every prediction.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        split: train, validation or test.
        samples: evaluate about this many images only: whole groups, drawn at random but always the same.
        batch_size: images scored at once.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).

    Returns:
        The exit code, 0.

    Raises:
        UserError: no such dataset, no groups in the split, a model that cannot be loaded.
    """
    from redaes.evaluation.runner import choose_groups, evaluation_document, predict, write_evaluation
    from redaes.inference.listing import fingerprint, load_scorer
    from redaes.inference.terminal import with_progress

    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    dataset = Manifest(data)
    groups = choose_groups(dataset.groups(split), samples)
    if not groups:
        raise UserError(f"{data} has no groups in the split {split!r}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(len(group.members) for group in groups)
    name = fingerprint(model, scorer)
    loaded = load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
    start = time.monotonic()
    batches = with_progress(predict(dataset, groups, loaded, batch_size), total)
    predictions = [prediction for batch in batches for prediction in batch]
    seconds = time.monotonic() - start
    document = evaluation_document(predictions, model=name, split=split, dataset=dataset, seconds=seconds)
    write_evaluation(path, document)
    print(_summary(document["metrics"]), file=sys.stderr)
    return 0


def _summary(metrics: "dict[str, dict[str, dict[str, float | None]]]") -> str:
    """The measure that stage 3 trains, and how much of the split it rests on."""
    within = metrics["failures_as_mean"]["srcc_within"]
    value, low, high = ("undefined" if within[k] is None else f"{within[k]:.3f}" for k in ("value", "low", "high"))
    return (
        f"order within groups (SRCC): {value}, 95 % interval {low} to {high}; "
        f"{metrics['n']} images in {metrics['groups']} groups, {metrics['parsed']} answers parsed"
    )
