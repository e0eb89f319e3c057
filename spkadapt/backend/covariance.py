"""Means and covariances of embeddings: what every linear backend and every adaptation of one is made of.

All in float64. Covariances are divided by the number of embeddings (maximum likelihood) unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from spkadapt.errors import InputError


@dataclass(frozen=True, eq=False)
class TwoCovariance:
    """The two-covariance model (Brümmer & de Villiers, 2010): y ~ N(mean, between), x | y ~ N(y, within).

    y is a speaker, x an embedding of one of his utterances. All that Gaussian PLDA needs.

    Shape:
        mean: `(dim,)`
        between, within: `(dim, dim)`, symmetric and positive semi-definite, `within` definite for scoring
    """

    mean: np.ndarray
    between: np.ndarray
    within: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The covariance of a single embedding, between + within."""
        return self.between + self.within


def number_classes(classes: np.ndarray, num_embeddings: int) -> tuple[np.ndarray, np.ndarray]:
    """The class of each embedding as a number from 0, and how often each occurs.

    Shape:
        classes: `(num_embeddings,)`, of any type that sorts
        returns `(num_embeddings,)` and `(num_classes,)`

    Raises:
        InputError: not one class for each embedding.
    """
    classes = np.asarray(classes)
    if classes.shape != (num_embeddings,):
        raise InputError(f"expected one class for each of {num_embeddings} embeddings, found {classes.shape}")
    _, numbers, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return numbers, counts


def sum_by_class(embeddings: np.ndarray, numbers: np.ndarray, num_classes: int) -> np.ndarray:
    """The sum of the embeddings of each class, `(num_classes, dim)`, in float64."""
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(num_classes))
    return np.add.reduceat(embeddings[order].astype(np.float64), starts, axis=0)


def covariance(embeddings: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """The covariance of `embeddings (num_embeddings, dim)` about their mean, or about the one given."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    centred = embeddings - (embeddings.mean(axis=0) if mean is None else mean)
    return centred.T @ centred / len(centred)


def within_class_covariance(embeddings: np.ndarray, classes: np.ndarray, *, unbiased: bool = False) -> np.ndarray:
    """The covariance of embeddings about the mean of their class.

    Args:
        unbiased: divide by num_embeddings - num_classes, so that classes of few embeddings do not make it small.

    Raises:
        InputError: not one class for each embedding, or `unbiased` where every class has a single embedding.
    """
    numbers, counts = number_classes(classes, len(embeddings))
    residuals = embeddings - (sum_by_class(embeddings, numbers, len(counts)) / counts[:, None])[numbers]
    freedom = len(embeddings) - len(counts) if unbiased else len(embeddings)
    if not freedom:
        raise InputError("expected some class of two or more embeddings, found none")
    return residuals.T @ residuals / freedom


def simultaneous_diagonalise(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The basis in which `first` is the identity and `second` diagonal: T·first·Tᵀ = I, T·second·Tᵀ = diag(λ).

    Shape:
        first, second: `(dim, dim)`, symmetric, `first` positive definite
        returns T `(dim, dim)`, whose rows are directions, and λ `(dim,)`, falling

    Raises:
        InputError: `first` is not positive definite.
    """
    try:
        eigenvalues, vectors = scipy.linalg.eigh(second, first)
    except scipy.linalg.LinAlgError:
        least = scipy.linalg.eigvalsh(first)[0]
        raise InputError(f"expected a positive definite covariance, found least eigenvalue {least:.3g}") from None
    return vectors.T[::-1], eigenvalues[::-1]
