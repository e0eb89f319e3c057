"""What keeps an adapted covariance sound: excess over another, roots on the range, and shrinkage.

All of it holds where a covariance is singular, because there were fewer embeddings than dimensions or a
direction never varies.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from spkadapt.backend.covariance import NO_VARIANCE


def covariance_excess(covariance: np.ndarray, base: np.ndarray) -> np.ndarray:
    """By how much `covariance` exceeds `base`, in the directions in which it does: E ≥ 0.

    With T·base·Tᵀ = I and T·covariance·Tᵀ = diag(λ), E = T⁻¹ · diag(max(0, λ − 1)) · T⁻ᵀ, so that base + E is
    Γmax of the two (Wang, Okabe, Lee & Koshinaka, 2020): it loses variance in no direction. Computed in the basis
    of base + covariance = I, where the two are diag(1 − q) and diag(q): λ − 1 becomes 2q − 1, and neither need be
    definite. Follows invertible linear maps: M·covariance·Mᵀ over M·base·Mᵀ gives M·E·Mᵀ.

    Shape:
        covariance, base: `(dim, dim)`, symmetric and positive semi-definite
        returns `(dim, dim)`, likewise
    """
    values, vectors = _range(covariance + base)
    whiten, colour = vectors / np.sqrt(values), vectors * np.sqrt(values)
    shares, rotation = scipy.linalg.eigh(whiten.T @ covariance @ whiten)
    directions = colour @ rotation
    return symmetric((directions * np.maximum(0, 2 * shares - 1)) @ directions.T)


def symmetric_power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """The symmetric power of a covariance on its range, zero elsewhere: V · diag(λ^exponent) · Vᵀ.

    Shape:
        covariance, returns: `(dim, dim)`
    """
    values, vectors = _range(covariance)
    return symmetric((vectors * values**exponent) @ vectors.T)


def shrink(
    covariance: np.ndarray, towards: np.ndarray, freedom: int, shrinkage: float | None = None
) -> np.ndarray:
    """`covariance` drawn towards the shape of another: (1 − ρ) · covariance + ρ · c · towards.

    c = tr(towards⁻¹ · covariance) / dim gives the other its scale. Unless stated, ρ is the oracle approximating
    shrinkage of Gaussian samples (Chen, Wiesel, Eldar & Hero, 2010, eq. 23), taken where `towards` is the
    identity; so the result follows invertible linear maps. It is definite wherever `towards` is.

    Args:
        freedom: how many independent samples `covariance` amounts to.
        shrinkage: ρ, from 0 to 1.

    Shape:
        covariance, towards, returns: `(dim, dim)`
    """
    values, vectors = _range(towards)
    whiten = vectors / np.sqrt(values)
    ratio, rank = whiten.T @ covariance @ whiten, len(values)
    scale = np.trace(ratio) / max(rank, 1)
    if shrinkage is None:
        squares, isotropic = (ratio**2).sum(), rank * scale**2
        least = (1 - 2 / max(rank, 1)) * squares + rank * isotropic
        spread = (freedom + 1 - 2 / max(rank, 1)) * (squares - isotropic)
        shrinkage = 1.0 if spread <= least else float(least / spread)
    return (1 - shrinkage) * covariance + shrinkage * scale * towards


def symmetric(matrix: np.ndarray) -> np.ndarray:
    """The matrix without the rounding that made it asymmetric."""
    return (matrix + matrix.T) / 2


def _range(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues that are more than rounding, `(rank,)`, and their vectors, `(dim, rank)`."""
    values, vectors = scipy.linalg.eigh(covariance)
    kept = values > max(NO_VARIANCE * values[-1], 0)
    return values[kept], vectors[:, kept]
