"""The exact log-likelihood ratio of the two-covariance model, as one matrix product and rank-one terms.

In the basis T where W is the identity and B = diag(ψ), dimensions are independent. For z, the mean of a model's n
enrolment utterances, and t, a test utterance, both transformed (Ioffe, 2006):

    LLR = log p(t | z, n) − log p(t) = Σ_d [ nψ z t / (1 + (n+1)ψ)
          − ½ (nψ)² z² / ((1 + nψ)(1 + (n+1)ψ)) − ½ nψ² t² / ((1 + ψ)(1 + (n+1)ψ))
          + ½ log((1 + ψ)(1 + nψ) / (1 + (n+1)ψ)) ]

The term in t² depends on n: with n the same for all it is an offset of the test side, else t² goes beside t into
the vectors, and the matrix product is twice as wide.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg
import torch
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions
from spkadapt.backend.covariance import TwoCovariance, class_statistics, sum_by_class, whiten_range
from spkadapt.backend.plda_em import log_likelihood
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError, suggest

ENROLMENTS = ("average", "by-the-book")
# ψ, between over within: a dimension of less says nothing about speakers that float32 could hold.
LEAST_PSI = 1e-9
# The least share of the variance within speakers: a model that has less would be sure beyond float32.
LEAST_WITHIN = 1e-8
# Embeddings transformed at a time: their float64 intermediates stay small however long the list.
_BLOCK_ROWS = 1 << 13


def diagonalise(model: TwoCovariance) -> tuple[np.ndarray, np.ndarray]:
    """T and ψ of a model, T·within·Tᵀ = I and T·between·Tᵀ = diag(ψ), whatever its ranks.

    Found in the directions in which the model varies at all, from the share λ of the total variance that is within
    speakers, ψ = 1/λ − 1. Where that share is below `LEAST_WITHIN` it is raised to it, so that ψ is finite, and
    where the between-speaker variance is negative, as that of a difference may be, ψ is 0.

    Shape:
        returns T `(rank, dim)` and ψ `(rank,)`, falling; rank is that of `model.total`

    Raises:
        InputError: the total covariance is not positive semi-definite, or zero.
    """
    whiten, _ = whiten_range(model.total)
    shares, vectors = scipy.linalg.eigh(whiten @ model.within @ whiten.T)
    shares = np.maximum(shares, LEAST_WITHIN)
    return (vectors / np.sqrt(shares)).T @ whiten, np.maximum(1 / shares - 1, 0)


class GaussianPlda(Scorer, BaseEstimator):
    """What every PLDA with Gaussian speakers and utterances shares: scoring, and the likelihood of embeddings.

    A subclass estimates the model, and has the settings

        enrolment: "average" scores the mean of a model's utterances as if it were one utterance, which often does
            better in practice, as utterances are less independent than the model has it (Rajan et al., 2014);
            "by-the-book" is the exact ratio for so many, by a matrix product of twice the width. Both agree where
            each model has one utterance.
        normalise_length: scale each transformed vector to the length that the model expects of it, √rank with
            variances weighed: √(rank / Σ z² / (ψ + 1/n)), as Kaldi's `ivector-plda-scoring --normalize-length`.

    Attributes:
        mean_, between_, within_: the model.
        transform_, psi_: the basis T in which scores are computed, and between over within there.

    Shape:
        mean_: `(dim,)`
        between_, within_: `(dim, dim)`
        transform_: `(rank, dim)`
        psi_: `(rank,)`, falling
    """

    enrolment: str
    normalise_length: bool
    mean_: np.ndarray
    between_: np.ndarray
    within_: np.ndarray
    transform_: np.ndarray
    psi_: np.ndarray

    @property
    def model_(self) -> TwoCovariance:
        """Mean and covariances together, as methods of adaptation take them."""
        check_fitted(self, "psi_")
        return TwoCovariance(self.mean_, self.between_, self.within_)

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """The enrolment side, one row a speaker model; see `Scorer.enrol_side`.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or bad model numbers.
        """
        embeddings, psi = self._check(embeddings), self._speaking_psi()
        models, counts = count_sessions(model_of, len(embeddings))
        if model_of is not None and len(counts):
            embeddings = sum_by_class(embeddings, models, len(counts)) / counts[:, None]
        if self.enrolment == "average":
            counts = np.ones_like(counts)
        return _join([self._enrol_block(embeddings[rows], counts[rows], psi) for rows in _blocks(len(embeddings))])

    def test_side(self, embeddings: np.ndarray) -> Side:
        """The test side, one row an utterance. Under "average" it is `enrol_side` again.

        Raises:
            InputError: before `fit`, or bad embeddings or another `dim`.
        """
        embeddings, psi = self._check(embeddings), self._speaking_psi()
        return _join([self._test_block(embeddings[rows], psi) for rows in _blocks(len(embeddings))])

    def _enrol_block(self, means: np.ndarray, counts: np.ndarray, psi: np.ndarray) -> Side:
        z = self._latent(means, counts[:, None])[:, : len(psi)]
        scale, constant = _shares_of_test(psi)
        sizes, size_of = np.unique(counts, return_inverse=True)
        n = sizes[:, None]  # what depends on n alone is computed once for each
        more = 1 + (n + 1) * psi
        logarithms = np.log((1 + psi) * (1 + n * psi) / more).sum(axis=1) / 2 - constant
        squares = (n * psi) ** 2 / ((1 + n * psi) * more) / 2
        vectors = [(n * psi / (more * scale))[size_of] * z]
        if self.enrolment == "by-the-book":  # t² weighs so much less than for n = 1, which the test's offset has
            vectors.append((-(n - 1) * psi * scale**2 / (2 * more))[size_of])
        return _side(vectors, logarithms[size_of] - np.einsum("rd,rd->r", squares[size_of], z**2))

    def _test_block(self, embeddings: np.ndarray, psi: np.ndarray) -> Side:
        t = self._latent(embeddings, 1.0)[:, : len(psi)]
        scale, constant = _shares_of_test(psi)
        vectors = [scale * t, t**2] if self.enrolment == "by-the-book" else [scale * t]
        return _side(vectors, constant - t**2 @ (psi / (1 + psi) * scale**2) / 2)

    def log_likelihood(self, embeddings: np.ndarray, labels: np.ndarray) -> float:
        """log p(embeddings | who speaks in each) per embedding, in nats; of held-out ones, it compares models.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or not one label for each.
        """
        check_fitted(self, "psi_")
        statistics = class_statistics(check_embeddings(embeddings, len(self.mean_)), labels)
        return log_likelihood(statistics, self.mean_, self.transform_, self.psi_) / statistics.num_embeddings

    def _set_model(self, model: TwoCovariance) -> None:
        self.mean_, self.between_, self.within_ = model.mean, model.between, model.within
        self.transform_, self.psi_ = diagonalise(model)

    def _check(self, embeddings: np.ndarray) -> np.ndarray:
        check_fitted(self, "psi_")
        if self.enrolment not in ENROLMENTS:
            raise InputError(f'no enrolment "{self.enrolment}": {suggest(self.enrolment, ENROLMENTS)}')
        return check_embeddings(embeddings, len(self.mean_))

    def _speaking_psi(self) -> np.ndarray:
        """ψ of the leading dimensions that tell speakers apart; in others every term of a score is 0."""
        return self.psi_[self.psi_ > LEAST_PSI]

    def _latent(self, means: np.ndarray, counts: np.ndarray | float) -> np.ndarray:
        """The transformed means of so many utterances each, `(num_rows, 1)`, scaled where `normalise_length`."""
        latent = (means - self.mean_) @ self.transform_.T
        if not self.normalise_length:
            return latent
        lengths = (latent**2 / (self.psi_ + 1 / counts)).sum(axis=1, keepdims=True)
        if not lengths.all():
            raise InputError("cannot normalise the length of an embedding that is the model's own mean")
        return latent * np.sqrt(len(self.psi_) / lengths)


def _shares_of_test(psi: np.ndarray) -> tuple[np.ndarray, float]:
    """What the test side has of the factor of z t, and of the constant: half of each for n = 1.

    So both sides of a single utterance are the same, and float32 rounds scores alike whichever way round they are.
    """
    return np.sqrt(psi / (1 + 2 * psi)), np.log((1 + psi) ** 2 / (1 + 2 * psi)).sum() / 4


def _blocks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, max(num_rows, 1), _BLOCK_ROWS))


def _side(vectors: list[np.ndarray], offsets: np.ndarray) -> Side:
    return Side(torch.from_numpy(np.hstack(vectors)).float(), torch.from_numpy(offsets).float())


def _join(blocks: list[Side]) -> Side:
    return Side(torch.cat([block.vectors for block in blocks]), torch.cat([block.offsets for block in blocks]))
