"""How many scores lie in each interval of some brackets, with the scores themselves where an interval is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spkadapt.metrics.brackets import Brackets, floats_of_keys, order_keys

# Scores on a CPU are counted and placed so many at a time, to need little memory beside what is held.
_AT_A_TIME = 1 << 16
# What comes in is counted once it is as many as are held, within these bounds: seldom, and in little memory.
_LEAST_PENDING, _MOST_PENDING = 1 << 18, 1 << 20
# Where all floats that may be kept are no more than this, each has a place in an array, and nothing is sorted.
_MOST_PLACES = 1 << 23


class Tally:
    """Counts of float32 scores within brackets. -0 and 0 are one score."""

    ARRAYS = ("counts", "kept_scores", "repeats", "range")

    def __init__(self, brackets: Brackets) -> None:
        self.brackets = brackets
        self.counts = np.zeros(len(brackets.keep), np.int64)
        self.least, self.most = np.inf, -np.inf
        self._distinct, self._repeats = np.empty(0, np.float32), np.empty(0, np.int64)
        self._pending = np.empty(0, np.float32)
        self._num_pending = 0
        self._at_place: np.ndarray | None = None
        self._num_at_place = 0

    @property
    def num_scores(self) -> int:
        """All scores counted."""
        return int(self.counts.sum())

    @property
    def num_kept(self) -> int:
        """How many scores are held now, which is no less than how many are distinct."""
        return len(self._distinct) + self._num_at_place + self._num_pending

    @property
    def kept_scores(self) -> np.ndarray:
        """The distinct scores of the kept intervals, rising."""
        self.settle()
        return self._distinct

    def add(self, scores: Any) -> None:
        """Count finite scores, `(num_scores,)`; a NumPy array or a tensor on another device."""
        if not len(scores):
            return
        if isinstance(scores, torch.Tensor):
            self._widen(*(float(end) for end in torch.aminmax(scores)))
            edges, keep = (
                torch.from_numpy(a).to(scores.device) for a in (self.brackets.edges, self.brackets.keep)
            )
            interval = torch.bucketize(scores, edges, right=True)
            self.counts += torch.bincount(interval, minlength=len(self.counts)).cpu().numpy()
            self._keep(scores[keep[interval]].cpu().numpy())
        else:
            self._count(scores)
        self._settle_many()

    def absorb(self, other: Tally) -> None:
        """Count all that the other has counted, in the same brackets; it is not to be used any more."""
        self.counts += other.counts
        self._widen(other.least, other.most)
        if other.num_kept > other._num_pending:
            other.settle()
            self._unite(other._distinct, other._repeats)
        self._keep(other._pending[: other._num_pending])
        self._settle_many()

    def _count(self, scores: np.ndarray) -> None:
        from spkadapt.metrics import kernels

        edges, keep = self.brackets.edges, np.ascontiguousarray(self.brackets.keep)
        padded = np.full(1 << len(edges).bit_length(), np.inf, np.float32)
        padded[: len(edges)] = edges
        rest, places = np.empty(kernels.CHUNK, np.float32), np.empty(kernels.CHUNK, np.uint32)
        for start in range(0, len(scores), _AT_A_TIME):
            part = np.require(scores[start : start + _AT_A_TIME], requirements=["C", "A"])
            num_kept, *ends = kernels.count_in_intervals(
                part, padded, keep, self.counts, self._room_for(len(part)), rest, places
            )
            self._num_pending += num_kept
            self._widen(*floats_of_keys(np.array(ends)).tolist())

    def _widen(self, least: float, most: float) -> None:
        self.least, self.most = min(self.least, least), max(self.most, most)

    def _keep(self, scores: np.ndarray) -> None:
        self._room_for(len(scores))[:] = scores
        self._num_pending += len(scores)

    def _room_for(self, num_scores: int) -> np.ndarray:
        """Where the next ones go: one array, as many small ones, amid larger, would leave memory in shreds."""
        stop = self._num_pending + num_scores
        if stop > len(self._pending):
            pending = self._pending[: self._num_pending]
            self._pending = np.empty(max(stop, 2 * len(self._pending)), np.float32)
            self._pending[: len(pending)] = pending
        return self._pending[self._num_pending : stop]

    def _settle_many(self) -> None:
        if self._num_pending <= min(max(_LEAST_PENDING, self._num_at_place, len(self._distinct)), _MOST_PENDING):
            return
        first, num_places = self._places()
        if num_places > _MOST_PLACES:
            self.settle()
            return
        if self._at_place is None:
            self._at_place = np.zeros(num_places, np.int64)
        self._put_in_place(self._at_place, first)
        self._num_at_place = int(np.count_nonzero(self._at_place))

    def _put_in_place(self, at_place: np.ndarray, first: int) -> None:
        for start in range(0, self._num_pending, _AT_A_TIME):
            scores = self._pending[start : min(start + _AT_A_TIME, self._num_pending)]
            np.add.at(at_place, order_keys(scores + np.float32(0)) - first, 1)
        self._num_pending = 0

    def _places(self) -> tuple[int, int]:
        """The key of the least score that may be kept, and how many floats there are from it to the greatest."""
        kept = np.flatnonzero(self.brackets.keep)
        ends = np.concatenate([[-np.inf], self.brackets.edges, [np.inf]])[[kept[0], kept[-1] + 1]]
        first, stop = order_keys(ends.astype(np.float32)).tolist()
        return first, stop - first

    def settle(self) -> None:
        """Sort what has come in, and count what is equal."""
        if self._at_place is not None:
            at_place, first = self._at_place, self._places()[0]
            self._put_in_place(at_place, first)
            self._at_place, self._num_at_place = None, 0
            self._unite(*_gather_places(at_place, first))
        if self._num_pending:
            fresh, self._num_pending = self._pending[: self._num_pending], 0
            fresh.sort()
            starts = np.flatnonzero(np.append(True, fresh[1:] != fresh[:-1]))
            self._unite(fresh[starts], np.diff(np.append(starts, len(fresh))))

    def _unite(self, distinct: np.ndarray, repeats: np.ndarray) -> None:
        if not len(self._distinct):
            self._distinct, self._repeats = distinct, repeats
            return
        places = np.searchsorted(self._distinct, distinct)
        found = self._distinct.take(places, mode="clip") == distinct
        self._repeats[places[found]] += repeats[found]
        new = ~found
        self._distinct = np.insert(self._distinct, places[new], distinct[new])
        self._repeats = np.insert(self._repeats, places[new], repeats[new])

    def below(self, thresholds: np.ndarray) -> np.ndarray:
        """How many scores lie below each threshold, all of which the brackets must know."""
        self.settle()
        interval = self.brackets.interval_of(thresholds)
        below_interval = np.append(0, np.cumsum(self.counts))[interval]
        kept_below = np.zeros(len(self._repeats) + 1, np.int64)
        np.cumsum(self._repeats, out=kept_below[1:])
        first_kept = np.append(0, np.searchsorted(self._distinct, self.brackets.edges))
        inside = kept_below[np.searchsorted(self._distinct, thresholds)] - kept_below[first_kept[interval]]
        return below_interval + inside

    def recount(self, brackets: Brackets) -> Tally:
        """The same scores within coarser brackets, that know nothing that these do not."""
        tally = Tally(brackets)
        tally.counts = np.diff(np.concatenate([[0], self.below(brackets.edges), [self.num_scores]]))
        kept = brackets.keep[brackets.interval_of(self._distinct)]
        tally._distinct, tally._repeats = self._distinct[kept], self._repeats[kept]
        tally.least, tally.most = self.least, self.most
        return tally

    def fullest_interval(self) -> int:
        """The one that keeps most distinct scores."""
        return int(np.bincount(self.brackets.interval_of(self.kept_scores)).argmax())

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named as in `ARRAYS`."""
        return {
            "counts": self.counts,
            "kept_scores": self.kept_scores,
            "repeats": self._repeats,
            "range": np.array([self.least, self.most]),
        }

    @classmethod
    def from_arrays(cls, brackets: Brackets, arrays: Mapping[str, np.ndarray]) -> Tally:
        """The inverse of `to_arrays`."""
        tally = cls(brackets)
        tally.counts = arrays["counts"].copy()
        tally._distinct, tally._repeats = arrays["kept_scores"].copy(), arrays["repeats"].copy()
        tally.least, tally.most = arrays["range"].tolist()
        return tally


def _gather_places(at_place: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores that came, rising, and how often; these in the array they are in, as two would be much memory."""
    distinct, num_done = np.empty(np.count_nonzero(at_place), np.float32), 0
    for start in range(0, len(at_place), _AT_A_TIME):
        places = start + np.flatnonzero(at_place[start : start + _AT_A_TIME])
        now = slice(num_done, num_done + len(places))
        distinct[now], at_place[now] = floats_of_keys(first + places), at_place[places]
        num_done = now.stop
    return distinct, at_place[:num_done]
