"""Scores to error rates: EER, DET, minDCF, actDCF, Cllr.

Takes NumPy arrays or torch tensors, and knows nothing of models. A trial is accepted where its score is at or
above the threshold. No threshold can part trials of equal score, so they move together: a curve has one operating
point for each distinct score, and one more at which everything is rejected. Rates are fractions.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.special import ndtri

from spkadapt.errors import InputError
from spkadapt.metrics.softplus import cllr_of_sums, sum_softplus

EER_DEFINITION = (
    "P_miss = P_fa on the straight line between the two adjacent operating points where P_miss - P_fa "
    "changes sign; tied scores form one operating point"
)
MIN_DCF_DEFINITION = (
    "least p_target*c_miss*P_miss + (1-p_target)*c_fa*P_fa over all operating points, "
    "divided by min(p_target*c_miss, (1-p_target)*c_fa)"
)
ACT_DCF_DEFINITION = (
    "the same normalised cost at the Bayes threshold ln(c_fa*(1-p_target)/(c_miss*p_target)) of scores that are "
    "natural-log likelihood ratios"
)
CLLR_DEFINITION = (
    "mean of log2(1+exp(-llr)) over targets and of log2(1+exp(llr)) over non-targets, halved and added; each term "
    "to within 4e-16 nats and added exactly, so that the order of the trials is of no account"
)

# Scores that one thread sorts sooner than two and their merger.
_SORTED_ALONE = 1 << 20

Array: TypeAlias = np.ndarray | torch.Tensor


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """How many trials each operating point gets wrong, from accepting all to rejecting all.

    Args:
        thresholds: the distinct scores, rising, then infinity.
        num_misses: targets below each threshold.
        num_false_alarms: non-targets at or above each threshold.
        num_targets: targets in all.
        num_nontargets: non-targets in all.

    Shape:
        thresholds, num_misses, num_false_alarms: `(num_distinct_scores + 1,)`
    """

    thresholds: np.ndarray
    num_misses: np.ndarray
    num_false_alarms: np.ndarray
    num_targets: int
    num_nontargets: int

    @property
    def p_miss(self) -> np.ndarray:
        """Misses as a fraction of the targets."""
        return self.num_misses / self.num_targets

    @property
    def p_false_alarm(self) -> np.ndarray:
        """False alarms as a fraction of the non-targets."""
        return self.num_false_alarms / self.num_nontargets


@dataclass(frozen=True, eq=False)
class DetCurve:
    """A detection error trade-off curve (Martin et al., 1997): the operating points, by rising threshold.

    Shape:
        p_miss, p_false_alarm: `(num_points,)`
    """

    p_miss: np.ndarray
    p_false_alarm: np.ndarray


def compute_error_counts(scores: Array, is_target: Array) -> ErrorCounts:
    """Count misses and false alarms at every operating point, both ends included.

    Shape:
        scores: `(num_trials,)`, the higher the likelier one speaker
        is_target: `(num_trials,)`, boolean

    Raises:
        InputError: where scores are not finite, the two differ in length, or targets or non-targets are lacking.
    """
    targets, nontargets = _sort_apart(scores, is_target)
    scores = np.sort(np.concatenate([targets, nontargets]), kind="stable")  # merges what is sorted
    starts = np.append(np.flatnonzero(np.diff(scores, prepend=-np.inf)), len(scores))
    thresholds = scores[starts[:-1]]
    num_at = np.bincount(np.searchsorted(thresholds, targets), minlength=len(thresholds))
    num_misses = np.append(0, np.cumsum(num_at))
    num_false_alarms = len(nontargets) - (starts - num_misses)
    thresholds = np.append(thresholds.astype(np.float64), np.inf)
    return ErrorCounts(thresholds, num_misses, num_false_alarms, len(targets), len(nontargets))


def compute_eer(scores: Array, is_target: Array) -> float:
    """Equal error rate, by `EER_DEFINITION`.

    Of the definitions in use this is the one that gives the published 4.095 % of the VoxSRC 2023 baseline; the
    mean of P_miss and P_fa at the operating point where they are nearest gives 4.093 % there.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    targets, nontargets = _sort_apart(scores, is_target)
    return interpolate_eer(*_around_crossing(targets, nontargets), len(targets), len(nontargets))


