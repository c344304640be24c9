"""Metrics of validation equal scipy's, whatever the batches and processes, and leave out what could not be parsed."""

import math
import warnings
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from redaes.evaluation.correlations import pairwise_accuracy, srcc_within
from redaes.training.metrics import Krcc, PairwiseAccuracy, Plcc, Srcc, WithinSrcc, ranking_metrics

REFERENCES = {Plcc: stats.pearsonr, Srcc: stats.spearmanr, Krcc: stats.kendalltau}

tenths = st.integers(0, 20).map(lambda v: v / 10)
predicted = st.one_of(tenths, st.just(math.nan))
rows = st.lists(st.tuples(predicted, tenths, tenths, st.integers(0, 3)), min_size=2, max_size=30)
"""Of prediction (NaN: unparsed), truth, g and group."""


def columns(sample):
    predictions, truths, differences, sets = zip(*sample, strict=True)
    return torch.tensor(predictions), torch.tensor(truths), torch.tensor(differences), torch.tensor(sets)


@pytest.mark.parametrize("metric", REFERENCES)
@settings(deadline=None, max_examples=50)
@given(sample=rows, cut=st.integers(1, 29))
def test_correlations_equal_scipys_with_ties_constants_and_failed_parses(metric, sample, cut):
    predictions, truths, *_ = columns(sample)
    measured = metric()
    for part in (slice(0, cut), slice(cut, None)):  # the second may be empty
        measured.update(predictions[part], truths[part])
    parsed = ~predictions.isnan()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        enough = int(parsed.sum()) > 1
        expected = REFERENCES[metric](predictions[parsed], truths[parsed]).statistic if enough else math.nan
    assert float(measured.compute()) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(sample=rows)
def test_order_inside_groups_is_the_evaluations(sample):
    predictions, truths, differences, sets = columns(sample)
    parsed = ~predictions.isnan()
    given_to = [values[parsed].double().numpy() for values in (predictions, differences)]
    for metric, function in ((WithinSrcc(), srcc_within), (PairwiseAccuracy(), pairwise_accuracy)):
        metric.update(predictions, truths, differences, sets)
        expected = function(*given_to, sets[parsed].tolist())
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def random_batches():
    rng = np.random.default_rng(0)
    for size in (7, 12):
        scores = torch.tensor(rng.integers(0, 40, size=(3, size)) / 4)
        scores[0, 2] = math.nan
        yield *scores, torch.tensor(rng.integers(0, 3, size))


def measured(batches):
    collection = ranking_metrics("val/")
    for batch in batches:
        collection.update(*batch)
    return {name: float(value) for name, value in collection.compute().items()}


def of_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    batches = list(random_batches())
    torch.save(measured([batches[rank]]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_measure_what_one_measures_on_all_images(tmp_path):
    mp.spawn(of_one_process, (str(tmp_path),), nprocs=2)
    expected = measured(random_batches())
    assert set(expected) == {
        f"val/{name}" for name in ("srcc", "plcc", "krcc", "srcc_within", "pairwise_accuracy", "parse_failure_rate")
    }
    assert expected["val/parse_failure_rate"] == pytest.approx(2 / 19)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected)


def test_a_second_epoch_begins_anew():
    collection = ranking_metrics("")
    for truths, expected in (([1.0, 2.0, 3.0], 1.0), ([3.0, 2.0, 1.0], -1.0)):
        collection.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(truths))
        assert float(collection.compute()["krcc"]) == expected
        assert collection["srcc"].update_called
        collection.reset()
