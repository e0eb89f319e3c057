"""Excess, roots and shrinkage against their definitions, where those can be computed and where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.backend.adaptation.regularise import covariance_excess, shrink, symmetric_power

DIM = 5


def random_covariance(seed: int, rank: int = DIM) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(DIM, rank))
    return factor @ factor.T


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_excess_is_the_definition(seed: int) -> None:
    """From LAPACK's generalised problem, whose basis makes `base` the identity and not the sum."""
    covariance, base = random_covariance(seed), random_covariance(seed + 5000) + 0.1 * np.eye(DIM)
    eigenvalues, vectors = scipy.linalg.eigh(covariance, base)
    back = np.linalg.inv(vectors.T)
    expected = back @ np.diag(np.maximum(0, eigenvalues - 1)) @ back.T
    np.testing.assert_allclose(covariance_excess(covariance, base), expected, atol=1e-8 * np.abs(covariance).max())


@given(st.integers(0, 1000), st.integers(1, DIM), st.integers(1, DIM))
@settings(max_examples=40, deadline=None)
def test_excess_dominates_both_whatever_their_ranks(seed: int, rank: int, base_rank: int) -> None:
    covariance, base = random_covariance(seed, rank), random_covariance(seed + 5000, base_rank)
    excess = covariance_excess(covariance, base)
    scale = np.linalg.norm(covariance) + np.linalg.norm(base)
    for difference in (excess, base + excess - covariance, covariance - excess + base):
        assert np.linalg.eigvalsh(difference)[0] > -1e-10 * scale
    np.testing.assert_array_equal(excess, excess.T)


def test_excess_follows_linear_maps() -> None:
    covariance, base = random_covariance(0, 3), random_covariance(1, 3)
    mixing = np.random.default_rng(2).normal(size=(DIM, DIM))
    mapped = covariance_excess(mixing @ covariance @ mixing.T, mixing @ base @ mixing.T)
    expected = mixing @ covariance_excess(covariance, base) @ mixing.T
    np.testing.assert_allclose(mapped, expected, atol=1e-9 * np.abs(expected).max())


def test_excess_of_simple_covariances() -> None:
    covariance, base = np.diag([4.0, 1.0, 2.0, 0.0]), np.diag([1.0, 3.0, 0.0, 0.0])
    np.testing.assert_allclose(covariance_excess(covariance, base), np.diag([3.0, 0.0, 2.0, 0.0]), atol=1e-14)
    np.testing.assert_array_equal(covariance_excess(np.zeros((2, 2)), np.zeros((2, 2))), np.zeros((2, 2)))


@pytest.mark.parametrize("exponent", [0.5, -0.5])
def test_symmetric_power(exponent: float) -> None:
    definite, singular = random_covariance(0), random_covariance(1, 2)
    expected = scipy.linalg.fractional_matrix_power(definite, exponent)
    np.testing.assert_allclose(symmetric_power(definite, exponent), expected, rtol=1e-9)
    root = symmetric_power(singular, exponent)
    whole = singular if exponent > 0 else np.linalg.pinv(singular, rcond=1e-10)
    np.testing.assert_allclose(root @ root, whole, atol=1e-10 * np.abs(whole).max())


@pytest.mark.parametrize("freedom", [3, 10, 1000])
def test_oracle_approximating_shrinkage(freedom: int) -> None:
    """Chen et al. (2010), eq. 23, written with traces in the space where `towards` is the identity."""
    samples = np.random.default_rng(freedom).normal(size=(freedom, DIM))
    sample = samples.T @ samples / freedom
    towards = random_covariance(0)
    root = scipy.linalg.sqrtm(towards)
    inverse = np.linalg.inv(root)
    s = inverse @ sample @ inverse
    numerator = (1 - 2 / DIM) * np.trace(s @ s) + np.trace(s) ** 2
    denominator = (freedom + 1 - 2 / DIM) * (np.trace(s @ s) - np.trace(s) ** 2 / DIM)
    rho = min(1, numerator / denominator)
    expected = root @ ((1 - rho) * s + rho * np.trace(s) / DIM * np.eye(DIM)) @ root
    np.testing.assert_allclose(shrink(sample, towards, freedom), expected, rtol=1e-8)
    assert 0 < rho < 1


def test_stated_shrinkage() -> None:
    covariance, towards = random_covariance(0), random_covariance(1)
    np.testing.assert_array_equal(shrink(covariance, towards, 9, 0.0), covariance)
    scale = np.trace(np.linalg.solve(towards, covariance)) / DIM
    np.testing.assert_allclose(shrink(covariance, towards, 9, 1.0), scale * towards, rtol=1e-9)


def test_the_same_shape_is_only_scaled() -> None:
    towards = random_covariance(0)
    for freedom in (0, 1, 100):
        np.testing.assert_allclose(shrink(3 * towards, towards, freedom), 3 * towards, rtol=1e-9)


def test_shrinkage_where_either_is_singular_or_zero() -> None:
    definite, singular, zero = random_covariance(0), random_covariance(1, 2), np.zeros((DIM, DIM))
    assert np.linalg.eigvalsh(shrink(singular, definite, 2))[0] > 0
    assert np.linalg.eigvalsh(shrink(definite, singular, 2, 0.5))[0] > 0
    np.testing.assert_array_equal(shrink(zero, definite, 2), zero)
    np.testing.assert_allclose(shrink(definite, zero, 2, 0.25), 0.75 * definite)


def test_one_dimension() -> None:
    np.testing.assert_allclose(shrink(np.array([[3.0]]), np.array([[2.0]]), 5), [[3.0]])
