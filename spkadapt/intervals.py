"""How sure an error rate is: intervals by speaker, from a bootstrap that draws speakers and not trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from spkadapt.errors import InputError
from spkadapt.metrics import (
    Array,
    CostMetric,
    CurveMetric,
    Metric,
    OperatingPoint,
    as_array,
    check_trials,
    measure,
)
from spkadapt.metrics.conditions import Labels, measure_equalised, scale_to_one
from spkadapt.metrics.weighted import EER, min_dcf

INTERVAL_DEFINITION = (
    "percentile bootstrap over speakers drawn with replacement: a target trial of a speaker drawn w times "
    "counts w times, a non-target trial of speakers drawn v and w times counts v*w times"
)
PAIRED_TEST_DEFINITION = (
    "both systems measured on the same draws of speakers; with B draws, of which a have the second no higher than "
    "the first and b no lower, p = min(1, 2*(1+min(a, b))/(B+1)), two-sided: below 1 - level where the percentile "
    "interval of the difference leaves out 0"
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


@dataclass(frozen=True)
class PairedTest:
    """How the second of two systems differs from the first on the same trials.

    Attributes:
        metric: the name of what was measured.
        first, second: what the systems measure.
        difference: second less first.
        interval: of the difference.
        p_value: by `PAIRED_TEST_DEFINITION`, of no difference.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: Interval
    p_value: float


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
    """EER and minDCF of test sets whose speakers are drawn anew; `bootstrap_metrics` does it for any metric.

    Args:
        p_target, c_miss, c_fa: as for `compute_min_dcf`.
        scores, is_target, enrol_speakers, test_speakers, num_replicates, seed: as for `bootstrap_metrics`.

    Raises:
        InputError: as `compute_min_dcf` and `bootstrap_metrics` do.
    """
    cost = min_dcf(OperatingPoint(p_target, c_miss, c_fa))
    found = bootstrap_metrics(
        scores,
        is_target,
        enrol_speakers,
        test_speakers,
        [EER, cost],
        num_replicates=num_replicates,
        seed=seed,
    )
    return Replicates(found[EER.name], found[cost.name])


def bootstrap_metrics(
    scores: Array,
    is_target: Array,
    enrol_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    metrics: Sequence[Metric],
    *,
    partitions: Labels | None = None,
    num_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Metrics of test sets whose speakers are drawn anew with replacement, by `INTERVAL_DEFINITION`.

    Trials of a speaker stand or fall together, so drawing trials would make intervals too narrow. A draw that
    leaves no target or no non-target has no error rates and is made again. Memory is O(num_systems · num_trials)
    for the scores and again for each metric that is a mean of trials' costs.

    Args:
        scores: one system's, or those of several systems on the same trials.
        enrol_speakers: the speaker of each trial's enrolment side.
        test_speakers: the speaker of each trial's test side.
        metrics: of `spkadapt.metrics.weighted`.
        partitions: of each trial, where results are to be equalised over them as `measure_equalised` does; a
            replicate leaves out partitions of which it drew no trial.
        num_replicates: how many test sets to draw.
        seed: of the draws; the same seed draws the same speakers.

    Shape:
        scores: `(num_trials,)` or `(num_systems, num_trials)`
        is_target, enrol_speakers, test_speakers, partitions: `(num_trials,)`
        returns, by the metric's name, `(num_replicates,)` or `(num_systems, num_replicates)`

    Raises:
        InputError: as `compute_error_counts` does; where speakers or partitions differ in number from trials, or
            speakers contradict `is_target`; or for fewer than 1 replicate.
    """
    if num_replicates < 1:
        raise InputError(f"expected num_replicates of at least 1, found {num_replicates}")
    scores = as_array(scores)
    systems = [check_trials(system, is_target)[0] for system in np.atleast_2d(scores)]
    is_target = as_array(is_target)
    enrol, test, num_speakers = _number_speakers(enrol_speakers, test_speakers, is_target)
    equalise = _equaliser(partitions, is_target)
    measured = [_Resampled(system, is_target, metrics) for system in systems]
    draws = _draw_weights(np.random.default_rng(seed), num_speakers, enrol, test, is_target)
    found = np.empty((len(metrics), len(systems), num_replicates))
    for replicate, (targets, nontargets) in zip(range(num_replicates), draws, strict=False):
        weights = equalise(targets, nontargets)
        for system, resampled in enumerate(measured):
            found[:, system, replicate] = resampled.measure(*weights)
    shape = (*scores.shape[:-1], num_replicates)
    return {metric.name: values.reshape(shape) for metric, values in zip(metrics, found, strict=True)}


def compare_paired(
    first: Array,
    second: Array,
    is_target: Array,
    enrol_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    metric: Metric,
    *,
    partitions: Labels | None = None,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Whether two systems differ on the same trials, by `PAIRED_TEST_DEFINITION`.

    Args:
        first, second: the scores of the two systems.
        level: of the interval of the difference.
        is_target, enrol_speakers, test_speakers, partitions, num_replicates, seed: as for `bootstrap_metrics`.

    Shape:
        first, second: `(num_trials,)`

    Raises:
        InputError: as `bootstrap_metrics` and `percentile_interval` do, or where the systems have not one score
            each for the same number of trials.
    """
    first, second = as_array(first), as_array(second)
    if first.ndim != 1 or first.shape != second.shape:
        found = f"shapes {first.shape} and {second.shape}"
        raise InputError(f"expected two systems' scores of the same trials, found {found}")
    scores = np.stack([first, second])
    replicates = bootstrap_metrics(
        scores,
        is_target,
        enrol_speakers,
        test_speakers,
        [metric],
        partitions=partitions,
        num_replicates=num_replicates,
        seed=seed,
    )[metric.name]
    differences = replicates[1] - replicates[0]
    values = [
        measure(metric, system, is_target)
        if partitions is None
        else measure_equalised(metric, system, is_target, partitions)
        for system in scores
    ]
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (1 + rarer) / (num_replicates + 1))
    interval = percentile_interval(differences, level)
    return PairedTest(metric.name, values[0], values[1], values[1] - values[0], interval, p_value)


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


