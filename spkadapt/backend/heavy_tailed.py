"""Heavy-tailed PLDA (Kenny, 2010), with fast training and scoring (Silnova, Brümmer, Garcia-Romero, Snyder &
Burget, Interspeech 2018): PLDA that gives an utterance less say, the less its embedding looks like any speaker's.

    y ~ N(mean, between)      λ ~ Gamma(ν/2, ν/2)      x | y, λ ~ N(y, within/λ)

Every utterance has a precision λ of its own, so that x is Student-t about its speaker, with ν degrees of freedom;
ν = ∞ is Gaussian PLDA. `between` has a rank d below the D of the embeddings. In the basis T where within = I and
between = diag(ψ), the first d dimensions of z = T(x − mean) tell of the speaker, and the other D − d only of how
far off the utterance lies: as a function of y, p(x | y) is Student-t with ν + D − d degrees of freedom, nearly

    N(y | z, I/b),      b = (ν + D − d) / (ν + Σ_{k>d} z_k²),

so that an utterance counts as b Gaussian ones. It does without length normalisation, a rougher means to the same
end. With a = Σ b√ψ z and s = Σ b over a model's utterances, scores come from

    log E(a, s) = ½ Σ_k [a_k² / (1 + sψ_k) − log(1 + sψ_k)]      as      LLR = log E(e ∪ t) − log E(e) − log E(t).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions, require_repeated
from spkadapt.backend.covariance import TwoCovariance, class_statistics, number_classes, sum_by_class, whiten_range
from spkadapt.backend.heavy_tailed_em import fit_heavy_tailed, reduce_rank
from spkadapt.backend.plda_em import match_moments
from spkadapt.backend.plda_scoring import LEAST_PSI, diagonalise
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

# How near the Chebyshev series of a score comes to it, relative to its terms: float32 holds no more.
PRECISION = 1e-8
# Scores are computed in squares of this side: the sums on the way to them stay in the processor's cache.
TILE = 512


class HeavyTailedPlda(Scorer, BaseEstimator):
    """Heavy-tailed PLDA. The utterances of a model count by the book, each as much as its b.

    As in `Plda`, fewer embeddings than dimensions, speakers with a single one, constant dimensions and duplicates
    are well defined.

    Args:
        speaker_dim: d, the rank of `between`; below that of the embeddings' covariance unless ν = ∞.
        degrees_of_freedom: ν, above 0; `np.inf` for Gaussian PLDA.
        num_iterations: of variational EM.
        floor: the least share of the variance in any direction that is taken to be within speakers.

    Attributes:
        mean_, between_, within_: the model.
        transform_: T.
        psi_: ψ, the variance between over that within speakers, in the first dimensions of T.
        bounds_: the bound on the log-likelihood that EM climbs, per embedding, in nats, before each iteration and
            at the end; it never falls. Where ν = ∞ it is the log-likelihood. Set by `fit` only.

    Shape:
        mean_: `(dim,)`
        between_, within_: `(dim, dim)`
        transform_: `(rank, dim)`, where rank is that of between + within
        psi_: `(speaker_dim,)`, falling; shorter where `between` has less rank
        bounds_: `(num_iterations + 1,)`
    """

    mean_: np.ndarray
    between_: np.ndarray
    within_: np.ndarray
    transform_: np.ndarray
    psi_: np.ndarray
    bounds_: np.ndarray

    def __init__(
        self,
        speaker_dim: int = 100,
        degrees_of_freedom: float = 2.0,
        num_iterations: int = 20,
        floor: float = 1e-4,
    ) -> None:
        self.speaker_dim = speaker_dim
        self.degrees_of_freedom = degrees_of_freedom
        self.num_iterations = num_iterations
        self.floor = floor

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn the model by variational EM, started from matched moments.

        It works where the total covariance is the identity, so that the result moves with any invertible linear
        map of the embeddings.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`, the speaker of each

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two speakers, no speaker with two
                embeddings, embeddings that are all equal, or a setting out of its range.
        """
        embeddings = check_embeddings(embeddings)
        statistics = class_statistics(embeddings, labels)
        require_repeated(statistics.counts)
        whiten, colour = whiten_range(statistics.total)
        self._check_settings(len(whiten))
        whitened = (embeddings - statistics.mean) @ whiten.T
        numbers, _ = number_classes(labels, len(embeddings))
        start = match_moments(class_statistics(whitened, numbers), self.floor)
        model, bounds = fit_heavy_tailed(
            whitened,
            numbers,
            reduce_rank(start, self.speaker_dim),
            speaker_dim=self.speaker_dim,
            degrees_of_freedom=self.degrees_of_freedom,
            num_iterations=self.num_iterations,
            floor=self.floor,
        )
        mean = statistics.mean + colour @ model.mean
        self._set_model(TwoCovariance(mean, *(colour @ c @ colour.T for c in (model.between, model.within))))
        self.bounds_ = bounds / len(embeddings) + np.linalg.slogdet(whiten @ whiten.T)[1] / 2
        return self

    @classmethod
    def from_model(cls, model: TwoCovariance, *, speaker_dim: int = 100, degrees_of_freedom: float = 2.0) -> Self:
        """A backend that scores with a model found elsewhere, its `between` reduced to rank `speaker_dim`.

        Raises:
            InputError: the total covariance is not positive semi-definite, or zero, or a setting out of its range.
        """
        plda = cls(speaker_dim, degrees_of_freedom)
        plda._set_model(model)
        return plda

    @property
    def model_(self) -> TwoCovariance:
        """Mean and covariances together, as methods of adaptation take them."""
        check_fitted(self, "psi_")
        return TwoCovariance(self.mean_, self.between_, self.within_)

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """a and s of each model side by side, and −log E(a, s); as in `Scorer`.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or bad model numbers.
        """
        check_fitted(self, "psi_")
        embeddings = check_embeddings(embeddings, len(self.mean_))
        models, counts = count_sessions(model_of, len(embeddings))
        z = (embeddings - self.mean_) @ self.transform_.T
        speaking, rest = np.split(z, [len(self.psi_)], axis=1)
        precisions = self._precisions(np.square(rest).sum(axis=1), rest.shape[1])[:, None]
        natural = sum_by_class(
            np.hstack([precisions * np.sqrt(self.psi_) * speaking, precisions]), models, len(counts)
        )
        growth = 1 + natural[:, -1:] * self.psi_
        offsets = (np.log(growth) - natural[:, :-1] ** 2 / growth).sum(axis=1) / 2
        return Side(torch.from_numpy(natural).float(), torch.from_numpy(offsets).float())

    def test_side(self, embeddings: np.ndarray) -> Side:
        """The same of each utterance: the score does not tell its sides apart.

        Raises:
            InputError: before `fit`, or bad embeddings or another `dim`.
        """
        return self.enrol_side(embeddings)

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        """The log-likelihood ratio of every pair, as a few matrix products.

        What multiplies a_e and a_t depends on a pair through s = s_e + s_t alone, and smoothly. Its Chebyshev
        series in log s, over the range of the block, parts s from the dimensions, so that each order is one matrix
        product, and Clenshaw's recurrence sums them. Where all s agree, as for ν = ∞, there is a single order.
        """
        if not len(enrol) or not len(test):
            return enrol.vectors.new_empty(len(enrol), len(test))
        low, high = (
            float(extreme(enrol.vectors[:, -1]) + extreme(test.vectors[:, -1]))
            for extreme in (torch.min, torch.max)
        )
        series = torch.from_numpy(chebyshev_series(self.psi_, low, high)).to(enrol.vectors)
        scores = enrol.vectors.new_empty(len(enrol), len(test))
        for left in range(0, len(test), TILE):
            columns = slice(left, left + TILE)
            tile = SeriesTile(test.rows(columns), series, low, high)
            for top in range(0, len(enrol), TILE):
                rows = slice(top, top + TILE)
                scores[rows, columns] = tile.score(enrol.rows(rows))
        return scores

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        """The log-likelihood ratio of each row with the same row."""
        natural = enrol.vectors + test.vectors
        growth = torch.addcmul(
            torch.ones_like(natural[:, :-1]), natural[:, -1:], torch.from_numpy(self.psi_).to(natural)
        )
        terms = natural[:, :-1].square_().div_(growth).sub_(growth.log())
        return terms.sum(dim=1).div_(2).add_(enrol.offsets).add_(test.offsets)

    def _precisions(self, distances: np.ndarray, num_rest: int) -> np.ndarray:
        """b of each utterance, given how far off it lies in the dimensions that tell nothing of the speaker."""
        nu = self.degrees_of_freedom
        return np.ones_like(distances) if np.isinf(nu) else (nu + num_rest) / (nu + distances)

    def _check_settings(self, rank: int) -> None:
        nu = self.degrees_of_freedom
        if not nu > 0 or self.num_iterations < 0 or not 0 < self.floor < 1:
            expected = "degrees_of_freedom above 0, num_iterations of at least 0 and a floor between 0 and 1"
            raise InputError(f"expected {expected}, found {nu}, {self.num_iterations} and {self.floor}")
        most = rank if np.isinf(nu) else rank - 1
        if not 1 <= self.speaker_dim <= most:
            why = "" if np.isinf(nu) else ", so that some are left to tell how far off an utterance lies"
            raise InputError(
                f"expected a speaker_dim from 1 to {most} for embeddings that vary in {rank} dimensions{why}; "
                f"found {self.speaker_dim}"
            )

    def _set_model(self, model: TwoCovariance) -> None:
        transform, psi = diagonalise(model)
        self._check_settings(len(transform))
        psi = psi[: self.speaker_dim]
        self.transform_, self.psi_ = transform, psi[psi > LEAST_PSI]
        loadings = model.within @ transform[: len(self.psi_)].T
        self.mean_, self.between_, self.within_ = model.mean, (loadings * self.psi_) @ loadings.T, model.within


