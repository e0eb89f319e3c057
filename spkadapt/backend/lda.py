"""Linear discriminant analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from spkadapt.backend.checks import check_embeddings, require_repeated
from spkadapt.backend.covariance import ClassStatistics, class_residuals, floored_eigen, shrunk_covariance
from spkadapt.backend.projection import FLOOR, Projection, fix_signs
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


class Lda(Projection):
    """The directions of most variance between speakers for the variance within them (Fisher, 1936; Rao, 1948).

    With B the covariance of speaker means, each counted as often as the speaker has embeddings, W that within
    speakers and N = f (B + W) + (1 − f) W, the rows of P have P N Pᵀ = I and P B Pᵀ = diag(λ), λ falling. Rows are
    determined but for their signs, of which the largest entry's is made positive, and except among equal λ.

    Where W has no variance (constant dimensions, fewer embeddings than dimensions), eigenvalues of N below `FLOOR`
    times the largest are raised to it, as in Kaldi's `ivector-compute-lda`, whose projection this is.

    Args:
        dim: how many directions to keep, at most one less than speakers; None for as many.
        shrinkage: of W; see `shrunk_covariance`.
        total_covariance_factor: f. At 0 the result has unit covariance within speakers, at 1 in all; it scales the
            rows of P and does not turn them.

    Attributes:
        ratios_: λ.

    Shape:
        ratios_: `(dim,)`
    """

    ratios_: np.ndarray

    def __init__(
        self, dim: int | None = None, shrinkage: float | str = 0.0, total_covariance_factor: float = 0.0
    ) -> None:
        self.dim = dim
        self.shrinkage = shrinkage
        self.total_covariance_factor = total_covariance_factor

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn mean and directions.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two speakers, none with two or more
                embeddings, embeddings that are all equal, or a setting out of its range.
        """
        residuals, means, counts = class_residuals(check_embeddings(embeddings), labels)
        require_repeated(counts)
        factor, most = self.total_covariance_factor, min(len(counts) - 1, means.shape[1])
        if not 0 <= factor <= 1:
            raise InputError(f"expected total_covariance_factor to be from 0 to 1, found {factor}")
        if self.dim is not None and not 1 <= self.dim <= most:
            given = f"{len(counts)} speakers and embeddings of {means.shape[1]} dimensions"
            raise InputError(f"expected LDA to 1 up to {most} dimensions for {given}, found {self.dim}")
        within = shrunk_covariance(residuals, self.shrinkage)
        statistics = ClassStatistics(counts, means, within * len(residuals))
        eigenvalues, vectors = floored_eigen(within + factor * statistics.between, FLOOR)
        whiten = (vectors / np.sqrt(eigenvalues)).T
        ratios, directions = scipy.linalg.eigh(whiten @ statistics.between @ whiten.T)
        kept = slice(None, -1 - (most if self.dim is None else self.dim), -1)
        self.mean_ = statistics.mean
        self.ratios_ = ratios[kept].copy()
        self.projection_ = fix_signs(directions[:, kept].T @ whiten)
        return self

    @classmethod
    def from_kaldi(cls, matrix: np.ndarray) -> Self:
        """The projection in a matrix of Kaldi's `ivector-compute-lda`, which has no λ.

        Shape:
            matrix: `(new_dim, dim + 1)`, the last column the offset −P · mean

        Raises:
            InputError: not of that shape, or rows that depend on each other.
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.ndim != 2 or np.linalg.matrix_rank(matrix[:, :-1]) < len(matrix):
            found = f"{matrix.shape}" if matrix.ndim != 2 else f"rank below {len(matrix)}"
            raise InputError(f"expected a matrix (new_dim, dim + 1) of independent rows, found {found}")
        lda = cls(dim=len(matrix))
        lda.projection_ = matrix[:, :-1].copy()
        lda.mean_ = -np.linalg.pinv(lda.projection_) @ matrix[:, -1]
        return lda

    def to_kaldi(self) -> np.ndarray:
        """P and the offset −P · mean side by side, as `from_kaldi` takes them and `transform-vec` applies them."""
        return np.hstack([self.projection_, -(self.projection_ @ self.mean_)[:, None]])
