"""PLDA with a speaker space of few dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from spkadapt.backend.checks import check_embeddings, require_repeated
from spkadapt.backend.covariance import (
    ClassStatistics,
    TwoCovariance,
    class_statistics,
    simultaneous_diagonalise,
    whiten_range,
)
from spkadapt.backend.plda_em import check_settings, floor_within, match_moments
from spkadapt.backend.plda_scoring import GaussianPlda
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


ESTIMATORS = ("em", "speechbrain")


class SimplifiedPlda(GaussianPlda):
    """x = mean + F h + ε, a speaker h ~ N(0, I) of `rank` factors, ε ~ N(0, Σ) (Kenny, 2010; Garcia-Romero &
    Espy-Wilson, 2011): the two-covariance model with between = F Fᵀ of low rank and within = Σ.

    F is determined up to a rotation of h. The mean is that of all embeddings. Directions in which embeddings do
    not vary take no part; see `Plda` for `floor`. Scores cost a matrix product of width `rank`.

    Args:
        rank: the number of speaker factors.
        estimator: "em" is EM with a minimum-divergence step each iteration, from a start of matched moments;
            "speechbrain" gives the scores of SpeechBrain's `PLDA`, whose start, F the leading eigenvectors of the
            total covariance, of unit length, and Σ that covariance, makes the result depend on the scale of the
            embeddings, and whose minimum divergence has a factor transposed, so that the likelihood may fall.
        num_iterations: steps of EM. "speechbrain" takes 10 there.
        floor: the least share of the variance in any direction that is within speakers.
        enrolment, normalise_length: see `GaussianPlda`.

    Attributes:
        factors_: F.

    Shape:
        factors_: `(dim, rank)`
    """

    factors_: np.ndarray

    def __init__(
        self,
        rank: int = 100,
        estimator: str = "em",
        num_iterations: int = 10,
        floor: float = 1e-4,
        enrolment: str = "average",
        normalise_length: bool = False,
    ) -> None:
        self.rank = rank
        self.estimator = estimator
        self.num_iterations = num_iterations
        self.floor = floor
        self.enrolment = enrolment
        self.normalise_length = normalise_length

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn the model from embeddings whose speakers are known.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two speakers, no speaker with two
                embeddings, embeddings that are all equal or vary in fewer directions than `rank`, or a setting out
                of its range.
        """
        check_settings(self.estimator, ESTIMATORS, self.num_iterations, self.floor)
        statistics = class_statistics(check_embeddings(embeddings), labels)
        require_repeated(statistics.counts)
        whiten, colour = whiten_range(statistics.total)
        if not 1 <= self.rank <= len(whiten):
            raise InputError(f"expected a rank from 1 to {len(whiten)}, as embeddings vary, found {self.rank}")
        whitened = statistics.project(whiten, origin=statistics.mean)
        if self.estimator == "em":
            factors, within = _match_moments(whitened, self.rank, self.floor)
        else:  # the total covariance is the identity here, and its eigenvectors of before are the axes
            factors, within = np.diag(1 / np.linalg.norm(colour, axis=0))[:, : self.rank], np.eye(len(whiten))
        for _ in range(self.num_iterations):
            factors, moments, within = _step(whitened, factors, within, self.floor)
            divergence = np.linalg.cholesky(moments)
            factors = factors @ (divergence if self.estimator == "em" else divergence.T)
        self.factors_ = colour @ factors
        between, within = self.factors_ @ self.factors_.T, colour @ within @ colour.T
        self._set_model(TwoCovariance(statistics.mean, between, within))
        return self


def _match_moments(whitened: ClassStatistics, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """F of the `rank` directions of most between-speaker variance in the start of `Plda`, and its Σ."""
    start = match_moments(whitened, floor)
    transform, psi = simultaneous_diagonalise(start.within, start.between)
    return start.within @ transform[:rank].T * np.sqrt(psi[:rank]), start.within


def _step(
    whitened: ClassStatistics, factors: np.ndarray, within: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of EM where the total covariance is the identity and the mean 0: F, the speakers' second moment, Σ.

    With A = Fᵀ Σ⁻¹ F = U diag(a) Uᵀ, h of a class of n embeddings has covariance U diag(1 / (1 + n a)) Uᵀ, so that
    one eigendecomposition serves classes of all sizes. With C = Σₖ E[hₖ] sₖᵀ, sₖ the sum of a class,

        F ← Cᵀ (Σₖ nₖ E[hₖ hₖᵀ])⁻¹      Σ ← I − F C / num_embeddings

    Minimum divergence is left to the caller: with L Lᵀ = Σₖ E[hₖ hₖᵀ] / num_classes, the second moment returned,
    F ← F L gives h the variance 1 that the model says it has, and the likelihood never falls.
    """
    counts = whitened.counts
    sums = counts[:, None] * whitened.means
    weighted = scipy.linalg.solve(within, factors, assume_a="pos")
    precisions, rotation = np.linalg.eigh(factors.T @ weighted)
    variances = 1 / (1 + counts[:, None] * precisions)
    speakers = (sums @ weighted @ rotation * variances) @ rotation.T
    moments = (speakers.T @ speakers + (rotation * variances.sum(axis=0)) @ rotation.T) / len(counts)
    moments_by_count = (speakers.T * counts) @ speakers + (rotation * (counts @ variances)) @ rotation.T
    cross = speakers.T @ sums
    factors = scipy.linalg.solve(moments_by_count, cross, assume_a="pos").T
    within = np.eye(len(within)) - factors @ cross / whitened.num_embeddings
    return factors, moments, floor_within(within, floor)
