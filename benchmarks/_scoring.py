"""How many images a second: one forward pass against a generation."""

import time
from typing import Any

from redaes.inference.scorer import Scorer
from redaes.scorers.expectation import LogitExpectationScorer


def expectation_ratio(images: list[Any], model: str = "nano", batch_size: int = 16) -> float:
    """Images a second of `logit_expectation` over those of generation, both warm and with the same batches."""
    seconds = []
    for scorer in (Scorer(model, batch_size=batch_size), LogitExpectationScorer(model, batch_size=batch_size)):
        scorer.score(images[:batch_size])
        start = time.perf_counter()
        scorer.score(images)
        seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]
