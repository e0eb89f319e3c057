"""How sure an error rate is: intervals by speaker, from a bootstrap that draws speakers and not trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spkadapt.errors import InputError
from spkadapt.metrics import Array, as_array, check_trials, interpolate_eer, normalised_costs

INTERVAL_DEFINITION = (
    "percentile bootstrap over speakers drawn with replacement: a target trial of a speaker drawn w times "
    "counts w times, a non-target trial of speakers drawn v and w times counts v*w times"
)


@dataclass(frozen=True)
class Interval:
    """A confidence interval: its two ends, and the probability `level` that it is meant to cover."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, eq=False)
class Replicates:
    """What each bootstrap replicate measured; replicate i drew the same speakers for all systems.

    Differences and means between systems, taken replicate by replicate, are therefore paired.

    Shape:
        eer, min_dcf: `(num_replicates,)` for scores `(num_trials,)`; `(num_systems, num_replicates)` for scores
            `(num_systems, num_trials)`
    """

    eer: np.ndarray
    min_dcf: np.ndarray


def bootstrap_by_speaker(
    scores: Array,
    is_target: Array,
    enrol_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    p_target: float,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    *,
    num_replicates: int = 1000,
    seed: int = 0,
) -> Replicates:
    """EER and minDCF of test sets whose speakers are drawn anew with replacement, by `INTERVAL_DEFINITION`.

    Trials of a speaker stand or fall together, so drawing trials would make intervals too narrow. A draw that
    leaves no target or no non-target has no EER and is made again. Memory is O(num_systems · num_trials).

    Args:
        scores: one system's, or those of several systems on the same trials.
        enrol_speakers: the speaker of each trial's enrolment side.
        test_speakers: the speaker of each trial's test side.
        p_target, c_miss, c_fa: as for `compute_min_dcf`.
        num_replicates: how many test sets to draw.
        seed: of the draws; the same seed draws the same speakers.

    Shape:
        scores: `(num_trials,)` or `(num_systems, num_trials)`
        is_target, enrol_speakers, test_speakers: `(num_trials,)`

    Raises:
        InputError: as `compute_min_dcf` does; where speakers differ in number from trials, or contradict
            `is_target`; or for fewer than 1 replicate.
    """
    costs = normalised_costs(p_target, c_miss, c_fa)
    if num_replicates < 1:
        raise InputError(f"expected num_replicates of at least 1, found {num_replicates}")
    scores = as_array(scores)
    systems = [check_trials(system, is_target)[0] for system in np.atleast_2d(scores)]
    is_target = as_array(is_target)
    enrol, test, num_speakers = _number_speakers(enrol_speakers, test_speakers, is_target)
    curves = [_MergedCurve(system, is_target) for system in systems]
    owners, (first, second) = enrol[is_target], (enrol[~is_target], test[~is_target])
    generator = np.random.default_rng(seed)
    eer, min_dcf = np.empty((2, len(curves), num_replicates))
    for replicate in range(num_replicates):
        targets, nontargets = _draw_weights(generator, num_speakers, owners, first, second)
        for system, curve in enumerate(curves):
            eer[system, replicate], min_dcf[system, replicate] = curve.measure(targets, nontargets, *costs)
    shape = (*scores.shape[:-1], num_replicates)
    return Replicates(eer.reshape(shape), min_dcf.reshape(shape))


def percentile_interval(replicates: np.ndarray, level: float = 0.95) -> Interval:
    """The interval that holds the middle `level` of bootstrap replicates (Efron & Tibshirani, 1993).

    Shape:
        replicates: `(num_replicates,)`

    Raises:
        InputError: where `replicates` is empty or not one-dimensional, or `level` is not between 0 and 1.
    """
    replicates = np.asarray(replicates)
    if replicates.ndim != 1 or not len(replicates):
        raise InputError(f"expected replicates of shape (num_replicates,), found {replicates.shape}")
    if not 0 < level < 1:
        raise InputError(f"expected level between 0 and 1, found {level}")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


class _MergedCurve:
    """The operating points of one system, thinned to what EER and minDCF can depend on whatever trials weigh.

    Between two neighbouring target scores only false alarms change: the curve runs straight, its cost is least
    at the far end. So all non-targets in between go into one bin, and each distinct target score into another.
    """

    def __init__(self, scores: np.ndarray, is_target: np.ndarray) -> None:
        target_scores = np.unique(scores[is_target])
        bins = np.searchsorted(target_scores, scores, "left") + np.searchsorted(target_scores, scores, "right")
        self._target_bins, self._nontarget_bins = bins[is_target], bins[~is_target]
        self._num_bins = 2 * len(target_scores) + 1

    def measure(
        self, targets: np.ndarray, nontargets: np.ndarray, miss_cost: float, false_alarm_cost: float
    ) -> tuple[float, float]:
        """EER and minDCF where each target and non-target counts as often as its weight says."""
        misses = self._accumulate(self._target_bins, targets)
        rejected = self._accumulate(self._nontarget_bins, nontargets)
        false_alarms = rejected[-1] - rejected
        cost = miss_cost / misses[-1] * misses + false_alarm_cost / rejected[-1] * false_alarms
        return interpolate_eer(misses, false_alarms, misses[-1], rejected[-1]), float(cost.min())

    def _accumulate(self, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.append(0, np.cumsum(np.bincount(bins, weights, self._num_bins)))


def _draw_weights(
    generator: np.random.Generator, num_speakers: int, owners: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How often each target and each non-target counts in one draw of as many speakers as there are."""
    while True:
        drawn = np.bincount(generator.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        weights = drawn.astype(np.float64)  # what bincount adds up, exact for whole numbers below 2^53
        targets, nontargets = weights[owners], weights[first] * weights[second]
        if targets.any() and nontargets.any():
            return targets, nontargets


def _number_speakers(
    enrol_speakers: Sequence[str] | np.ndarray, test_speakers: Sequence[str] | np.ndarray, is_target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    num_trials = len(is_target)
    if not len(enrol_speakers) == len(test_speakers) == num_trials:
        found = f"{len(enrol_speakers)} and {len(test_speakers)} speakers for {num_trials} trials"
        raise InputError(f"expected two speakers for each trial, found {found}")
    both = np.concatenate([np.asarray(enrol_speakers), np.asarray(test_speakers)])
    speakers, numbers = np.unique(both, return_inverse=True)
    enrol, test = numbers[:num_trials], numbers[num_trials:]
    contrary = np.flatnonzero((enrol == test) != is_target)
    if len(contrary):
        trial = contrary[0]
        kind = "target" if is_target[trial] else "non-target"
        pair = f"speakers {speakers[enrol[trial]]} and {speakers[test[trial]]}"
        raise InputError(
            f"expected a target to be one speaker, a non-target two; trial {trial} is a {kind} of {pair}"
        )
    return enrol, test, len(speakers)
