"""Equalised results against partitions measured one by one, and the labels that conditions are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.metrics import compute_act_dcf, compute_cllr, compute_eer
from spkadapt.metrics.conditions import (
    bin_labels,
    combine_labels,
    measure_conditions,
    measure_equalised,
    pair_labels,
    scale_to_one,
)
from spkadapt.metrics.operating_points import OperatingPoint
from spkadapt.metrics.weighted import CLLR, EER, act_dcf, min_dcf

POINT = OperatingPoint(0.1, 2.0)
TRIALS = st.lists(
    st.tuples(st.integers(-4, 4), st.booleans(), st.sampled_from("abc")), min_size=2, max_size=25
).filter(lambda trials: {kind for _, kind, _ in trials} == {True, False})


def naive_rates(trials: list[tuple[int, bool, str]], threshold: float) -> tuple[float, float]:
    """P_miss and P_fa of each partition, and the mean of those that have one."""
    misses, alarms = [], []
    for name in sorted({partition for *_, partition in trials}):
        targets = [score for score, kind, partition in trials if kind and partition == name]
        nontargets = [score for score, kind, partition in trials if not kind and partition == name]
        misses += [sum(s < threshold for s in targets) / len(targets)] if targets else []
        alarms += [sum(s >= threshold for s in nontargets) / len(nontargets)] if nontargets else []
    return sum(misses) / len(misses), sum(alarms) / len(alarms)


@settings(max_examples=200, deadline=None)
@given(trials=TRIALS)
def test_equalised_costs_are_means_over_partitions(trials: list[tuple[int, bool, str]]) -> None:
    scores, is_target, partitions = (np.array(column) for column in zip(*trials, strict=True))
    thresholds = [*sorted({score for score, *_ in trials}), np.inf]
    least = min(
        POINT.costs[0] * miss + POINT.costs[1] * fa for miss, fa in (naive_rates(trials, t) for t in thresholds)
    )
    assert measure_equalised(min_dcf(POINT), scores, is_target, partitions) == pytest.approx(least, abs=1e-13)
    miss, fa = naive_rates(trials, POINT.bayes_threshold)
    actual = POINT.costs[0] * miss + POINT.costs[1] * fa
    assert measure_equalised(act_dcf(POINT), scores, is_target, partitions) == pytest.approx(actual, abs=1e-13)


def test_equalised_by_repeating_trials() -> None:
    """Partitions of 2 and 6 targets, 3 and 4 non-targets: repeat them 3 and 1, 4 and 3 times."""
    random = np.random.default_rng(0)
    is_target = np.repeat([True, True, False, False], [2, 6, 3, 4])
    partitions = np.repeat(["x", "y", "x", "y"], [2, 6, 3, 4])
    scores = random.normal(is_target, 1).round(1)
    times = np.repeat([3, 1, 4, 3], [2, 6, 3, 4])
    repeated = np.repeat(scores, times), np.repeat(is_target, times)
    assert measure_equalised(EER, scores, is_target, partitions) == pytest.approx(
        compute_eer(*repeated), abs=1e-14
    )
    assert measure_equalised(CLLR, scores, is_target, partitions) == pytest.approx(
        compute_cllr(*repeated), rel=1e-14
    )


def test_equalised_actual_cost_is_the_mean_of_the_partitions_costs() -> None:
    random = np.random.default_rng(0)
    is_target, partitions = random.random(500) < 0.3, random.choice(["f", "m", "x"], size=500, p=[0.7, 0.2, 0.1])
    llrs = random.normal(np.where(is_target, 2, -2), 2)
    costs = [
        compute_act_dcf(llrs[partitions == name], is_target[partitions == name], 0.1, 2.0)
        for name in ("f", "m", "x")
    ]
    found = measure_equalised(act_dcf(POINT), torch.from_numpy(llrs), torch.from_numpy(is_target), partitions)
    assert found == pytest.approx(np.mean(costs), rel=1e-13)
    # Without weighting, the largest partition decides.
    assert found != pytest.approx(compute_act_dcf(llrs, is_target, 0.1, 2.0), rel=1e-3)


def test_weights_of_a_cell_that_weighs_nothing() -> None:
    found = scale_to_one(np.array([1.0, 3.0, 2.0, 0.0, 0.0]), np.array([0, 0, 1, 3, 0]))
    np.testing.assert_array_equal(found, [0.25, 0.75, 1, 0, 0])


def test_measure_conditions_is_each_alone() -> None:
    random = np.random.default_rng(0)
    is_target = random.random(300) < 0.3
    scores = random.normal(is_target, 1)
    conditions = random.choice(["b", "a"], size=300).astype(object)
    conditions[:4] = "only targets"
    is_target[:4] = True
    rows = measure_conditions([EER, CLLR], scores, is_target, conditions)
    assert [row.condition for row in rows] == ["a", "b", "only targets"]
    for row in rows[:2]:
        chosen = conditions == row.condition
        assert row.values == {
            "EER": compute_eer(scores[chosen], is_target[chosen]),
            "Cllr": pytest.approx(compute_cllr(scores[chosen], is_target[chosen]), rel=1e-14),
        }
        assert row.num_targets == is_target[chosen].sum()
        assert row.num_nontargets == (~is_target[chosen]).sum()
    assert (rows[2].num_targets, rows[2].num_nontargets, rows[2].values) == (4, 0, {})


def test_labels() -> None:
    combined = combine_labels({"gender": ["f", "m", "f"], "phone": ["same", "same", "other"]})
    assert combined.tolist() == ["gender=f, phone=same", "gender=m, phone=same", "gender=f, phone=other"]
    assert combine_labels({"one": np.array(["x"])}).tolist() == ["one=x"]
    assert pair_labels(["cell", "landline", "cell"], ["landline", "cell", "cell"]).tolist() == [
        "cell/landline",
        "cell/landline",
        "cell/cell",
    ]
    assert bin_labels(np.array([1.9, 2, 4.9, 5, 70]), [2, 5]).tolist() == [
        "<2 s",
        "2-5 s",
        "2-5 s",
        ">=5 s",
        ">=5 s",
    ]
    assert bin_labels(torch.tensor([0.5]), [1.5], unit="kHz").tolist() == ["<1.5 kHz"]


# Refusals


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_refusals() -> None:
    scores, is_target = np.array([1.0, 0.0]), np.array([True, False])
    assert refusal(lambda: measure_equalised(EER, scores, is_target, ["a"])) == (
        "expected 2 partitions, one for each trial, found 1"
    )
    assert "expected 2 conditions, one for each trial, found 3" in refusal(
        lambda: measure_conditions([EER], scores, is_target, ["a", "b", "c"])
    )
    assert "found 2 targets and 0 non-targets" in refusal(
        lambda: measure_equalised(EER, scores, np.ones(2, dtype=bool), ["a", "b"])
    )
    assert "at least one factor" in refusal(lambda: combine_labels({}))
    assert "found 2 of a, 1 of b" in refusal(lambda: combine_labels({"a": ["x", "y"], "b": ["x"]}))
    assert "expected 1 test labels, one for each trial, found 2" in refusal(lambda: pair_labels(["a"], ["a", "b"]))
    for edges in ([], [2, 2], [3, 1]):
        assert "expected rising edges" in refusal(lambda edges=edges: bin_labels(np.ones(1), edges))