def clopper_pearson_interval(num_events: int, num_cases: int, level: float = 0.95) -> Interval:
    """The exact interval of a rate from how often it was seen (Clopper & Pearson, 1934).

        low = Beta⁻¹(α/2; k, n − k + 1),   high = Beta⁻¹(1 − α/2; k + 1, n − k),   α = 1 − level

    and 0 where none of n cases had the event, 1 where all had it. It covers the rate with at least `level`
    whatever the rate is, if cases are independent.

    Raises:
        InputError: unless 0 ≤ num_events ≤ num_cases, num_cases ≥ 1 and 0 < level < 1.
    """
    if not 0 <= num_events <= num_cases or num_cases < 1:
        raise InputError(f"expected from 0 to num_cases ≥ 1 events, found {num_events} of {num_cases}")
    if not 0 < level < 1:
        raise InputError(f"expected level between 0 and 1, found {level}")
    tail, rest = (1 - level) / 2, num_cases - num_events
    low = beta.ppf(tail, num_events, rest + 1) if num_events else 0.0
    high = beta.ppf(1 - tail, num_events + 1, rest) if rest else 1.0
    return Interval(float(low), float(high), level)


class _Resampled:
    """The trials of one system, reduced to what its metrics can depend on whatever the trials weigh.

    Between two neighbouring target scores only false alarms change, and no curve metric looks at the points there.
    So all non-targets in between go into one bin, and each distinct target score into another.
    """

    def __init__(self, scores: np.ndarray, is_target: np.ndarray, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self._costs = [m.trial_costs(scores, is_target) for m in metrics if isinstance(m, CostMetric)]
        self._target_costs = [costs[is_target] for costs in self._costs]
        self._nontarget_costs = [costs[~is_target] for costs in self._costs]
        target_scores = np.unique(scores[is_target])
        bins = np.searchsorted(target_scores, scores, "left") + np.searchsorted(target_scores, scores, "right")
        self._target_bins, self._nontarget_bins = bins[is_target], bins[~is_target]
        self._num_bins = 2 * len(target_scores) + 1

    def measure(self, targets: np.ndarray, nontargets: np.ndarray) -> list[float]:
        """Every metric where each target and each non-target counts as often as its weight says."""
        misses = self._accumulate(self._target_bins, targets)
        rejected = self._accumulate(self._nontarget_bins, nontargets)
        false_alarms = rejected[-1] - rejected
        means = iter(
            targets @ target_costs / misses[-1] + nontargets @ nontarget_costs / rejected[-1]
            for target_costs, nontarget_costs in zip(self._target_costs, self._nontarget_costs, strict=True)
        )
        return [
            m.of_curve(misses, false_alarms) if isinstance(m, CurveMetric) else next(means) for m in self._metrics
        ]

    def _accumulate(self, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.append(0, np.cumsum(np.bincount(bins, weights, self._num_bins)))


def _draw_weights(
    generator: np.random.Generator, num_speakers: int, enrol: np.ndarray, test: np.ndarray, is_target: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each target and each non-target counts, in one draw after another of as many speakers."""
    owners, first, second = enrol[is_target], enrol[~is_target], test[~is_target]
    while True:
        drawn = np.bincount(generator.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        weights = drawn.astype(np.float64)  # what bincount adds up, exact for whole numbers below 2^53
        targets, nontargets = weights[owners], weights[first] * weights[second]
        if targets.any() and nontargets.any():
            yield targets, nontargets


def _equaliser(
    partitions: Labels | None, is_target: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What makes the weights of targets and of non-targets equal over partitions, or leaves them as they are."""
    if partitions is None:
        return lambda targets, nontargets: (targets, nontargets)
    if len(partitions) != len(is_target):
        raise InputError(f"expected a partition for each of {len(is_target)} trials, found {len(partitions)}")
    _, numbers = np.unique(np.asarray(partitions, dtype=str), return_inverse=True)
    of_targets, of_nontargets = numbers[is_target], numbers[~is_target]
    return lambda targets, nontargets: (scale_to_one(targets, of_targets), scale_to_one(nontargets, of_nontargets))


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
