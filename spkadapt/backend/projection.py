"""What every linear map of embeddings shares once it was fitted: y = P (x − mean)."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_embeddings, check_fitted

# Eigenvalues of a covariance to be inverted are raised to at least this share of the largest, as Kaldi's LDA does.
FLOOR = 1e-6


class Projection(BaseEstimator):
    """A fitted linear map; subclasses say how it is found.

    Attributes:
        mean_: what is subtracted first; zeros where the method does not centre.
        projection_: P.

    Shape:
        mean_: `(dim,)`
        projection_: `(new_dim, dim)`
    """

    mean_: np.ndarray
    projection_: np.ndarray

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """P (x − mean) of each embedding, in float64 inside and in the type they came in.

        Shape:
            embeddings: `(num_embeddings, dim)`
            returns `(num_embeddings, new_dim)`

        Raises:
            InputError: before `fit`, bad embeddings, or another `dim`.
        """
        check_fitted(self, "projection_")
        centred = check_embeddings(embeddings, len(self.mean_)) - self.mean_
        return (centred @ self.projection_.T).astype(np.asarray(embeddings).dtype, copy=False)


def fix_signs(rows: np.ndarray) -> np.ndarray:
    """Each row or its negative, whichever has a positive largest entry: eigenvectors leave that open."""
    largest = np.abs(rows).argmax(axis=1)
    signs = np.where(rows[np.arange(len(rows)), largest] < 0, -1.0, 1.0)
    # In the order that a file keeps, as products of another round differently.
    return np.ascontiguousarray(rows * signs[:, None])
