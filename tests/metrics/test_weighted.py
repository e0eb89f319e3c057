"""Weighted metrics against the plain ones on trials repeated as often as they weigh."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.metrics import (
    compute_act_dcf,
    compute_cllr,
    compute_eer,
    compute_min_dcf,
    compute_rocch_eer,
)
from spkadapt.metrics.operating_points import OperatingPoint, compute_mean_act_dcf, compute_mean_min_dcf
from spkadapt.metrics.pav import compute_min_cllr
from spkadapt.metrics.rates import compute_auc, compute_far_at_frr, compute_frr_at_far
from spkadapt.metrics.weighted import (
    AUC,
    CLLR,
    EER,
    MIN_CLLR,
    ROCCH_EER,
    CurveMetric,
    Metric,
    act_dcf,
    far_at_frr,
    frr_at_far,
    measure,
    min_dcf,
)

POINT, OTHER = OperatingPoint(0.05, 2.0, 0.5), OperatingPoint(0.4)
PLAIN: list[tuple[Metric, Callable[[np.ndarray, np.ndarray], float]]] = [
    (EER, compute_eer),
    (ROCCH_EER, compute_rocch_eer),
    (AUC, compute_auc),
    (CLLR, compute_cllr),
    (MIN_CLLR, compute_min_cllr),
    (min_dcf(POINT), lambda s, t: compute_min_dcf(s, t, 0.05, 2.0, 0.5)),
    (act_dcf(POINT), lambda s, t: compute_act_dcf(s, t, 0.05, 2.0, 0.5)),
    (min_dcf(POINT, OTHER), lambda s, t: compute_mean_min_dcf(s, t, (POINT, OTHER))),
    (act_dcf(POINT, OTHER), lambda s, t: compute_mean_act_dcf(s, t, (POINT, OTHER))),
    (frr_at_far(0.25), lambda s, t: compute_frr_at_far(s, t, 0.25)),
    (far_at_frr(0.25), lambda s, t: compute_far_at_frr(s, t, 0.25)),
]
TRIALS = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25).filter(
    lambda trials: {kind for _, kind, weight in trials if weight} == {True, False}
)


@pytest.mark.parametrize(("metric", "plain"), PLAIN, ids=[metric.name for metric, _ in PLAIN])
@settings(max_examples=60, deadline=None)
@given(trials=TRIALS)
def test_weights_are_repetitions(
    metric: Metric, plain: Callable[[np.ndarray, np.ndarray], float], trials: list[tuple[int, bool, int]]
) -> None:
    scores, is_target, weights = (np.array(column) for column in zip(*trials, strict=True))
    scores = scores / 2.0
    expected = plain(np.repeat(scores, weights), np.repeat(is_target, weights))
    assert measure(metric, scores, is_target, weights) == pytest.approx(expected, abs=1e-14)
    assert measure(metric, np.repeat(scores, weights), np.repeat(is_target, weights)) == pytest.approx(
        expected, abs=1e-14
    )
    tensors = torch.from_numpy(scores), torch.from_numpy(is_target), torch.from_numpy(weights)
    assert measure(metric, *tensors) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("metric", [metric for metric, _ in PLAIN], ids=[metric.name for metric, _ in PLAIN])
def test_weights_have_no_unit(metric: Metric) -> None:
    """A third of the weight for every target and a tenth for every non-target changes nothing but rounding."""
    random = np.random.default_rng(0)
    is_target = np.arange(300) < 60
    scores = random.normal(is_target * 1.5, 1).round(1)
    weights = random.integers(5, size=300)
    light = np.where(is_target, weights / 3, weights / 10)
    # A limit of FAR or FRR that no share of whole weights meets exactly, so that rounding cannot decide.
    found = [measure(metric, scores, is_target, w) for w in (weights, light)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("metric", [m for m, _ in PLAIN if isinstance(m, CurveMetric)], ids=lambda m: m.name)
def test_curve_metrics_need_no_points_between_equal_misses(metric: CurveMetric) -> None:
    """What a bootstrap relies on when it merges the non-targets between two target scores."""
    random = np.random.default_rng(1)
    for _ in range(50):
        steps = np.unique(random.integers(12, size=(20, 2)), axis=0)
        misses = np.append(0, np.sort(steps[:, 0] + 1))
        alarms = np.append(np.sort(random.integers(1, 30, size=len(misses) - 1))[::-1], 0)
        kept = np.append(True, (np.diff(misses)[:-1] > 0) | (np.diff(misses)[1:] > 0))
        kept = np.append(kept, True)
        whole, merged = metric.of_curve(misses, alarms), metric.of_curve(misses[kept], alarms[kept])
        assert whole == pytest.approx(merged, abs=1e-14)


def test_names_say_the_parameters_and_definitions_the_rest() -> None:
    assert [metric.name for metric, _ in PLAIN] == [
        "EER",
        "ROCCH-EER",
        "AUC",
        "Cllr",
        "minCllr",
        "minDCF(0.05 miss 2 fa 0.5)",
        "actDCF(0.05 miss 2 fa 0.5)",
        "minDCF(0.05 miss 2 fa 0.5, 0.4)",
        "actDCF(0.05 miss 2 fa 0.5, 0.4)",
        "FRR@FAR=0.25",
        "FAR@FRR=0.25",
    ]
    assert len({metric.definition for metric, _ in PLAIN}) == len(PLAIN)
    assert min_dcf(POINT, OTHER).definition.endswith("averaged")


# Refusals


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_refusals() -> None:
    scores, is_target = np.array([1.0, 0.0]), np.array([True, False])
    assert "found 2 targets" in refusal(lambda: measure(EER, scores, np.ones(2, dtype=bool)))
    assert "one weight for each of 2 trials, found shape (3,)" in refusal(
        lambda: measure(EER, scores, is_target, np.ones(3))
    )
    for weight in (-1, math.nan, math.inf):
        assert "finite weights of at least 0" in refusal(
            lambda weight=weight: measure(EER, scores, is_target, np.array([1, weight]))
        )
    for weights in ([1, 0], [0, 1]):
        assert "some target and some non-target with a weight above 0" in refusal(
            lambda weights=weights: measure(CLLR, scores, is_target, np.array(weights))
        )
    assert "expected far from 0 to below 1, found 1" in refusal(lambda: frr_at_far(1))
    assert "expected frr from 0 to below 1, found -1" in refusal(lambda: far_at_frr(-1))
    for factory in (min_dcf, act_dcf):
        assert "at least one operating point, found none" in refusal(factory)
