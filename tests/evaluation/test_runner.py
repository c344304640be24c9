"""An evaluation scores every member of every group and measures what METHOD section 4 asks for."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.evaluation.runner import (
    MEASURES,
    Prediction,
    choose_groups,
    evaluation_document,
    measure,
    measure_difference,
    predict,
    read_evaluation,
    write_evaluation,
)
from redaes.inference import Score


class ContrastScorer:
    """A scorer of a third party: the spread of the pixels; it cannot say anything of flat images."""

    def score(self, images: Sequence[Image.Image | str | Path]) -> list[Score]:
        spreads = [float(np.asarray(image).std()) / 12 for image in images]
        return [Score(min(10.0, s) if s > 1 else None, "Contrast.", f"<answer>{s}</answer>") for s in spreads]


def _predictions(n_groups: int = 12, members: int = 5, noise: float = 1.0, seed: int = 0) -> list[Prediction]:
    rng = random.Random(seed)
    rows = []
    for group in range(n_groups):
        level = rng.uniform(3, 7)
        for member in range(members):
            g = 0.0 if member == 0 else rng.uniform(-3, 3)
            truth = level + g
            rows.append(
                Prediction(
                    f"{group}-{member}.png",
                    f"g{group}",
                    f"p{group % 3}",
                    g,
                    truth,
                    truth + rng.gauss(0, noise),
                    "w",
                    "t",
                )
            )
    return rows


def _without_score(p: Prediction) -> Prediction:
    return Prediction(p.image, p.group, p.photograph, p.g, p.truth, None, "", "no tags")


def test_every_member_of_every_group_is_scored_once_and_in_order(finished_run: Path) -> None:
    dataset = Manifest(finished_run / "data")
    groups = dataset.groups("test")
    rows = [row for batch in predict(dataset, groups, ContrastScorer(), batch_size=7) for row in batch]
    assert [row.image for row in rows] == [m.image for group in groups for m in group.members]
    for row, group in zip(rows, [g for g in groups for _ in g.members], strict=True):
        assert row.group == group.id
        assert row.photograph == group.source.photograph
        assert row.truth == pytest.approx(min(10, max(0, group.score + row.g)))


def test_a_scorer_that_sees_what_the_judges_saw_orders_groups_well(finished_run: Path) -> None:
    dataset = Manifest(finished_run / "data")
    rows = [row for batch in predict(dataset, dataset.groups("test"), ContrastScorer()) for row in batch]
    within = measure(rows)["parsed_only"]["srcc_within"]
    assert within["value"] > 0.9
    assert within["low"] <= within["value"] <= within["high"] <= 1


def test_measures_agree_with_scipy_on_the_parsed_answers() -> None:
    rows = _predictions()
    rows[3], rows[17] = _without_score(rows[3]), _without_score(rows[17])
    metrics = measure(rows)
    assert (metrics["n"], metrics["groups"], metrics["photographs"], metrics["parsed"]) == (60, 12, 3, 58)
    assert metrics["parse_failure_rate"] == pytest.approx(2 / 60)
    parsed = [row for row in rows if row.score is not None]
    scores, truths = [row.score for row in parsed], [row.truth for row in parsed]
    assert metrics["parsed_only"]["srcc"]["value"] == pytest.approx(stats.spearmanr(scores, truths).statistic)
    mean = float(np.mean(scores))
    filled = [mean if row.score is None else row.score for row in rows]
    expected = stats.pearsonr(filled, [row.truth for row in rows]).statistic
    assert metrics["failures_as_mean"]["plcc"]["value"] == pytest.approx(expected)
    of_groups = [[r for r in parsed if r.group == g] for g in {r.group for r in parsed}]
    within = np.mean([stats.spearmanr([r.score for r in m], [r.g for r in m]).statistic for m in of_groups])
    assert metrics["parsed_only"]["srcc_within"]["value"] == pytest.approx(within)


def test_order_within_groups_does_not_see_a_shift_between_groups() -> None:
    rows = _predictions(noise=0.0)
    shifted = [Prediction(**{**vars(r), "score": (r.score or 0) + 100 * int(r.group[1:]) % 7}) for r in rows]
    assert measure(shifted)["parsed_only"]["srcc_within"]["value"] == pytest.approx(1.0)
    assert measure(shifted)["parsed_only"]["srcc"]["value"] < 0.9


def test_a_model_that_never_answers_has_no_measures_and_says_so() -> None:
    metrics = measure([_without_score(p) for p in _predictions()])
    assert metrics["parse_failure_rate"] == 1.0
    for treatment in ("parsed_only", "failures_as_mean"):
        assert {metrics[treatment][name]["value"] for name in MEASURES} == {None}


def test_a_model_that_says_the_same_of_everything_orders_nothing() -> None:
    constant = [Prediction(**{**vars(p), "score": 5.0}) for p in _predictions()]
    metrics = measure(constant)["parsed_only"]
    assert metrics["srcc_within"]["value"] == 0.0
    assert metrics["pairwise_accuracy"]["value"] == 0.5
    assert metrics["srcc"]["value"] is None


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    before, after = _predictions(noise=2.0), _predictions(noise=0.3)
    gain = measure_difference(before, after[::-1], "srcc_within")
    assert gain is not None
    expected = [measure(rows)["failures_as_mean"]["srcc_within"]["value"] for rows in (before, after)]
    assert gain.value == pytest.approx(expected[1] - expected[0])
    assert 0 < gain.low < gain.value < gain.high
    assert measure_difference(before, before, "srcc_within").high == 0.0


def test_models_measured_on_different_images_are_not_compared() -> None:
    rows = _predictions()
    assert measure_difference(rows, rows[:-1], "srcc") is None
    assert measure_difference(rows, [_without_score(p) for p in rows], "srcc") is None
    assert measure_difference([], [], "srcc") is None


def test_a_subset_is_whole_groups_always_the_same(finished_run: Path) -> None:
    groups = Manifest(finished_run / "data").groups("test")
    assert choose_groups(groups, None) == groups
    some = choose_groups(groups, 10)
    assert some == choose_groups(groups, 10)
    assert 10 <= sum(len(g.members) for g in some) < 10 + max(len(g.members) for g in groups)
    assert [groups.index(g) for g in some] == sorted(groups.index(g) for g in some)
    assert choose_groups(groups, 10_000) == groups


def test_an_evaluation_survives_being_written_and_read(tmp_path: Path, finished_run: Path) -> None:
    rows = [_without_score(p) if i == 4 else p for i, p in enumerate(_predictions())]
    dataset = Manifest(finished_run / "data")
    document = evaluation_document(rows, model="m@1", split="test", dataset=dataset, seconds=1.23456)
    write_evaluation(tmp_path / "e.json", document)
    read, predictions = read_evaluation(tmp_path / "e.json")
    assert predictions == rows
    assert read == json.loads((tmp_path / "e.json").read_text())
    assert (read["model"], read["split"], read["dataset_seed"], read["seconds"]) == ("m@1", "test", 7, 1.235)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"predictions": [{"x": 1}]}', '{"predictions": [], "schema_version": 9}']
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(UserError, match=r"e\.json is no evaluation written by `redaes evaluate`"):
        read_evaluation(tmp_path / "e.json")


def test_an_output_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_evaluation(tmp_path, {})