def compute_min_dcf(
    scores: Array, is_target: Array, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Least normalised detection cost over all thresholds, by `MIN_DCF_DEFINITION` (NIST SRE plans).

    1 is what the better of accepting all and rejecting all costs, so no result is above 1.

    Args:
        p_target: prior probability of a target, between 0 and 1.
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false alarm, above 0.

    Raises:
        InputError: as `compute_error_counts` does, or for a prior or cost out of range.
    """
    miss_cost, false_alarm_cost = normalised_costs(p_target, c_miss, c_fa)
    targets, nontargets = _sort_apart(scores, is_target)
    _, misses, false_alarms = _corners(targets, nontargets)
    costs = miss_cost * (misses / len(targets)) + false_alarm_cost * (false_alarms / len(nontargets))
    return float(costs.min())


def compute_act_dcf(
    llrs: Array, is_target: Array, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Normalised detection cost at the Bayes threshold of calibrated scores, by `ACT_DCF_DEFINITION`.

    Args:
        llrs: log-likelihood ratios of target against non-target, in natural log.
        p_target, c_miss, c_fa: as for `compute_min_dcf`, below which the result never is.

    Raises:
        InputError: as `compute_min_dcf` does.
    """
    miss_cost, false_alarm_cost = normalised_costs(p_target, c_miss, c_fa)
    llrs, is_target = check_trials(llrs, is_target)
    accepted = llrs >= np.log(false_alarm_cost / miss_cost)
    return float(miss_cost * (~accepted[is_target]).mean() + false_alarm_cost * accepted[~is_target].mean())


def compute_cllr(llrs: Array, is_target: Array) -> float:
    """Cost of log-likelihood ratios, in bits, by `CLLR_DEFINITION` (Brümmer & du Preez, 2006).

    0 for perfect knowledge, 1 for llrs that are all 0 and so say nothing, above 1 for llrs that mislead.

    Args:
        llrs: log-likelihood ratios of target against non-target, in natural log.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    llrs, is_target = check_trials(llrs, is_target)
    num_targets = int(is_target.sum())
    sums = sum_softplus(-llrs[is_target]), sum_softplus(llrs[~is_target])
    return cllr_of_sums(*sums, num_targets, len(llrs) - num_targets)


def compute_det(scores: Array, is_target: Array, max_points: int | None = None) -> DetCurve:
    """Detection error trade-off curve, by rising threshold, both ends included.

    Args:
        max_points: keep at most so many of the operating points, spread evenly along the curve as it is drawn on
            normal-deviate axes; all of them where it is None.

    Raises:
        InputError: as `compute_error_counts` does, or for fewer than 2 points.
    """
    counts = compute_error_counts(scores, is_target)
    p_miss, p_false_alarm = counts.p_miss, counts.p_false_alarm
    if max_points is None:
        return DetCurve(p_miss, p_false_alarm)
    if max_points < 2:
        raise InputError(f"expected max_points of at least 2, found {max_points}")
    across = np.diff(_normal_deviates(p_false_alarm, counts.num_nontargets))
    down = np.diff(_normal_deviates(p_miss, counts.num_targets))
    travelled = np.append(0, np.cumsum(np.hypot(across, down)))
    places = np.linspace(0, travelled[-1], max_points)[1:-1]
    kept = np.unique([0, *np.searchsorted(travelled, places), len(travelled) - 1])
    return DetCurve(p_miss[kept], p_false_alarm[kept])


def interpolate_eer(
    misses: np.ndarray, false_alarms: np.ndarray, num_targets: float, num_nontargets: float
) -> float:
    """The EER, by `EER_DEFINITION`, of a curve from accepting all to rejecting all; counts may be weighted.

    Shape:
        misses, false_alarms: `(num_points,)`, misses rising and false alarms falling
    """
    # Rises from -num_targets * num_nontargets to its opposite; products of counts, so its sign is exact.
    difference = misses * num_nontargets - false_alarms * num_targets
    after = int(np.searchsorted(difference, 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float((misses[before] + share * (misses[after] - misses[before])) / num_targets)


def normalised_costs(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """What P_miss and P_fa are multiplied by, where the better trivial system costs 1.

    Raises:
        InputError: a prior that is not between 0 and 1, or a cost that is not above 0.
    """
    if not 0 < p_target < 1:
        raise InputError(f"expected p_target between 0 and 1, found {p_target}")
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise InputError(f"expected c_miss and c_fa above 0, found {c_miss} and {c_fa}")
    miss_cost, false_alarm_cost = p_target * c_miss, (1 - p_target) * c_fa
    trivial = min(miss_cost, false_alarm_cost)
    return miss_cost / trivial, false_alarm_cost / trivial


def _normal_deviates(rates: np.ndarray, num_trials: int) -> np.ndarray:
    # Rates of 0 and 1 are drawn half a trial away from the edge, where the normal deviate is infinite.
    return ndtri(rates.clip(0.5 / num_trials, 1 - 0.5 / num_trials))


def as_array(values: Array) -> np.ndarray:
    """The values as a NumPy array, whatever device or precision they are in."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy knows no bfloat16, and every narrower float fits a double.
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def check_trials(scores: Array, is_target: Array) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and labels, each `(num_trials,)`; raises as `compute_error_counts` does."""
    scores, is_target = _check_trials(scores, is_target)
    return scores.astype(np.float64), is_target


def _sort_apart(scores: Array, is_target: Array) -> tuple[np.ndarray, np.ndarray]:
    """The scores of targets and of non-targets, each rising; raises as `compute_error_counts` does."""
    scores, is_target = _check_trials(scores, is_target)
    return _sort(scores[is_target]), _sort(scores[~is_target])


def _sort(scores: np.ndarray) -> np.ndarray:
    """The scores, rising; many are sorted as two halves, by two threads."""
    if len(scores) < _SORTED_ALONE:
        return np.sort(scores)
    with ThreadPoolExecutor(2) as threads:
        halves = list(threads.map(np.sort, np.array_split(scores, 2)))
    return np.sort(np.concatenate(halves), kind="stable")  # merges what is sorted


def _corners(targets: np.ndarray, nontargets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The operating points whose threshold is a target's score, and the last, at infinity.

    No other has as few misses as the next of these with fewer false alarms.

    Args:
        targets, nontargets: as `_sort_apart` gives them.

    Returns:
        Thresholds, misses and false alarms, by rising threshold.
    """
    starts = np.flatnonzero(np.diff(targets, prepend=-np.inf))
    thresholds = np.append(targets[starts], np.asarray(np.inf, targets.dtype))
    misses = np.append(starts, len(targets))
    return thresholds, misses, len(nontargets) - np.searchsorted(nontargets, thresholds)


def _around_crossing(targets: np.ndarray, nontargets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Misses and false alarms of all operating points from the last corner before P_miss = P_fa to the next."""
    thresholds, misses, false_alarms = _corners(targets, nontargets)
    after = int(np.searchsorted(misses * len(nontargets) - false_alarms * len(targets), 0))
    before = slice(max(0, after - 1), after)  # none where the first corner lies beyond
    first = int(np.searchsorted(nontargets, thresholds[before], side="right").sum())
    between = nontargets[first : len(nontargets) - false_alarms[after]]
    starts = np.flatnonzero(np.diff(between, prepend=-np.inf))
    last = slice(after, after + 1)
    num_false_alarms = (false_alarms[before], len(nontargets) - first - starts, false_alarms[last])
    num_misses = (misses[before], np.full(len(starts), misses[after]), misses[last])
    return np.concatenate(num_misses), np.concatenate(num_false_alarms)


def _check_trials(scores: Array, is_target: Array) -> tuple[np.ndarray, np.ndarray]:
    """Scores in float32, where that is what they are, or else float64, and labels."""
    scores, is_target = as_array(scores), as_array(is_target)
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64)
    if scores.ndim != 1 or scores.shape != is_target.shape:
        found = f"scores {scores.shape} and is_target {is_target.shape}"
        raise InputError(f"expected one score and one is_target for each trial, found {found}")
    if is_target.dtype != bool:
        raise InputError(f"expected is_target to be boolean, found {is_target.dtype}")
    if not is_target.any() or is_target.all():
        found = f"{is_target.sum()} targets and {(~is_target).sum()} non-targets"
        raise InputError(f"expected at least one target and one non-target trial, found {found}")
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise InputError(
            f"expected finite scores, found {scores[broken[0]]} in trial {broken[0]} (counted from 0)"
        )
    return scores, is_target
