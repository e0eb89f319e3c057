"""Within-class covariance normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spkadapt.backend.checks import check_embeddings, require_repeated
from spkadapt.backend.covariance import class_residuals, floored_eigen, shrunk_covariance
from spkadapt.backend.projection import FLOOR, Projection

if TYPE_CHECKING:
    from typing_extensions import Self


class Wccn(Projection):
    """y = W^(−½) x, W the covariance of embeddings within classes (Hatch, Kajarekar & Stolcke, 2006).

    Directions in which the embeddings of one speaker differ most count least in the inner product. The symmetric
    root, of all that give this inner product, moves the embeddings least. It does not centre.

    Args:
        shrinkage: see `shrunk_covariance`; at 1 only a factor remains. Eigenvalues of W below `FLOOR` times the
            largest, as of fewer embeddings than dimensions or constant ones, are raised to it.
    """

    def __init__(self, shrinkage: float | str = 0.0) -> None:
        self.shrinkage = shrinkage

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn W. Classes need not be speakers: those of the same call will do.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two classes, none of two or more
                embeddings, or none in which embeddings differ, or a bad shrinkage.
        """
        residuals, means, counts = class_residuals(check_embeddings(embeddings), labels)
        require_repeated(counts)
        eigenvalues, vectors = floored_eigen(shrunk_covariance(residuals, self.shrinkage), FLOOR)
        self.mean_ = np.zeros(means.shape[1])
        self.projection_ = (vectors / np.sqrt(eigenvalues)) @ vectors.T
        return self
