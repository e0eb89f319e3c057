"""Where a pass over more trials than can be held must look closely: brackets around the thresholds of interest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spkadapt.errors import InputError
from spkadapt.metrics.curves import Array, ErrorCounts, compute_error_counts, interpolate_eer
from spkadapt.metrics.operating_points import OperatingPoint
from spkadapt.metrics.pav import hull_vertices

# How many standard deviations of the sample's own rates a bracket allows for. Trials that share a recording vary
# together, and so by more than their number says.
_MARGIN = 6.0
_TILTS = (0.8, 1.0, 1.25)
_MOST_STEPS = 256
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Brackets:
    """The thresholds at which a pass counts trials, and between which of them it keeps every score.

    Args:
        edges: rising.
        keep: interval i takes the scores from edge i - 1 up to below edge i; the first and the last are open.

    Shape:
        edges: `(num_edges,)`, float32
        keep: `(num_edges + 1,)`, boolean

    Raises:
        InputError: where edges are not finite, rising float32, or the two shapes do not fit.
    """

    edges: np.ndarray
    keep: np.ndarray

    def __post_init__(self) -> None:
        edges, keep = self.edges, self.keep
        if edges.dtype != np.float32 or keep.dtype != bool or edges.ndim != 1 or keep.shape != (len(edges) + 1,):
            found = f"{edges.dtype} {edges.shape} and {keep.dtype} {keep.shape}"
            raise InputError(f"expected float32 edges (n,) and boolean keep (n + 1,), found {found}")
        if not (np.isfinite(edges).all() and (edges[1:] > edges[:-1]).all()):
            raise InputError("expected edges that are finite and rise")

    @classmethod
    def everything(cls) -> Brackets:
        """Keep all scores: what serves small numbers of trials."""
        return cls(np.empty(0, np.float32), np.ones(1, bool))

    @classmethod
    def around(cls, edges: Sequence[float], kept: Sequence[tuple[float, float]]) -> Brackets:
        """Count at the edges and keep the scores of the ranges, each from its first number to below its second."""
        ends = np.array([*edges, *(end for ends in kept for end in ends)], np.float32)
        unique = np.unique(ends[np.isfinite(ends)])
        starts, stops = np.append(-np.inf, unique), np.append(unique, np.inf)
        keep = np.zeros(len(starts), bool)
        for low, high in kept:
            keep |= (np.float32(low) <= starts) & (stops <= np.float32(high))
        return cls(unique, keep)

    def with_edges(self, edges: Sequence[float]) -> Brackets:
        """The same, counting at these edges too."""
        added = np.setdiff1d(np.array(edges, np.float32), self.edges)
        places = self.interval_of(added)
        return Brackets(np.sort(np.append(self.edges, added)), np.insert(self.keep, places, self.keep[places]))

    def interval_of(self, scores: np.ndarray) -> np.ndarray:
        """The interval each score falls in."""
        return np.searchsorted(self.edges, scores, side="right")

    def knows(self, thresholds: np.ndarray) -> np.ndarray:
        """At which thresholds the trials below can be told: edges, and all within kept intervals."""
        return self.keep[self.interval_of(thresholds)] | np.isin(thresholds, self.edges)

    def meet(self, other: Brackets) -> Brackets:
        """What both know."""
        edges = np.union1d(self.edges, other.edges)
        edges = edges[self.knows(edges) & other.knows(edges)]
        keep = np.ones(len(edges) + 1, bool)
        for brackets in (self, other):
            # An interval is known where none of the intervals it overlaps is dark.
            dark = np.append(0, np.cumsum(~brackets.keep))
            first = np.append(0, brackets.interval_of(edges))
            last = np.append(np.searchsorted(brackets.edges, edges, side="left"), len(brackets.edges))
            keep &= dark[last + 1] == dark[first]
        return Brackets(edges, keep)


def plan_brackets(scores: Array, is_target: Array, points: Sequence[OperatingPoint]) -> Brackets:
    """Brackets from a sample of the trials, such that one pass over all of them should do.

    The sample should be drawn as evenly over recordings as over trials: of a dense matrix, some scores of each row
    and column. Where it misleads, `TrialCounts.next_brackets` asks for another pass; no result can be wrong.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    return plan_from_curve(compute_error_counts(scores, is_target), points)


