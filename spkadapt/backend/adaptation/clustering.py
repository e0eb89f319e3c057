"""Sessions clustered into speakers by agglomeration, which stops where a model's likelihood is greatest."""

from __future__ import annotations

import numpy as np

from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.plda_scoring import diagonalise
from spkadapt.errors import InputError

MOST_SESSIONS = 10_000  # 400 MB of gains


def cluster_sessions(model: TwoCovariance, session_means: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """The number of the cluster of each session, from 0 in the order in which they first occur.

    Each session's mean is taken for one observation of the model. Where within = I and between = diag(ψ), and
    about the model's mean, a cluster of n observations with sum f adds to the log-likelihood, but for what all
    partitions share,

        Q(n, f) = ½ Σ_d [ψ_d · f_d² / (1 + n·ψ_d) − log(1 + n·ψ_d)]

    Merging a and b thus gains Q(a + b) − Q(a) − Q(b), the log-likelihood ratio of PLDA with several sessions a
    side. The pair that gains most is merged, until none gains more than `threshold`; at 0 that is where no merger
    raises the likelihood, and no label and no number of speakers is asked for. Memory is O(num_sessions²), time
    O(num_sessions² · dim) as a rule.

    Shape:
        session_means: `(num_sessions, dim)`
        returns `(num_sessions,)`

    Raises:
        InputError: more than `MOST_SESSIONS` sessions, or a model without any variance.
    """
    num_sessions = len(session_means)
    if num_sessions > MOST_SESSIONS:
        raise InputError(f"expected at most {MOST_SESSIONS} sessions to cluster, found {num_sessions}")
    transform, psi = diagonalise(model)
    clusters = _Clusters((session_means - model.mean) @ transform.T, psi)
    owners = np.arange(num_sessions)
    while (pair := clusters.best_pair(threshold)) is not None:
        kept, gone = pair
        clusters.merge(kept, gone)
        owners[owners == gone] = kept
    return np.unique(owners, return_inverse=True)[1]


class _Clusters:
    """The clusters alive, with the gain of every pair, and the best partner of each row among those after it."""

    def __init__(self, sums: np.ndarray, psi: np.ndarray) -> None:
        self.sums, self.psi = sums, psi
        self.counts = np.ones(len(sums))
        self.evidence = self._evidence(self.counts, sums)
        self.gains = self._pair_gains()
        self.partners = self.gains.argmax(axis=1)

    def _evidence(self, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        sizes, which = np.unique(counts, return_inverse=True)  # few: divide and take logarithms once for each
        scale = 1 + sizes[:, None] * self.psi
        fit = np.einsum("kd,kd,kd->k", sums, sums, (self.psi / scale)[which])
        return (fit - np.log(scale).sum(axis=1)[which]) / 2

    def _pair_gains(self) -> np.ndarray:
        """The gain of each pair of single observations, above the diagonal: a matrix product."""
        scaled = self.sums * np.sqrt(self.psi / (1 + 2 * self.psi))
        apart = (scaled**2).sum(axis=1) / 2 - self.evidence - np.log1p(2 * self.psi).sum() / 4
        products = scaled.astype(np.float32) @ scaled.astype(np.float32).T
        apart = apart.astype(np.float32)
        products += apart[:, None]
        products += apart
        products[np.tri(len(scaled), dtype=bool)] = -np.inf
        return products

    def _gain(self, row: int, others: np.ndarray) -> np.ndarray:
        merged = self._evidence(self.counts[row] + self.counts[others], self.sums[row] + self.sums[others])
        return merged - self.evidence[row] - self.evidence[others]

    def best_pair(self, threshold: float) -> tuple[int, int] | None:
        """The pair whose merging gains most, the lower number first; None where none gains more than that."""
        rows = np.arange(len(self.gains))
        best = int(self.gains[rows, self.partners].argmax())
        partner = int(self.partners[best])
        return (best, partner) if self.gains[best, partner] > threshold else None

    def merge(self, kept: int, gone: int) -> None:
        """Make one of two clusters, `kept` before `gone`."""
        self.sums[kept] += self.sums[gone]
        self.counts[kept] += self.counts[gone]
        self.counts[gone] = 0
        self.evidence[kept] = self._evidence(self.counts[[kept]], self.sums[[kept]])[0]
        self.gains[gone], self.gains[:, gone] = -np.inf, -np.inf
        alive = np.flatnonzero(self.counts)
        others = alive[alive != kept]
        gains = self._gain(kept, others)
        after = others > kept
        self.gains[kept, others[after]] = gains[after]
        self.gains[others[~after], kept] = gains[~after]
        # A row's best partner is another now if it was one of the two, or is `kept` if that gains more.
        stale = np.union1d(np.flatnonzero(np.isin(self.partners, (kept, gone))), [kept, gone])
        self.partners[stale] = self.gains[stale].argmax(axis=1)
        before = others[~after]
        better = self.gains[before, kept] > self.gains[before, self.partners[before]]
        self.partners[before[better]] = kept
