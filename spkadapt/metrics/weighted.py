"""Metrics of trials that count more than once, or less: what equalised results and bootstrap replicates need.

A metric is a function of the curve of weighted operating points, or a weighted mean of what each trial costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from spkadapt.errors import InputError
from spkadapt.metrics.curves import (
    ACT_DCF_DEFINITION,
    CLLR_DEFINITION,
    EER_DEFINITION,
    MIN_DCF_DEFINITION,
    Array,
    as_array,
    check_trials,
    interpolate_eer,
)
from spkadapt.metrics.operating_points import MEAN_DCF_DEFINITION, OperatingPoint, mean_min_dcf_of_curve
from spkadapt.metrics.pav import MIN_CLLR_DEFINITION, ROCCH_EER_DEFINITION, min_cllr_of_curve, rocch_eer_of_curve
from spkadapt.metrics.rates import (
    AUC_DEFINITION,
    FAR_AT_FRR_DEFINITION,
    FRR_AT_FAR_DEFINITION,
    auc_of_curve,
    check_rate,
    far_at_frr_of_curve,
    frr_at_far_of_curve,
)


@dataclass(frozen=True)
class CurveMetric:
    """A metric of the operating points.

    It must not change where operating points between two that have the same misses are left out.

    Attributes:
        name: for tables, with its parameters.
        definition: what is computed, in words.
        of_curve: from misses and false alarms, each `(num_points,)`, by rising threshold from accepting all to
            rejecting all, counted or weighted.
    """

    name: str
    definition: str
    of_curve: Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class CostMetric:
    """A metric that is the mean of what each target costs plus the mean of what each non-target costs.

    Attributes:
        name, definition: as for `CurveMetric`.
        trial_costs: from llrs and is_target, each `(num_trials,)`, to costs `(num_trials,)`.
    """

    name: str
    definition: str
    trial_costs: Callable[[np.ndarray, np.ndarray], np.ndarray]


Metric: TypeAlias = CurveMetric | CostMetric


def _eer_of_curve(misses: np.ndarray, false_alarms: np.ndarray) -> float:
    return interpolate_eer(misses, false_alarms, misses[-1], false_alarms[0])


def _cllr_costs(llrs: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, np.where(is_target, -llrs, llrs)) / (2 * np.log(2))


def _act_dcf_costs(llrs: np.ndarray, is_target: np.ndarray, *, points: tuple[OperatingPoint, ...]) -> np.ndarray:
    costs = np.zeros(len(llrs))
    for point in points:
        miss_cost, false_alarm_cost = point.costs
        accepted = llrs >= point.bayes_threshold
        costs += np.where(is_target, miss_cost * ~accepted, false_alarm_cost * accepted)
    return costs / len(points)


EER = CurveMetric("EER", EER_DEFINITION, _eer_of_curve)
ROCCH_EER = CurveMetric("ROCCH-EER", ROCCH_EER_DEFINITION, rocch_eer_of_curve)
AUC = CurveMetric("AUC", AUC_DEFINITION, auc_of_curve)
MIN_CLLR = CurveMetric("minCllr", MIN_CLLR_DEFINITION, min_cllr_of_curve)
CLLR = CostMetric("Cllr", CLLR_DEFINITION, _cllr_costs)


def min_dcf(*points: OperatingPoint) -> CurveMetric:
    """minDCF, or its mean over several operating points."""
    definition = _mean_of(MIN_DCF_DEFINITION, points)
    return CurveMetric(f"minDCF({_list(points)})", definition, partial(mean_min_dcf_of_curve, points=points))


def act_dcf(*points: OperatingPoint) -> CostMetric:
    """actDCF, or its mean over several operating points."""
    definition = _mean_of(ACT_DCF_DEFINITION, points)
    return CostMetric(f"actDCF({_list(points)})", definition, partial(_act_dcf_costs, points=points))


def frr_at_far(far: float) -> CurveMetric:
    """FRR@FAR; a rate out of range raises `InputError`."""
    check_rate("far", far)
    return CurveMetric(f"FRR@FAR={far:g}", FRR_AT_FAR_DEFINITION, partial(frr_at_far_of_curve, far=far))


def far_at_frr(frr: float) -> CurveMetric:
    """FAR@FRR; a rate out of range raises `InputError`."""
    check_rate("frr", frr)
    return CurveMetric(f"FAR@FRR={frr:g}", FAR_AT_FRR_DEFINITION, partial(far_at_frr_of_curve, frr=frr))


def measure(metric: Metric, scores: Array, is_target: Array, weights: Array | None = None) -> float:
    """The metric of trials that count as often as their weight says; once each where there are no weights.

    Shape:
        scores, is_target, weights: `(num_trials,)`; weights of any sum, none below 0

    Raises:
        InputError: as `compute_error_counts` does; for weights of another number than trials, negative or not
            finite, or that leave no target or no non-target.
    """
    scores, is_target = check_trials(scores, is_target)
    weights = _check_weights(weights, is_target)
    if isinstance(metric, CostMetric):
        costs = metric.trial_costs(scores, is_target)
        return sum(float(np.average(costs[kind], weights=weights[kind])) for kind in (is_target, ~is_target))
    return metric.of_curve(*weighted_curve(scores, is_target, weights))


def weighted_curve(
    scores: np.ndarray, is_target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight missed and weight falsely accepted at every operating point, from accepting all to rejecting all.

    Shape:
        scores, is_target, weights: `(num_trials,)`
        returns two of `(num_distinct_scores + 1,)`
    """
    _, bins = np.unique(scores, return_inverse=True)
    misses, rejected = (
        np.append(0, np.cumsum(np.bincount(bins[kind], weights[kind], bins.max() + 1)))
        for kind in (is_target, ~is_target)
    )
    return misses, rejected[-1] - rejected


def _check_weights(weights: Array | None, is_target: np.ndarray) -> np.ndarray:
    if weights is None:
        return np.ones(len(is_target))
    weights = as_array(weights).astype(np.float64)
    if weights.shape != is_target.shape:
        raise InputError(f"expected one weight for each of {len(is_target)} trials, found shape {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("expected finite weights of at least 0")
    if not weights[is_target].any() or not weights[~is_target].any():
        raise InputError("expected some target and some non-target with a weight above 0")
    return weights


def _mean_of(definition: str, points: Sequence[OperatingPoint]) -> str:
    if not points:
        raise InputError("expected at least one operating point, found none")
    return definition if len(points) == 1 else f"{definition}; {MEAN_DCF_DEFINITION}"


def _list(points: Sequence[OperatingPoint]) -> str:
    """Each point as its prior, with its costs where they are not both 1."""
    return ", ".join(
        f"{p.p_target:g}" if p.c_miss == p.c_fa == 1 else f"{p.p_target:g} miss {p.c_miss:g} fa {p.c_fa:g}"
        for p in points
    )
