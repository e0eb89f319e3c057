"""Pooling adjacent violators: the convex hull of the operating points, and what the best calibration costs."""

from __future__ import annotations

import numpy as np

from spkadapt.metrics.curves import Array, compute_error_counts, interpolate_eer

ROCCH_EER_DEFINITION = (
    "P_miss = P_fa on the lower convex hull of the operating points (Brümmer & de Villiers, 2013)"
)
MIN_CLLR_DEFINITION = (
    "Cllr after the best order-preserving map of scores to log-likelihood ratios, found by pooling adjacent "
    "violators on the trials measured; tied scores are pooled first (Brümmer & du Preez, 2006)"
)


def compute_rocch_eer(scores: Array, is_target: Array) -> float:
    """Equal error rate on the convex hull of the ROC, by `ROCCH_EER_DEFINITION`: never above `compute_eer`.

    It is the largest Bayes error rate, over all priors, of the best threshold for each (BOSARIS toolkit; Brümmer &
    de Villiers, 2013).

    Raises:
        InputError: as `compute_error_counts` does.
    """
    counts = compute_error_counts(scores, is_target)
    return rocch_eer_of_curve(counts.num_misses, counts.num_false_alarms)


def compute_min_cllr(scores: Array, is_target: Array) -> float:
    """Least Cllr that any rising function of the scores has, in bits, by `MIN_CLLR_DEFINITION`.

    What of Cllr is discrimination; Cllr less this is what calibration loses. Between 0 and 1.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    counts = compute_error_counts(scores, is_target)
    return min_cllr_of_curve(counts.num_misses, counts.num_false_alarms)


def min_cllr_of_curve(misses: np.ndarray, false_alarms: np.ndarray) -> float:
    """The minimum Cllr of a curve from accepting all to rejecting all; counts may be weighted.

    A block of the pooled trials that holds shares a of the targets and b of the non-targets gets the likelihood
    ratio a/b; its targets cost a·log2(1 + b/a) and its non-targets b·log2(1 + a/b).

    Shape:
        misses, false_alarms: `(num_points,)`
    """
    vertices = hull_vertices(misses, false_alarms)
    targets = np.diff(misses[vertices]) / misses[-1]
    nontargets = -np.diff(false_alarms[vertices]) / false_alarms[0]
    mixed = (targets > 0) & (nontargets > 0)  # a block of one kind has a ratio of 0 or infinity, and costs nothing
    a, b = targets[mixed], nontargets[mixed]
    return float((a * np.log1p(b / a) + b * np.log1p(a / b)).sum() / (2 * np.log(2)))


def rocch_eer_of_curve(misses: np.ndarray, false_alarms: np.ndarray) -> float:
    """The EER on the convex hull of a curve from accepting all to rejecting all; counts may be weighted.

    Shape:
        misses, false_alarms: `(num_points,)`
    """
    vertices = hull_vertices(misses, false_alarms)
    return interpolate_eer(misses[vertices], false_alarms[vertices], misses[-1], false_alarms[0])


def hull_vertices(misses: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Which operating points are corners of the lower convex hull, both ends included.

    The slopes between neighbouring corners are the pooled likelihood ratios (Fawcett & Niculescu-Mizil, 2007).

    Shape:
        misses, false_alarms: `(num_points,)`, misses rising and false alarms falling; counts or weights
        returns `(num_vertices,)`, rising
    """
    targets, nontargets = np.diff(misses), -np.diff(false_alarms)
    filled = np.flatnonzero((targets > 0) | (nontargets > 0))
    starts = pool_adjacent_violators(targets[filled], nontargets[filled])
    # Where the first blocks or the last weigh nothing, the ends stand for the points that coincide with them.
    return np.concatenate([[0], filled[starts[1:]], [len(misses) - 1]])


def pool_adjacent_violators(targets: np.ndarray, nontargets: np.ndarray) -> np.ndarray:
    """Where the blocks start in which the share of targets rises, once neighbours that do not rise are pooled.

    All runs of violators are pooled at once and the rest looked at again; where that gets on too slowly, what
    is left is pooled one by one, and so the work is linear whatever the scores. Exact for counts, as
    shares are compared by products of whole numbers.

    Shape:
        targets, nontargets: `(num_bins,)`, by rising score; no bin with neither
        returns `(num_blocks,)`, the first bin of each block, rising from 0
    """
    starts = np.arange(len(targets))
    while len(starts) > 1:
        rises = targets[:-1] * nontargets[1:] < targets[1:] * nontargets[:-1]
        kept = np.flatnonzero(np.append(True, rises))
        if len(kept) == len(starts):
            break
        targets, nontargets = np.add.reduceat(targets, kept), np.add.reduceat(nontargets, kept)
        starts, num_before = starts[kept], len(starts)
        if len(starts) > 0.9 * num_before:
            return starts[_pool_one_by_one(targets.tolist(), nontargets.tolist())]
    return starts


def _pool_one_by_one(targets: list[float], nontargets: list[float]) -> list[int]:
    """The first bin of each block, by a stack of the blocks so far."""
    blocks: list[tuple[float, float, int]] = []
    for start, (a, b) in enumerate(zip(targets, nontargets, strict=True)):
        while blocks and blocks[-1][0] * b >= a * blocks[-1][1]:
            before_a, before_b, start = blocks.pop()
            a, b = a + before_a, b + before_b
        blocks.append((a, b, start))
    return [start for _, _, start in blocks]
