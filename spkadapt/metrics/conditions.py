"""Results by condition, and results in which every partition of the trials counts alike, as NIST weights them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spkadapt.errors import InputError
from spkadapt.metrics.curves import Array, as_array, check_trials
from spkadapt.metrics.weighted import Metric, measure

EQUALISED_DEFINITION = (
    "trials are weighted so that each partition that has targets contributes alike to P_miss, and each that has "
    "non-targets alike to P_fa, at one threshold for all (NIST SRE 2016 and 2018 evaluation plans)"
)

Labels = Sequence[str] | np.ndarray


@dataclass(frozen=True)
class ConditionResult:
    """What was measured on the trials of one condition.

    Attributes:
        condition: its name.
        num_targets, num_nontargets: how many trials it has.
        values: by the metrics' names; empty where the condition lacks one kind of trial, and so has no rates.
    """

    condition: str
    num_targets: int
    num_nontargets: int
    values: Mapping[str, float]


def measure_equalised(metric: Metric, scores: Array, is_target: Array, partitions: Labels) -> float:
    """The metric where every partition counts alike, by `EQUALISED_DEFINITION`.

    The actual cost is then the mean of the partitions' costs; so is P_miss, and so is P_fa. The minimum is taken
    after the weighting, over thresholds common to all, and is no mean of the partitions' minima.

    Args:
        partitions: the partition of each trial; `combine_labels` makes it of several factors.

    Shape:
        scores, is_target, partitions: `(num_trials,)`

    Raises:
        InputError: as `measure` does, or for another number of labels than trials.
    """
    scores, is_target = check_trials(scores, is_target)
    _, numbers = np.unique(_check_labels("partitions", partitions, len(scores)), return_inverse=True)
    return measure(metric, scores, is_target, scale_to_one(np.ones(len(scores)), 2 * numbers + is_target))


def scale_to_one(weights: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Weights scaled so that those of each cell sum to 1; of a cell that weighs nothing they stay 0.

    Args:
        cells: the number of each trial's cell, from 0.

    Shape:
        weights, cells: `(num_trials,)`
        returns `(num_trials,)`
    """
    sums = np.bincount(cells, weights)[cells]
    return np.divide(weights, sums, out=np.zeros(len(cells)), where=sums > 0)


def measure_conditions(
    metrics: Sequence[Metric], scores: Array, is_target: Array, conditions: Labels
) -> list[ConditionResult]:
    """Every metric on the trials of each condition alone, conditions in the order of their names.

    Shape:
        scores, is_target, conditions: `(num_trials,)`

    Raises:
        InputError: as `measure` does, or for another number of labels than trials.
    """
    scores, is_target = check_trials(scores, is_target)
    names, numbers = np.unique(_check_labels("conditions", conditions, len(scores)), return_inverse=True)
    results = []
    for number, name in enumerate(names.tolist()):
        chosen = numbers == number
        num_targets = int(is_target[chosen].sum())
        num_nontargets = int(chosen.sum()) - num_targets
        measurable = metrics if num_targets and num_nontargets else []
        values = {metric.name: measure(metric, scores[chosen], is_target[chosen]) for metric in measurable}
        results.append(ConditionResult(name, num_targets, num_nontargets, values))
    return results


def combine_labels(factors: Mapping[str, Labels]) -> np.ndarray:
    """One label for each combination of factors, such as "gender=f, phone=same".

    Shape:
        each factor: `(num_trials,)`
        returns `(num_trials,)`

    Raises:
        InputError: no factor, or factors of different lengths.
    """
    if not factors:
        raise InputError("expected at least one factor to make conditions of, found none")
    lengths = {name: len(labels) for name, labels in factors.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise InputError(f"expected as many labels of each factor, found {found}")
    numbered = [np.unique(np.asarray(labels, dtype=str), return_inverse=True) for labels in factors.values()]
    # Only combinations that occur are spelt out, and each once.
    combinations, rows = np.unique(np.stack([n for _, n in numbered], axis=1), axis=0, return_inverse=True)
    spelt = [
        ", ".join(f"{name}={names[n]}" for name, (names, _), n in zip(factors, numbered, combination, strict=True))
        for combination in combinations
    ]
    return np.array(spelt, dtype=str)[rows.reshape(-1)]


def pair_labels(enrol: Labels, test: Labels) -> np.ndarray:
    """What the two sides of each trial are, whichever is which: "cell/landline" for landline and cell.

    Shape:
        enrol, test: `(num_trials,)`
        returns `(num_trials,)`

    Raises:
        InputError: sides of different lengths.
    """
    enrol, test = np.asarray(enrol, dtype=str), _check_labels("test labels", test, len(enrol))
    swapped = enrol > test
    first, second = np.where(swapped, test, enrol), np.where(swapped, enrol, test)
    return np.char.add(np.char.add(first, "/"), second)


def bin_labels(values: Array, edges: Sequence[float], unit: str = "s") -> np.ndarray:
    """The bin that each value lies in, such as "2-5 s"; the lower edge belongs to the bin.

    Args:
        values: durations, for instance, or the shorter one of each trial.
        edges: rising; the first bin lies below the first edge and the last at and above the last.

    Shape:
        values: `(num_trials,)`
        returns `(num_trials,)`

    Raises:
        InputError: edges that do not rise, or none.
    """
    if not len(edges) or (np.diff(edges) <= 0).any():
        raise InputError(f"expected rising edges of bins, found {list(edges)}")
    inner = [f"{low:g}-{high:g} {unit}" for low, high in pairwise(edges)]
    names = np.array([f"<{edges[0]:g} {unit}", *inner, f">={edges[-1]:g} {unit}"])
    return names[np.searchsorted(np.asarray(edges), as_array(values), "right")]


def _check_labels(what: str, labels: Labels, num_trials: int) -> np.ndarray:
    if len(labels) != num_trials:
        raise InputError(f"expected {num_trials} {what}, one for each trial, found {len(labels)}")
    return np.asarray(labels, dtype=str)
