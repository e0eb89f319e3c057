"""Covariances and the eigendecomposition that several alignment losses stand on."""

from __future__ import annotations

import torch
from torch import Tensor


def covariance(batch: Tensor) -> Tensor:
    """Unbiased covariance `(dim, dim)` of the rows; zero for a single row.

    The mean is summed in float64, so that the covariance of constant float32 rows is exactly zero.
    """
    centred = batch - batch.mean(dim=0, dtype=torch.float64).to(batch.dtype)
    return centred.T @ centred / max(len(batch) - 1, 1)


def covariance_distance(first: Tensor, second: Tensor) -> Tensor:
    """‖A − B‖²_F / (4 d²) of two `(d, d)` matrices, CORAL's measure."""
    return (first - second).square().sum() / (4 * len(first) ** 2)


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors (columns) of a symmetric matrix, in float64 and without a graph.

    NaN where the matrix is not finite, so that a diverged batch shows in the loss instead of stopping the run in
    LAPACK.
    """
    matrix = matrix.detach().double()
    if not matrix.isfinite().all():
        return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
    return torch.linalg.eigh(matrix)