def chebyshev_series(psi: np.ndarray, low: float, high: float) -> np.ndarray:
    """The series in log s of ½/(1 + sψ) for each ψ, and in a last column of −½ Σ log(1 + sψ).

    Both have their nearest singularities at log s = −log ψ ± iπ, so that an ellipse of Bernstein's that reaches as
    far from the real line bounds the error (Trefethen, Approximation Theory and Practice, 2013, theorem 8.2).

    Args:
        low, high: the range of s.

    Shape:
        psi: `(speaker_dim,)`
        returns `(num_orders, speaker_dim + 1)`
    """
    half_width = np.log(high / low) / 2
    num_orders = 1
    if half_width > 0:
        reach = np.pi / half_width
        num_orders = 2 + int(np.ceil(np.log(1 / PRECISION) / np.log(reach + np.hypot(reach, 1))))
    nodes = np.cos(np.pi * (np.arange(num_orders) + 0.5) / num_orders)
    growth = 1 + np.exp(np.log(low * high) / 2 + half_width * nodes)[:, None] * psi
    values = np.hstack([1 / growth, -np.log(growth).sum(axis=1, keepdims=True)]) / 2
    series = scipy.fft.dct(values, axis=0) / num_orders
    series[0] /= 2
    return series


class SeriesTile:
    """Test utterances, ready to be scored by the Chebyshev series of `chebyshev_series`."""

    def __init__(self, test: Side, series: Tensor, low: float, high: float) -> None:
        natural = test.vectors[:, :-1]
        self.vectors = [(2 * order * natural).T for order in series[:, :-1]]
        self.constants = torch.addmm(series[:, -1:], series[:, :-1], natural.square().T)
        self.constants[0] += test.offsets
        self.sums = test.vectors[:, -1]
        self.squares = series[:, :-1].T
        self.centre, self.half_width = math.log(low * high) / 2, math.log(high / low) / 2

    def score(self, enrol: Side) -> Tensor:
        """The scores of every row of `enrol`, by Clenshaw's recurrence over the orders of the series."""
        natural = enrol.vectors[:, :-1]
        constants = natural.square() @ self.squares
        constants[:, 0] += enrol.offsets

        def order(k: int) -> Tensor:
            return torch.addmm(self.constants[k], natural, self.vectors[k]).add_(constants[:, k, None])

        if len(self.vectors) == 1:
            return order(0)
        x = (enrol.vectors[:, -1:] + self.sums).log_().sub_(self.centre).div_(self.half_width)
        last, before = order(len(self.vectors) - 1), torch.zeros_like(x)
        for k in range(len(self.vectors) - 2, 0, -1):
            last, before = order(k).addcmul_(x, last, value=2).sub_(before), last
        return order(0).addcmul_(x, last).sub_(before)
