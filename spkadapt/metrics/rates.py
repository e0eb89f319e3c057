"""Areas and single rates: AUC, and one error rate where the other is held to a limit."""

from __future__ import annotations

import numpy as np

from spkadapt.errors import InputError
from spkadapt.metrics.curves import Array, compute_error_counts

AUC_DEFINITION = (
    "probability that a target scores above a non-target, tied pairs counting half (Mann & Whitney, 1947)"
)
FRR_AT_FAR_DEFINITION = (
    "least P_miss over the operating points whose P_fa is at most the rate stated; tied scores form one operating "
    "point, and nothing is interpolated"
)
FAR_AT_FRR_DEFINITION = (
    "least P_fa over the operating points whose P_miss is at most the rate stated; tied scores form one operating "
    "point, and nothing is interpolated"
)


def compute_auc(scores: Array, is_target: Array) -> float:
    """Area under the ROC curve, by `AUC_DEFINITION`: 1 where every target scores above every non-target.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    counts = compute_error_counts(scores, is_target)
    return auc_of_curve(counts.num_misses, counts.num_false_alarms)


def compute_frr_at_far(scores: Array, is_target: Array, far: float) -> float:
    """False-reject rate at a false-accept rate of at most `far`, by `FRR_AT_FAR_DEFINITION`.

    Args:
        far: from 0 to below 1. Below 1 / num_nontargets it is the rate at no false accept at all.

    Raises:
        InputError: as `compute_error_counts` does, or for a rate out of range.
    """
    check_rate("far", far)
    counts = compute_error_counts(scores, is_target)
    return frr_at_far_of_curve(counts.num_misses, counts.num_false_alarms, far)


def compute_far_at_frr(scores: Array, is_target: Array, frr: float) -> float:
    """False-accept rate at a false-reject rate of at most `frr`, by `FAR_AT_FRR_DEFINITION`.

    Raises:
        InputError: as `compute_frr_at_far` does.
    """
    check_rate("frr", frr)
    counts = compute_error_counts(scores, is_target)
    return far_at_frr_of_curve(counts.num_misses, counts.num_false_alarms, frr)


def auc_of_curve(misses: np.ndarray, false_alarms: np.ndarray) -> float:
    """The AUC of a curve from accepting all to rejecting all; counts may be weighted, `(num_points,)` each."""
    rejected = false_alarms[0] - false_alarms
    pairs = (np.diff(misses) * (rejected[1:] + rejected[:-1])).sum()  # twice those won, so that halves stay whole
    return float(pairs / (2 * misses[-1] * false_alarms[0]))


def frr_at_far_of_curve(misses: np.ndarray, false_alarms: np.ndarray, far: float) -> float:
    """FRR@FAR of a curve from accepting all to rejecting all; counts may be weighted, `(num_points,)` each."""
    return float(misses[np.argmax(false_alarms / false_alarms[0] <= far)] / misses[-1])


def far_at_frr_of_curve(misses: np.ndarray, false_alarms: np.ndarray, frr: float) -> float:
    """FAR@FRR of a curve from accepting all to rejecting all; counts may be weighted, `(num_points,)` each."""
    last = np.searchsorted(misses / misses[-1], frr, "right") - 1
    return float(false_alarms[last] / false_alarms[0])


def check_rate(name: str, rate: float) -> None:
    """Refuse a limit that is no rate.

    Raises:
        InputError: below 0, or 1 and above, which any system keeps to.
    """
    if not 0 <= rate < 1:
        raise InputError(f"expected {name} from 0 to below 1, found {rate}")
