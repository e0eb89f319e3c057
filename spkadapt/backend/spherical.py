"""Probabilistic spherical discriminant analysis, PSDA (Brümmer, Swart, Mošner, Silnova, Plchot, Stafylakis &
Burget, Interspeech 2022): PLDA for embeddings of unit length, with von Mises-Fisher in place of Gaussians.

    z ~ VMF(μ, b)       x | z ~ VMF(z, w)       VMF(x | m, κ) = C(κ) exp(κ mᵀx),   ‖x‖ = ‖z‖ = ‖m‖ = 1

z is a speaker, x an embedding of one of his utterances; b and w say how tightly speakers lie about μ, and
utterances about their speaker. All of it has closed forms, because the posterior of z is VMF too, along bμ + w Σx:

    p(x₁ … xₙ) = C(w)ⁿ C(b) / C(‖bμ + w Σx‖)

Densities here are with respect to the uniform distribution on the sphere, so that log C(κ) = −M(κ) with

    M(κ) = log E exp(κ mᵀx) = log(Γ(ν+1) (2/κ)^ν I_ν(κ)),   x uniform, ν = dim/2 − 1, and M(0) = 0.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions, require_repeated
from spkadapt.backend.covariance import number_classes, sum_by_class
from spkadapt.backend.normalise import length_normalise
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError

# From this order on, the terms of the uniform expansion that we take are good to about 1e-12.
LEAST_EXPANDED_ORDER = 64
# So many scores are computed at a time: their float64 intermediates stay in the processor's cache.
BLOCK = 1 << 16


def log_uniform_mean(dim: int, square: Tensor) -> Tensor:
    """M(κ): the log of the mean of exp(κ mᵀx) over the sphere in `dim` dimensions, of `square` = κ².

    Of J_ν = I_ν(κ)/κ^ν, large orders ν by the uniform asymptotic expansion, which neither overflows nor cancels at
    any κ (Olver; NIST Handbook, 2010, 10.41.3). Small ones from large ones, downwards, by the recurrence
    J_ν = 2(ν + 1) J_{ν+1} + κ² J_{ν+2}, all of whose terms are positive.

    Shape:
        square: any, float64, at least 0
        returns the same
    """
    order = dim / 2 - 1
    steps = max(0, math.ceil(LEAST_EXPANDED_ORDER - order))
    logarithm = _expand_log_bessel(order + steps, square)
    if steps:
        ratio = (_expand_log_bessel(order + steps + 1, square) - logarithm).exp_()  # J_{ν+1}/J_ν
        for step in range(steps, 0, -1):
            ratio = 1 / (2 * (order + step) + square * ratio)
            logarithm = logarithm - ratio.log()
    return logarithm.add_(order * math.log(2) + math.lgamma(order + 1))


def _expand_log_bessel(order: float, square: Tensor) -> Tensor:
    """log(I_ν(κ)/κ^ν) of a large order, in place where it can be: a score's time is spent here."""
    p = (square / order**2).add_(1).rsqrt_()
    p2 = p.square()
    # U_k(p)/p^k by Horner's scheme in p², then their sum by another in p/ν.
    u4 = p2.mul(185910725).sub_(446185740).mul_(p2).add_(349922430).mul_(p2).sub_(94121676).mul_(p2).add_(4465125)
    u3 = p2.mul(-425425).add_(765765).mul_(p2).sub_(369603).mul_(p2).add_(30375)
    u2 = p2.mul(385).sub_(462).mul_(p2).add_(81)
    u1 = p2.mul_(-5).add_(3)
    q = p / order
    total = u4.mul_(q).mul_(414720 / 39813120).add_(u3).mul_(q).mul_(1152 / 414720).add_(u2)
    total = total.mul_(q).mul_(24 / 1152).add_(u1).mul_(q).mul_(1 / 24).add_(1)
    root = p.reciprocal()  # √(1 + κ²/ν²)
    logarithm = total.mul_(p.sqrt_()).log_().add_(root, alpha=order).sub_(root.log1p_(), alpha=order)
    return logarithm.sub_(order * math.log(order) + math.log(2 * math.pi * order) / 2)