def plan_from_curve(counts: ErrorCounts, points: Sequence[OperatingPoint]) -> Brackets:
    """As `plan_brackets` does, from the operating points of the sample."""
    thresholds, miss, false_alarm = counts.thresholds, counts.p_miss, counts.p_false_alarm
    sizes = counts.num_targets, counts.num_nontargets
    last = len(thresholds) - 1
    eer = interpolate_eer(counts.num_misses, counts.num_false_alarms, *sizes)
    deviation = _MARGIN * np.sqrt((eer * (1 - eer) + 1 / min(sizes)) * (1 / sizes[0] + 1 / sizes[1]))
    crossing = np.searchsorted(miss - false_alarm, [-deviation, deviation])
    kept = [(int(crossing[0]) - 1, int(crossing[1]) + 1)]
    left, right = rocch_edge(counts.num_misses, counts.num_false_alarms)
    drop, rise = false_alarm[left] - false_alarm[right], miss[right] - miss[left]
    # The hull's edge across P_miss = P_fa joins the best points of some costs, near those of the sample's edge.
    costs = [(drop * tilt / (drop + rise), rise / (drop + rise) / tilt) for tilt in _TILTS if drop and rise]
    costs += [point.costs for point in points]
    steps: list[int] = []
    for miss_cost, false_alarm_cost in costs:
        misses, alarms = miss_cost * miss, false_alarm_cost * false_alarm
        excess = misses + alarms - (misses + alarms).min()
        best = int(np.argmin(excess))
        # Variance of the difference in cost: only trials between the two thresholds make it.
        variance = miss_cost * (abs(misses - misses[best]) + miss_cost / sizes[0]) / sizes[0]
        variance += false_alarm_cost * (abs(alarms - alarms[best]) + false_alarm_cost / sizes[1]) / sizes[1]
        near = np.flatnonzero(excess <= _MARGIN * np.sqrt(variance))
        kept.append((near[0] - 1, near[-1] + 1))
        least = misses[best] + alarms[best]
        steps += _steps(near[-1], excess, alarms, misses >= 1.1 * least)
        steps += (
            last - step for step in _steps(last - near[0], excess[::-1], misses[::-1], alarms[::-1] >= 1.1 * least)
        )
    ends = np.append(thresholds, np.inf)
    ranges = [(-np.inf if low < 0 else ends[low], ends[min(high, last)]) for low, high in kept]
    return Brackets.around([float(ends[step]) for step in steps], ranges)


def _steps(start: int, excess: np.ndarray, falling: np.ndarray, enough: np.ndarray) -> Iterator[int]:
    """Edges so close that no threshold between two of them can be the best one.

    Between two operating points the cost is no less than the misses of the lower and the false alarms of the
    upper. So one that costs `excess` too much rules out all up to where the other kind of cost has fallen by as
    much; half of it leaves room for the sample's error.
    """
    place = start
    for _ in range(_MOST_STEPS):
        yield place
        if enough[place] or place == len(excess) - 1:
            return
        floor = falling[place] - excess[place] / 2
        place = max(place + 1, int(np.searchsorted(-falling, -floor, side="right")) - 1)


def rocch_edge(misses: np.ndarray, false_alarms: np.ndarray) -> tuple[int, int]:
    """The two operating points between which the lower convex hull meets P_miss = P_fa.

    Shape:
        misses, false_alarms: `(num_points,)`, from accepting all to rejecting all
    """
    vertices = hull_vertices(misses, false_alarms)
    difference = misses[vertices] * false_alarms[0] - false_alarms[vertices] * misses[-1]
    after = int(np.searchsorted(difference, 0))
    return int(vertices[after - 1]), int(vertices[after])


def split_range(low: float, high: float, num_parts: int) -> list[float]:
    """Edges that cut the floats from `low` to below `high` into parts: evenly by value, and by number of floats.

    The former suits scores as they are; the latter bounds how often a range can be split until single floats
    are left: 2³² floats are cut in `num_parts` each time.
    """
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    keys = order_keys(np.array([low, high], np.float32))
    even = np.linspace(keys[0], keys[1], num_parts + 1).astype(np.int64)
    return [*np.linspace(low, high, num_parts + 1).tolist(), *floats_of_keys(even).tolist()]


def order_keys(scores: np.ndarray) -> np.ndarray:
    """Integers in the order of the float32 scores, next to one another where the floats are; -0 is below 0."""
    bits = scores.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def floats_of_keys(keys: np.ndarray) -> np.ndarray:
    """The inverse of `order_keys`."""
    bits = np.where(keys < 0, (-(keys + 1)) | 0x80000000, keys)
    return bits.astype(np.uint32).view(np.float32)
