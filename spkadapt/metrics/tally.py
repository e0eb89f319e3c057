"""How many scores lie in each interval of some brackets, with the scores themselves where an interval is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spkadapt.metrics.brackets import Brackets

# So few scores are looked up one by one; more are compared with one edge after another, which is faster.
_FEW = 1 << 12
_LEAST_PENDING = 1 << 18


class Tally:
    """Counts of float32 scores within brackets. -0 and 0 are one score."""

    ARRAYS = ("counts", "kept_scores", "repeats", "range")

    def __init__(self, brackets: Brackets) -> None:
        self.brackets = brackets
        self.counts = np.zeros(len(brackets.keep), np.int64)
        self.least, self.most = np.inf, -np.inf
        self._distinct, self._repeats = np.empty(0, np.float32), np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._num_pending = 0

    @property
    def num_scores(self) -> int:
        """All scores counted."""
        return int(self.counts.sum())

    @property
    def num_kept(self) -> int:
        """How many scores are held now, which is no less than how many are distinct."""
        return len(self._distinct) + self._num_pending

    @property
    def kept_scores(self) -> np.ndarray:
        """The distinct scores of the kept intervals, rising."""
        self.settle()
        return self._distinct

    def add(self, scores: Any) -> None:
        """Count finite scores, `(num_scores,)`; a NumPy array or a tensor on another device."""
        if not len(scores):
            return
        self.least, self.most = min(self.least, float(scores.min())), max(self.most, float(scores.max()))
        if isinstance(scores, torch.Tensor):
            edges, keep = (
                torch.from_numpy(a).to(scores.device) for a in (self.brackets.edges, self.brackets.keep)
            )
            interval = torch.bucketize(scores, edges, right=True)
            self.counts += torch.bincount(interval, minlength=len(self.counts)).cpu().numpy()
            self._keep(scores[keep[interval]].cpu().numpy())
        else:
            self._walk(scores)
        if self._num_pending > max(_LEAST_PENDING, len(self._distinct)):
            self.settle()

    def _walk(self, scores: np.ndarray) -> None:
        """Edge by edge, leaving behind what lies below."""
        edges, keep = self.brackets.edges, self.brackets.keep
        # `rest` holds all `num_rest` scores from edge place - 1 up, and less than as many again below it.
        rest, num_rest, place = scores, len(scores), 0
        while place < len(edges) and num_rest > _FEW:
            above = rest >= edges[place]
            num_above = int(np.count_nonzero(above))
            self.counts[place] += num_rest - num_above
            if keep[place] and num_above < num_rest:
                inside = ~above
                if place:
                    inside &= rest >= edges[place - 1]
                self._keep(rest[inside])
            if 2 * num_above < len(rest):
                rest = rest[above]
            num_rest, place = num_above, place + 1
        if len(rest) > num_rest:
            rest = rest[rest >= edges[place - 1]]
        if place == len(edges):
            self.counts[place] += num_rest
            if keep[place]:
                self._keep(rest.copy())
        else:
            interval = self.brackets.interval_of(rest)
            self.counts += np.bincount(interval, minlength=len(self.counts))
            self._keep(rest[keep[interval]])

    def _keep(self, scores: np.ndarray) -> None:
        self._pending.append(scores)
        self._num_pending += len(scores)

    def settle(self) -> None:
        """Sort what has come in, and count what is equal."""
        if self._num_pending:
            fresh = np.sort(np.concatenate(self._pending))
            starts = np.flatnonzero(np.append(True, fresh[1:] != fresh[:-1]))
            self._unite(fresh[starts], np.diff(np.append(starts, len(fresh))))
        self._pending, self._num_pending = [], 0

    def _unite(self, distinct: np.ndarray, repeats: np.ndarray) -> None:
        places = np.searchsorted(self._distinct, distinct)
        found = np.append(self._distinct, np.float32(np.nan))[places] == distinct
        self._repeats[places[found]] += repeats[found]
        new = ~found
        self._distinct = np.insert(self._distinct, places[new], distinct[new])
        self._repeats = np.insert(self._repeats, places[new], repeats[new])

    def below(self, thresholds: np.ndarray) -> np.ndarray:
        """How many scores lie below each threshold, all of which the brackets must know."""
        self.settle()
        interval = self.brackets.interval_of(thresholds)
        below_interval = np.append(0, np.cumsum(self.counts))[interval]
        kept_below = np.append(0, np.cumsum(self._repeats))
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

    def merge(self, other: Tally) -> Tally:
        """The scores of both, which have the same brackets."""
        merged = self.recount(self.brackets)
        merged.counts = self.counts + other.counts
        merged._unite(other.kept_scores, other._repeats)
        merged.least, merged.most = min(self.least, other.least), max(self.most, other.most)
        return merged

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