def mean_resultant(dim: int, concentration: float) -> float:
    """A(κ) = I_{ν+1}(κ)/I_ν(κ): the length of the mean of VMF(·, κ) in `dim` dimensions, from 0 to below 1."""
    square = torch.tensor(concentration**2, dtype=torch.float64)
    ratio = math.exp(float(log_uniform_mean(dim + 2, square) - log_uniform_mean(dim, square)))
    return concentration / dim * ratio


def invert_mean_resultant(dim: int, length: float) -> float:
    """The κ at which A(κ) = `length`: the maximum-likelihood concentration of unit vectors whose mean is so long.

    Brent's method, between the bounds that Amos' inequalities put on it (Hornik & Grün, 2014, eq. 11); where these
    are nearer to each other than rounding leaves A, one of them.
    """
    if length <= 0:
        return 0.0
    length = min(length, 1 - 1e-12)
    half = (dim - 1) / 2
    low, high = (
        length * (half + math.sqrt(half**2 * length**2 + b**2 * (1 - length**2))) / (1 - length**2)
        for b in (half, half + 1)
    )

    def excess(concentration: float) -> float:
        return mean_resultant(dim, concentration) - length

    if excess(low) >= 0:
        return low
    if excess(high) <= 0:
        return high
    return float(scipy.optimize.brentq(excess, low, high, xtol=1e-14 * low, rtol=1e-14))


