"""An affine map as a step of a backend: what a feature adaptation does to the embeddings of the target domain."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from spkadapt.backend.adaptation.interface import AffineMap
from spkadapt.backend.checks import check_embeddings, check_fitted


class Affine(BaseEstimator):
    """x → matrix · x + offset.

    Shape:
        matrix_: `(new_dim, dim)`
        offset_: `(new_dim,)`
    """

    matrix_: np.ndarray
    offset_: np.ndarray

    @classmethod
    def from_map(cls, affine: AffineMap) -> Affine:
        """The step that does what a feature adaptation's map does."""
        step = cls()
        step.matrix_, step.offset_ = affine.matrix, affine.offset
        return step

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """Map `embeddings (num_embeddings, dim)`, in float64 inside and in the type they came in.

        Raises:
            InputError: before `from_map`, bad embeddings, or another `dim`.
        """
        check_fitted(self, "matrix_")
        checked = check_embeddings(embeddings, self.matrix_.shape[1])
        mapped = checked @ self.matrix_.T + self.offset_
        return mapped.astype(np.asarray(embeddings).dtype, copy=False)
