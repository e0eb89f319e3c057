"""Whitening by principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spkadapt.backend.checks import check_embeddings
from spkadapt.backend.covariance import shrunk_covariance, whiten_range
from spkadapt.backend.projection import Projection, fix_signs
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


class Whitening(Projection):
    """y = Λ^(−½) Vᵀ (x − mean), with covariance V Λ Vᵀ: uncorrelated, of unit variance, from most to least.

    Directions in which the embeddings do not vary are left out: those of constant or repeated dimensions, and, of
    fewer embeddings than dimensions, all but num_embeddings − 1. With any shrinkage none is.

    Args:
        dim: how many of the directions of most variance to keep; None for all.
        shrinkage: see `shrunk_covariance`.
    """

    def __init__(self, dim: int | None = None, shrinkage: float | str = 0.0) -> None:
        self.dim = dim
        self.shrinkage = shrinkage

    def fit(self, embeddings: np.ndarray, labels: np.ndarray | None = None) -> Self:
        """Learn mean and covariance; `labels` are not used.

        Shape:
            embeddings: `(num_embeddings, dim)`

        Raises:
            InputError: bad embeddings, fewer than two or all equal, a `dim` that is not from 1 to the number of
                directions in which they vary, or a bad shrinkage.
        """
        embeddings = check_embeddings(embeddings)
        if len(embeddings) < 2:
            raise InputError(f"expected at least two embeddings to whiten by, found {len(embeddings)}")
        self.mean_ = embeddings.mean(axis=0)
        whiten, _ = whiten_range(shrunk_covariance(embeddings - self.mean_, self.shrinkage))
        if self.dim is not None and not 1 <= self.dim <= len(whiten):
            message = f"expected to whiten to 1 up to {len(whiten)} dimensions"
            raise InputError(f"{message}, as many as these embeddings vary in, found {self.dim}")
        self.projection_ = fix_signs(whiten[: self.dim])
        return self
