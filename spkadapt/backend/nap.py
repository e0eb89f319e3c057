"""Nuisance attribute projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from spkadapt.backend.checks import check_embeddings, require_repeated
from spkadapt.backend.covariance import NO_VARIANCE, class_statistics
from spkadapt.backend.projection import Projection
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


class Nap(Projection):
    """y = (I − U Uᵀ) x, U the directions in which embeddings of one class differ most (Solomonoff et al., 2005).

    The result has as many dimensions as before, and none of the variance along U. It does not centre.

    Args:
        num_directions: how many to remove.
    """

    def __init__(self, num_directions: int = 1) -> None:
        self.num_directions = num_directions

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn U, the leading eigenvectors of the covariance within classes.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two classes, none of two or more
                embeddings, or `num_directions` not from 1 to the number of those in which classes vary, of which
                one must remain.
        """
        statistics = class_statistics(check_embeddings(embeddings), labels)
        require_repeated(statistics.counts)
        eigenvalues, vectors = scipy.linalg.eigh(statistics.scatter)
        dim = len(eigenvalues)
        most = min(int((eigenvalues > NO_VARIANCE * eigenvalues[-1]).sum()), dim - 1)
        if not 1 <= self.num_directions <= most:
            message = f"expected to remove 1 up to {most} of {dim} directions"
            raise InputError(f"{message}, of those in which classes vary, found {self.num_directions}")
        nuisance = vectors[:, dim - self.num_directions :]
        self.mean_ = np.zeros(dim)
        self.projection_ = np.eye(dim) - nuisance @ nuisance.T
        return self
