"""Means and covariances of embeddings: what every linear backend and every adaptation of one is made of.

All in float64. Covariances are divided by the number of embeddings (maximum likelihood) unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from spkadapt.errors import InputError

LEDOIT_WOLF = "ledoit-wolf"
# An eigenvalue below this share of the largest is rounding: float64 leaves about dim · 1e-16.
NO_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class TwoCovariance:
    """The two-covariance model (Brümmer & de Villiers, 2010): y ~ N(mean, between), x | y ~ N(y, within).

    y is a speaker, x an embedding of one of his utterances. All that Gaussian PLDA needs.

    Shape:
        mean: `(dim,)`
        between, within: `(dim, dim)`, symmetric and positive semi-definite
    """

    mean: np.ndarray
    between: np.ndarray
    within: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The covariance of a single embedding, between + within."""
        return self.between + self.within


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """All that a Gaussian model of classes needs to know of labelled embeddings.

    Attributes:
        counts: how many embeddings each class has.
        means: the mean of each class.
        scatter: Σ (x − m)(x − m)ᵀ over all embeddings, m the mean of the embedding's class.

    Shape:
        counts: `(num_classes,)`
        means: `(num_classes, dim)`
        scatter: `(dim, dim)`
    """

    counts: np.ndarray
    means: np.ndarray
    scatter: np.ndarray

    @property
    def num_embeddings(self) -> int:
        """How many embeddings all classes have together."""
        return int(self.counts.sum())

    @property
    def mean(self) -> np.ndarray:
        """The mean of all embeddings."""
        return self.counts @ self.means / self.num_embeddings

    @property
    def between(self) -> np.ndarray:
        """The covariance of the class means, each counted as often as the class has embeddings."""
        centred = self.means - self.mean
        return (centred * self.counts[:, None]).T @ centred / self.num_embeddings

    @property
    def total(self) -> np.ndarray:
        """The covariance of all embeddings about their mean: scatter / num_embeddings + between."""
        return self.scatter / self.num_embeddings + self.between

    def project(self, projection: np.ndarray, origin: np.ndarray | float = 0.0) -> ClassStatistics:
        """The statistics of projection · (x − origin), `projection (new_dim, dim)`."""
        means = (self.means - origin) @ projection.T
        return ClassStatistics(self.counts, means, projection @ self.scatter @ projection.T)


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


def class_residuals(embeddings: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each embedding less the mean of its class, those means, and how many embeddings each class has.

    Shape:
        embeddings: `(num_embeddings, dim)`
        classes: `(num_embeddings,)`
        returns `(num_embeddings, dim)`, `(num_classes, dim)` and `(num_classes,)`

    Raises:
        InputError: not one class for each embedding.
    """
    numbers, counts = number_classes(classes, len(embeddings))
    means = sum_by_class(embeddings, numbers, len(counts)) / counts[:, None]
    return embeddings - means[numbers], means, counts


def class_statistics(embeddings: np.ndarray, classes: np.ndarray) -> ClassStatistics:
    """Counts, means and scatter of the classes.

    Raises:
        InputError: not one class for each embedding.
    """
    residuals, means, counts = class_residuals(embeddings, classes)
    return ClassStatistics(counts, means, residuals.T @ residuals)


def within_class_covariance(embeddings: np.ndarray, classes: np.ndarray, *, unbiased: bool = False) -> np.ndarray:
    """The covariance of embeddings about the mean of their class.

    Args:
        unbiased: divide by num_embeddings - num_classes, so that classes of few embeddings do not make it small.

    Raises:
        InputError: not one class for each embedding, or `unbiased` where every class has a single embedding.
    """
    statistics = class_statistics(embeddings, classes)
    freedom = statistics.num_embeddings - len(statistics.counts) * unbiased
    if not freedom:
        raise InputError("expected some class of two or more embeddings, found none")
    return statistics.scatter / freedom


def shrink(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """(1 − s) S + s (tr S / dim) I: drawn towards the multiple of the identity of the same trace."""
    dim = len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dim * np.eye(dim)


def shrunk_covariance(centred: np.ndarray, shrinkage: float | str) -> np.ndarray:
    """S = XᵀX / num_embeddings after `shrink`.

    Args:
        centred: X, embeddings less their mean, or less the mean of their class.
        shrinkage: s, or "ledoit-wolf" for the s of least expected squared error (Ledoit & Wolf, 2004, *A
            well-conditioned estimator for large-dimensional covariance matrices*):
            s = min(1, Σ‖xxᵀ − S‖² / num_embeddings² / ‖S − (tr S / dim) I‖²).

    Shape:
        centred: `(num_embeddings, dim)`
        returns `(dim, dim)`

    Raises:
        InputError: neither a number from 0 to 1 nor "ledoit-wolf".
    """
    sample = centred.T @ centred / len(centred)
    if isinstance(shrinkage, str) and shrinkage == LEDOIT_WOLF:
        # Σ‖xxᵀ − S‖² = Σ‖x‖⁴ − num_embeddings ‖S‖², without any of those matrices.
        fourth_powers = (np.einsum("nd,nd->n", centred, centred) ** 2).sum()
        error = (fourth_powers / len(centred) - (sample**2).sum()) / len(centred)
        distance = ((sample - shrink(sample, 1.0)) ** 2).sum()
        shrinkage = min(1.0, error / distance) if distance > 0 else 1.0
    if isinstance(shrinkage, str) or not 0 <= shrinkage <= 1:
        raise InputError(f'expected shrinkage to be from 0 to 1 or "{LEDOIT_WOLF}", found {shrinkage!r}')
    return shrink(sample, shrinkage)


def floored_eigen(covariance: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, falling, none below `floor` times the largest; and their vectors, as columns.

    A covariance estimated from too few embeddings, or from constant or repeated dimensions, has eigenvalues of
    zero, and rounding makes them slightly negative: to divide by those would be to trust directions in which
    nothing was ever seen.

    Raises:
        InputError: the largest eigenvalue is not positive, so that there is nothing to measure the floor by.
    """
    eigenvalues, vectors = scipy.linalg.eigh(covariance)
    if not eigenvalues[-1] > 0:
        raise InputError("expected embeddings that differ within their classes, found a covariance of zero")
    return np.maximum(eigenvalues, floor * eigenvalues[-1])[::-1], vectors[:, ::-1]


def whiten_range(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which there is variance at all, scaled to unit variance, and the way back.

    P·covariance·Pᵀ = I and Q = P⁺, so that Q·Qᵀ = covariance. Directions of less than `NO_VARIANCE` of the largest
    eigenvalue are rounding, and are left out.

    Shape:
        covariance: `(dim, dim)`
        returns P `(rank, dim)`, from most to least variance, and Q `(dim, rank)`

    Raises:
        InputError: a negative eigenvalue beyond rounding, or none that is positive.
    """
    eigenvalues, vectors = scipy.linalg.eigh(covariance)
    least = NO_VARIANCE * eigenvalues[-1]
    if eigenvalues[0] < -least or not eigenvalues[-1] > 0:
        found = f"found eigenvalues from {eigenvalues[0] + 0.0:.3g} to {eigenvalues[-1]:.3g}"
        raise InputError(f"expected a positive semi-definite covariance that is not zero, {found}")
    kept = np.flatnonzero(eigenvalues > least)[::-1]
    deviations, vectors = np.sqrt(eigenvalues[kept]), vectors[:, kept]
    return (vectors / deviations).T, vectors * deviations


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
