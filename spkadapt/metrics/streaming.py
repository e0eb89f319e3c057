"""Exact metrics of more trials than can be held: counts that processes gather apart and merge.

    brackets = plan_brackets(sample_scores, sample_is_target, points)       # or leave it out
    while brackets is not None:
        counts = TrialCounts(points, brackets)
        for scores, is_target in blocks:
            counts.update(scores, is_target)
        brackets = counts.next_brackets()
    result = counts.measure()

Each number is, bit for bit, what the function of its name gives on all scores at once: in any order, in any
blocks, by any number of threads that update one `TrialCounts`, and over any number of processes that have one each
and `merge` them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch

from spkadapt.errors import InputError
from spkadapt.metrics.brackets import Brackets, plan_from_curve, rocch_edge, split_range
from spkadapt.metrics.curves import Array, ErrorCounts, interpolate_eer
from spkadapt.metrics.operating_points import OperatingPoint
from spkadapt.metrics.pav import rocch_eer_of_curve
from spkadapt.metrics.softplus import cllr_of_sums, sum_softplus, sum_softplus_compiled
from spkadapt.metrics.tally import Tally

# Into so many parts a range is split, by value and by number of floats, that holds more scores than may be kept.
_PARTS = 64
_SPARE = 16  # part of the room that is left free when there was too little
_MOST_BETWEEN = 1 << 16  # operating points between targets that a curve shows
_MOST_PAIRS = 2**61  # of a target and a non-target, whose products of counts fit 64 bits


@dataclass(frozen=True)
class ExactMetrics:
    """What `TrialCounts` measures, as the `compute_` functions define it. Rates are fractions, Cllr is in bits.

    Args:
        min_dcf, act_dcf: one for each operating point.
    """

    num_targets: int
    num_nontargets: int
    eer: float
    rocch_eer: float
    min_dcf: tuple[float, ...]
    act_dcf: tuple[float, ...]
    cllr: float


class TrialCounts:
    """Counts of trials by score, from which metrics are exact or it is known where to look closer.

    All trials are counted at the edges of the brackets, and within those kept every distinct score is. That
    makes some of all operating points known, and leaves the rest in dark ranges. A dark range from point a to
    point b cannot hold any point with fewer misses than a or fewer false alarms than b. So

    - the EER is exact where P_miss = P_fa is crossed in no dark range;
    - minDCF is, where even misses of a with false alarms of b cost no less than the best point known, for each
      dark range. (Rounding to doubles keeps order, so this holds of the costs as computed);
    - the ROCCH-EER is, where for each dark range that pair lies above the line of the hull's edge across
      P_miss = P_fa: then no unseen point lies on or below this line, and its two ends are corners of the whole
      hull.

    Else `next_brackets` has those ranges kept in another pass; or cut finely, if they hold too much. A pass cuts a
    range to 1/64 of its floats, so that it ends. actDCF and Cllr take one pass.

    Without brackets every score is kept, up to a quarter of `capacity`; then they are planned from those, as
    though what came first were a sample of all.

    Args:
        points: of minDCF and actDCF.
        brackets: as planned from a sample, or by the pass before.
        capacity: of distinct scores kept, at 12 bytes each and as many again while they are sorted. More make
            another pass needed.
    """

    def __init__(
        self, points: Sequence[OperatingPoint], brackets: Brackets | None = None, *, capacity: int = 1 << 22
    ) -> None:
        self.points, self.capacity = tuple(points), capacity
        thresholds = [float(_bayes_threshold(point)) for point in self.points]
        self._is_unplanned = brackets is None
        self.brackets = (Brackets.everything() if brackets is None else brackets).with_edges(thresholds)
        self.trials, self.targets = Tally(self.brackets), Tally(self.brackets)
        self._target_sum = self._nontarget_sum = 0  # of `sum_softplus`
        self._lock = Lock()

    def update(self, scores: Array, is_target: Array) -> None:
        """Count trials.

        Shape:
            scores: `(num_trials,)`, float32 or narrower, on any device
            is_target: `(num_trials,)`, boolean

        Raises:
            InputError: where scores are not finite or not float32, or the two do not fit.
        """
        scores = _as_float32(scores)
        if isinstance(scores, torch.Tensor):
            is_target = torch.as_tensor(is_target, device=scores.device)
        else:
            is_target = np.asarray(is_target)
        if scores.ndim != 1 or scores.shape != is_target.shape:
            found = f"scores {tuple(scores.shape)} and is_target {tuple(is_target.shape)}"
            raise InputError(f"expected one score and one is_target for each trial, found {found}")
        if is_target.dtype not in (bool, torch.bool):
            raise InputError(f"expected is_target to be boolean, found {is_target.dtype}")
        self._add(scores, scores[is_target])

    def update_block(self, scores: Array, enrol_speakers: np.ndarray, test_speakers: np.ndarray) -> None:
        """Count all pairs of a block; targets are those of one speaker.

        Shape:
            scores: `(num_enrol, num_test)`, float32 or narrower, on any device
            enrol_speakers: `(num_enrol,)`, numbers or names
            test_speakers: `(num_test,)`

        Raises:
            InputError: as `update` does.
        """
        scores, enrol, test = _as_float32(scores), np.asarray(enrol_speakers), np.asarray(test_speakers)
        if (*enrol.shape, *test.shape) != tuple(scores.shape) or enrol.ndim != 1:
            found = f"scores {tuple(scores.shape)}, speakers {enrol.shape} and {test.shape}"
            raise InputError(f"expected scores (n, m), enrol_speakers (n,) and test_speakers (m,), found {found}")
        order = np.argsort(test, kind="stable")
        first = np.searchsorted(test, enrol, side="left", sorter=order)
        num_targets = np.searchsorted(test, enrol, side="right", sorter=order) - first
        rows = np.repeat(np.arange(len(enrol)), num_targets)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(num_targets) - num_targets - first, num_targets)
        self._add(scores.reshape(-1), scores[rows, order[places]])

    def merge(self, other: TrialCounts) -> TrialCounts:
        """The counts of both sets of trials, such as of two processes. The order of merging is of no account.

        Give all processes the same brackets: of others, only what both know is kept.

        Raises:
            InputError: for other operating points.
        """
        if self.points != other.points:
            raise InputError(f"expected counts for {self.points}, found some for {other.points}")
        brackets = self.brackets.meet(other.brackets)
        merged = TrialCounts(self.points, brackets, capacity=max(self.capacity, other.capacity))
        merged._is_unplanned = self._is_unplanned and other._is_unplanned
        for counts in (self, other):
            merged._absorb(counts.trials, counts.targets, counts._target_sum, counts._nontarget_sum)
        return merged

    def next_brackets(self) -> Brackets | None:
        """What another pass needs to know; None where `measure` has all it needs.

        Raises:
            InputError: where there are no targets or no non-targets.
        """
        curve = self._curve()
        unresolved = self._unresolved(curve)
        if not len(unresolved):
            return None
        edges: list[float] = self.brackets.edges.tolist()
        held, lows, highs = _num_held(curve), *self._ranges(curve)
        starts, stops = np.append(-np.inf, self.brackets.edges), np.append(self.brackets.edges, np.inf)
        kept = [(starts[i], stops[i]) for i in np.flatnonzero(self.brackets.keep)]
        room = self.capacity - self.capacity // _SPARE - self.trials.num_kept
        for place in unresolved[np.argsort(held[unresolved], kind="stable")]:
            if held[place] <= room:
                kept.append((lows[place], highs[place]))
                room -= held[place]
            else:
                edges += split_range(lows[place], highs[place], _PARTS)
        return Brackets.around(edges, kept)

    def measure(self) -> ExactMetrics:
        """All metrics.

        Raises:
            InputError: where there are no targets or no non-targets, or `next_brackets` asks for another pass.
        """
        curve = self._curve()
        num_unresolved = len(self._unresolved(curve))
        if num_unresolved:
            raise InputError(
                f"expected another pass, with next_brackets: {num_unresolved} ranges of scores are too coarse"
            )
        sizes = curve.num_targets, curve.num_nontargets
        return ExactMetrics(
            *sizes,
            eer=interpolate_eer(curve.num_misses, curve.num_false_alarms, *sizes),
            rocch_eer=rocch_eer_of_curve(curve.num_misses, curve.num_false_alarms),
            min_dcf=tuple(float(_costs(point, curve.p_miss, curve.p_false_alarm).min()) for point in self.points),
            act_dcf=tuple(self._act_dcf(point, curve) for point in self.points),
            cllr=cllr_of_sums(self._target_sum, self._nontarget_sum, *sizes),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays without objects, for `np.savez` or to send."""
        points = np.array([(p.p_target, p.c_miss, p.c_fa) for p in self.points], np.float64).reshape(-1, 3)
        arrays = {"points": points, "capacity": np.array(self.capacity), "unplanned": np.array(self._is_unplanned)}
        arrays |= {"edges": self.brackets.edges, "keep": self.brackets.keep}
        sums = [
            (total >> 40 * i) & (2**40 - 1) for total in (self._target_sum, self._nontarget_sum) for i in range(7)
        ]
        arrays["softplus_sums"] = np.array(sums).reshape(2, 7)
        for name, tally in (("trials", self.trials), ("targets", self.targets)):
            arrays |= {f"{name}_{key}": array for key, array in tally.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TrialCounts:
        """The inverse of `to_arrays`, also of what `np.load` gives."""
        points = [OperatingPoint(*point) for point in arrays["points"].tolist()]
        brackets = Brackets(arrays["edges"], arrays["keep"])
        counts = cls(points, brackets, capacity=int(arrays["capacity"]))
        counts._is_unplanned = bool(arrays["unplanned"])
        counts.trials, counts.targets = (
            Tally.from_arrays(brackets, {key: arrays[f"{name}_{key}"] for key in Tally.ARRAYS})
            for name in ("trials", "targets")
        )
        sums = (sum(part << 40 * i for i, part in enumerate(parts)) for parts in arrays["softplus_sums"].tolist())
        counts._target_sum, counts._nontarget_sum = sums
        return counts

    def _add(self, scores: Any, target_scores: Any) -> None:
        # First, as it refuses what is not finite before anything is counted.
        sum_up = sum_softplus if isinstance(scores, torch.Tensor) else sum_softplus_compiled
        nontarget_sum = sum_up(scores) - sum_up(target_scores)
        target_sum = sum_up(-target_scores)
        brackets = self.brackets
        trials, targets = Tally(brackets), Tally(brackets)
        trials.add(scores)
        targets.add(target_scores)
        with self._lock:
            self._absorb(trials, targets, target_sum, nontarget_sum)

    def _absorb(self, trials: Tally, targets: Tally, target_sum: int, nontarget_sum: int) -> None:
        """Add what has been counted in these brackets, or in some that know as much and more."""
        for mine, other in ((self.trials, trials), (self.targets, targets)):
            mine.absorb(other if other.brackets is self.brackets else other.recount(self.brackets))
        self._target_sum += target_sum
        self._nontarget_sum += nontarget_sum
        self._limit()

    def _limit(self) -> None:
        """Hold at most `capacity` scores: plan brackets at the first time, later drop the fullest of them."""
        while self.trials.num_kept > self._room:
            self.trials.settle()
            # What little room is left would soon be full again, and all be sorted again.
            if self.trials.num_kept <= self._room - self._room // _SPARE:
                return
            if self._is_unplanned:
                brackets, self._is_unplanned = self._plan(), False
            else:
                keep = self.brackets.keep.copy()
                keep[self.trials.fullest_interval()] = False
                brackets = Brackets(self.brackets.edges, keep)
            self.brackets = brackets
            self.trials, self.targets = self.trials.recount(brackets), self.targets.recount(brackets)

    @property
    def _room(self) -> int:
        # To plan takes more memory for each score than to keep it.
        return self.capacity // 4 if self._is_unplanned else self.capacity

    def _plan(self) -> Brackets:
        """Brackets from all that has been counted, as everything has been kept."""
        if 0 < self.targets.num_scores < self.trials.num_scores:
            brackets = plan_from_curve(self._curve(), self.points)
        else:
            brackets = Brackets.around(split_range(self.trials.least, self.trials.most, _PARTS), [])
        return brackets.with_edges(self.brackets.edges.tolist())

    def _curve(self) -> ErrorCounts:
        """The operating points that are known. The first accepts all, and its threshold is -infinity.

        Of those amid false alarms alone some thousands stand for all: none is better than all its neighbours.
        """
        num_targets = self.targets.num_scores
        num_nontargets = self.trials.num_scores - num_targets
        if not (num_targets and num_nontargets):
            found = f"{num_targets} targets and {num_nontargets} non-targets"
            raise InputError(f"expected at least one target and one non-target trial, found {found}")
        if num_targets * num_nontargets > _MOST_PAIRS:
            found = f"{num_targets} targets and {num_nontargets} non-targets"
            raise InputError(f"expected targets times non-targets up to {_MOST_PAIRS}, found {found}")
        kept, targets = self.trials.kept_scores, self.targets.kept_scores
        after_targets = kept[np.minimum(np.searchsorted(kept, targets) + 1, len(kept) - 1)]
        some = kept[:: len(kept) // _MOST_BETWEEN + 1]
        thresholds = np.unique(np.concatenate([self.brackets.edges, targets, after_targets, some]))
        misses = self.targets.below(thresholds)
        false_alarms = num_nontargets - (self.trials.below(thresholds) - misses)
        return ErrorCounts(
            np.concatenate([[-np.inf], thresholds, [np.inf]]),
            np.concatenate([[0], misses, [num_targets]]),
            np.concatenate([[num_nontargets], false_alarms, [0]]),
            num_targets,
            num_nontargets,
        )

    def _unresolved(self, curve: ErrorCounts) -> np.ndarray:
        """After which of the operating points there is a dark range that may hold a better one. See the class."""
        misses, false_alarms = curve.num_misses, curve.num_false_alarms
        dark = ~self.brackets.keep[self.brackets.interval_of(curve.thresholds[:-1].astype(np.float32))]
        # Where there is one score or one float, there is no threshold in between.
        low, high = self._ranges(curve)
        dark &= (_num_held(curve) > 1) & (_next_float(low) < high)
        better = np.arange(len(dark)) == _crossing(curve)
        # Trials of one kind move the curve along one axis, from one known point to the other.
        mixed = (misses[:-1] < misses[1:]) & (false_alarms[:-1] > false_alarms[1:])
        for point in self.points:
            least = _costs(point, curve.p_miss, curve.p_false_alarm).min()
            better |= mixed & (_costs(point, curve.p_miss[:-1], curve.p_false_alarm[1:]) < least)
        left, right = rocch_edge(misses, false_alarms)
        drop, rise = false_alarms[left] - false_alarms[right], misses[right] - misses[left]
        height = misses[left] * drop + false_alarms[left] * rise
        better |= mixed & (misses[:-1] * drop + false_alarms[1:] * rise <= height)
        return np.flatnonzero(dark & better)

    def _ranges(self, curve: ErrorCounts) -> tuple[np.ndarray, np.ndarray]:
        """Between each operating point and the next: the first float32 that may be a score; the first beyond."""
        ends = curve.thresholds.astype(np.float32)
        stop = _next_float(np.array(self.trials.most, np.float32))
        return np.maximum(ends[:-1], np.float32(self.trials.least)), np.minimum(ends[1:], stop)

    def _act_dcf(self, point: OperatingPoint, curve: ErrorCounts) -> float:
        place = np.searchsorted(curve.thresholds, _bayes_threshold(point))
        return float(_costs(point, curve.p_miss[place], curve.p_false_alarm[place]))


def _crossing(curve: ErrorCounts) -> int:
    """The last operating point with P_miss < P_fa."""
    difference = curve.num_misses * curve.num_nontargets - curve.num_false_alarms * curve.num_targets
    return int(np.searchsorted(difference, 0)) - 1


def _num_held(curve: ErrorCounts) -> np.ndarray:
    """How many trials lie between one operating point and the next."""
    return np.diff(curve.num_misses) - np.diff(curve.num_false_alarms)


def _costs(point: OperatingPoint, p_miss: np.ndarray, p_false_alarm: np.ndarray) -> np.ndarray:
    miss_cost, false_alarm_cost = point.costs
    return miss_cost * p_miss + false_alarm_cost * p_false_alarm


def _bayes_threshold(point: OperatingPoint) -> np.float32:
    """The least float32 that is accepted at the point's Bayes threshold."""
    threshold = np.float32(point.bayes_threshold)
    return _next_float(threshold) if float(threshold) < point.bayes_threshold else threshold


def _next_float(scores: Any) -> Any:
    with np.errstate(over="ignore"):  # past the largest is infinity
        return np.nextafter(scores, np.float32(np.inf))


def _as_float32(scores: Array) -> Any:
    """As they are on an accelerator, else a NumPy array; float32 holds the narrower floats exactly."""
    if isinstance(scores, torch.Tensor):
        scores = scores.detach()
        if scores.dtype in (torch.bfloat16, torch.float16):
            scores = scores.float()
        if scores.device.type == "cpu":
            scores = scores.numpy()
    else:
        scores = np.asarray(scores)
        if scores.dtype == np.float16:
            scores = scores.astype(np.float32)
    if scores.dtype not in (np.float32, torch.float32):
        raise InputError(f"expected scores in float32, found {scores.dtype}")
    return scores