class Psda(Scorer, BaseEstimator):
    """Probabilistic spherical discriminant analysis: log-likelihood ratios of the embeddings' directions.

    Embeddings are scaled to unit length here. Whether to centre them first is the user's choice: μ stands for a
    direction that all of them share, but not for a shift between two domains.

    Args:
        num_iterations: of EM, at most.
        tolerance: EM ends when the mean log-likelihood of an utterance rises by less, in nats.

    Attributes:
        mean_: μ.
        between_: b, the concentration of speakers about μ.
        within_: w, the concentration of utterances about their speaker.
        log_likelihoods_: mean log-likelihood of an utterance, before EM and after each iteration; never falls.

    Shape:
        mean_: `(dim,)`
        log_likelihoods_: `(num_iterations + 1,)`, or less
    """

    mean_: np.ndarray
    between_: float
    within_: float
    log_likelihoods_: np.ndarray

    def __init__(self, num_iterations: int = 500, tolerance: float = 1e-8) -> None:
        self.num_iterations = num_iterations
        self.tolerance = tolerance

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Psda:
        """Maximise the likelihood by EM.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`, the speaker of each

        Raises:
            InputError: embeddings that are not finite, have no direction or a single dimension; not one label for
                each; fewer than two speakers, none with two utterances, or none whose utterances differ; or a
                setting below 0.
        """
        if self.num_iterations < 0 or not self.tolerance >= 0:
            found = f"{self.num_iterations} and {self.tolerance}"
            raise InputError(f"expected num_iterations and a tolerance of at least 0, found {found}")
        directions = _directions(embeddings)
        numbers, counts = number_classes(labels, len(directions))
        require_repeated(counts)
        sums = sum_by_class(directions, numbers, len(counts))
        lengths = np.linalg.norm(sums, axis=1)
        if len(directions) - lengths.sum() <= 1e-12 * len(directions):
            raise InputError("expected some speaker's embeddings to differ in direction, found none that do")
        self._maximise(sums / np.maximum(lengths, 1e-300)[:, None], sums, counts)
        log_likelihoods = [self._log_likelihood(sums, counts)]
        for _ in range(self.num_iterations):
            self._maximise(self._posterior_means(sums), sums, counts)
            log_likelihoods.append(self._log_likelihood(sums, counts))
            if log_likelihoods[-1] - log_likelihoods[-2] < self.tolerance:
                break
        self.log_likelihoods_ = np.array(log_likelihoods)
        return self

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """bμ + w Σx of each model, and −M(‖bμ + w Σx‖) + M(b); several utterances by the book.

        Raises:
            InputError: before `fit`, or for embeddings or model numbers that it cannot use.
        """
        check_fitted(self, "mean_")
        directions = _directions(embeddings, len(self.mean_))
        models, counts = count_sessions(model_of, len(directions))
        speakers = self.between_ * self.mean_ + self.within_ * sum_by_class(directions, models, len(counts))
        return _side(speakers, self._log_mean_of(self.between_ * self.mean_) - self._log_mean_of(speakers))

    def test_side(self, embeddings: np.ndarray) -> Side:
        """wx of each utterance, and −M(‖bμ + wx‖).

        Raises:
            InputError: before `fit`, or for embeddings that it cannot use.
        """
        check_fitted(self, "mean_")
        scaled = self.within_ * _directions(embeddings, len(self.mean_))
        return _side(scaled, -self._log_mean_of(scaled + self.between_ * self.mean_))

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        """M(‖e + t‖) + M(b) − M(‖e‖) − M(‖bμ + t‖), of e = bμ + w Σx and t = wx.

        A matrix product gives eᵀt in float32, and M is taken of ‖e + t‖² = ‖e‖² + ‖t‖² + 2eᵀt in float64.
        """
        scores = enrol.vectors @ test.vectors.T
        lengths, columns = _squared_lengths(enrol), _squared_lengths(test)
        num_rows = max(1, BLOCK // max(1, len(test)))
        for start in range(0, len(enrol), num_rows):
            rows = slice(start, start + num_rows)
            squares = (lengths[rows, None] + columns).add_(scores[rows], alpha=2).clamp_(min=0)
            scores[rows] = self._log_mean(squares).add_(enrol.offsets[rows, None]).add_(test.offsets)
        return scores

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        """`score_block`, of each row with the same row alone."""
        products = torch.linalg.vecdot(enrol.vectors, test.vectors)
        squares = (_squared_lengths(enrol) + _squared_lengths(test)).add_(products, alpha=2).clamp_(min=0)
        return self._log_mean(squares).add_(enrol.offsets).add_(test.offsets).float()

    def _log_mean(self, squares: Tensor) -> Tensor:
        return log_uniform_mean(len(self.mean_), squares)

    def _log_mean_of(self, vectors: np.ndarray) -> np.ndarray:
        """M of the lengths of `vectors (n, dim)`."""
        return self._log_mean(torch.from_numpy(np.square(vectors).sum(axis=-1, keepdims=True)))[..., 0].numpy()

    def _posterior_means(self, sums: np.ndarray) -> np.ndarray:
        """E[z | x₁ … xₙ] of each speaker, given the sum of his embeddings: the E-step."""
        naturals = self.between_ * self.mean_ + self.within_ * sums
        squares = torch.from_numpy(np.square(naturals).sum(axis=1))
        dim = len(self.mean_)
        ratios = (log_uniform_mean(dim + 2, squares) - log_uniform_mean(dim, squares)).exp_() / dim  # A(κ)/κ
        return naturals * ratios.numpy()[:, None]

    def _maximise(self, speakers: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
        """The M-step, of the speakers' posterior means and the sums of their embeddings."""
        total = speakers.sum(axis=0)
        length = float(np.linalg.norm(total))
        dim = len(total)
        self.mean_ = total / length if length > 0 else np.eye(1, dim)[0]
        self.between_ = invert_mean_resultant(dim, length / len(counts))
        self.within_ = invert_mean_resultant(dim, max(0.0, float(np.vdot(speakers, sums)) / counts.sum()))

    def _log_likelihood(self, sums: np.ndarray, counts: np.ndarray) -> float:
        """The mean over utterances of log p, with respect to the uniform distribution on the sphere."""
        naturals = self.between_ * self.mean_ + self.within_ * sums
        within, between = self._log_mean(torch.tensor([self.within_, self.between_], dtype=torch.float64).square())
        joint = self._log_mean_of(naturals).sum() - len(counts) * float(between)
        return joint / float(counts.sum()) - float(within)


def _directions(embeddings: np.ndarray, dim: int | None = None) -> np.ndarray:
    embeddings = check_embeddings(embeddings, dim)
    if embeddings.shape[1] < 2:
        raise InputError(f"a sphere needs embeddings of two dimensions or more, found {embeddings.shape[1]}")
    return length_normalise(embeddings)


def _squared_lengths(side: Side) -> Tensor:
    return side.vectors.double().square_().sum(dim=1)


def _side(vectors: np.ndarray, offsets: np.ndarray) -> Side:
    return Side(torch.from_numpy(vectors).float(), torch.from_numpy(offsets).float())
