"""Maps of embeddings against the papers' equations, and what they must do to means and covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg

from spkadapt.backend.adaptation import (
    AffineMap,
    Coral,
    CoralPlusPlus,
    Dicn,
    Fda,
    Idvc,
    SourceStatistics,
    TargetStatistics,
)
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.normal(size=(70, 4)) @ RANDOM.normal(size=(4, 4)) + 2
TARGET = RANDOM.normal(size=(50, 4)) @ RANDOM.normal(size=(4, 4)) - 3
SUBSETS = np.arange(70) % 3
STATISTICS = SourceStatistics.from_embeddings(SOURCE, SUBSETS), TargetStatistics.from_embeddings(TARGET)
C_S, C_T = np.cov(SOURCE.T, bias=True), np.cov(TARGET.T, bias=True)
EXCESS_VALUES, EXCESS_VECTORS = scipy.linalg.eigh(C_T, C_S)


def gamma_max(scale: float = 1.0) -> np.ndarray:
    back = np.linalg.inv(EXCESS_VECTORS.T)
    return C_S + scale * back @ np.diag(np.maximum(0, EXCESS_VALUES - 1)) @ back.T


def covariance_of(embeddings: np.ndarray) -> np.ndarray:
    return np.cov(embeddings.T, bias=True)


def test_the_domains_differ_both_ways() -> None:
    """Else max(0, ·) would go untested."""
    assert EXCESS_VALUES[0] < 0.9 < 1.1 < EXCESS_VALUES[-1]


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_coral_whitens_and_colours(ridge: float) -> None:
    maps = Coral(ridge=ridge).adapt(*STATISTICS)
    r = ridge * np.trace(C_S) / 4 * np.eye(4)
    matrix = scipy.linalg.sqrtm(C_T + r) @ np.linalg.inv(scipy.linalg.sqrtm(C_S + r))
    expected = (SOURCE - SOURCE.mean(axis=0)) @ matrix.T + TARGET.mean(axis=0)
    mapped = maps.transform_source(SOURCE)
    np.testing.assert_allclose(mapped, expected, rtol=1e-9, atol=1e-9)
    assert maps.transform_target_domain(TARGET) is TARGET
    if ridge == 0:
        np.testing.assert_allclose(covariance_of(mapped), C_T, rtol=1e-9, atol=1e-9)


def test_coral_of_unit_variances_is_the_paper() -> None:
    """Sun et al. (2016) add the identity to covariances of standardised features."""
    x = SOURCE / SOURCE.std(axis=0)
    maps = Coral().adapt(SourceStatistics.from_embeddings(x), STATISTICS[1])
    plus = np.eye(4)
    matrix = scipy.linalg.sqrtm(C_T + plus) @ np.linalg.inv(scipy.linalg.sqrtm(covariance_of(x) + plus))
    np.testing.assert_allclose(maps.source.matrix, matrix, rtol=1e-9, atol=1e-9)


def test_coral_plus_plus_takes_no_variance() -> None:
    mapped = CoralPlusPlus(scale=0.4).adapt(*STATISTICS).transform_source(SOURCE)
    np.testing.assert_allclose(covariance_of(mapped), gamma_max(0.4), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mapped.mean(axis=0), TARGET.mean(axis=0), rtol=1e-9)
    matrix = scipy.linalg.sqrtm(gamma_max(0.4)) @ np.linalg.inv(scipy.linalg.sqrtm(C_S))
    np.testing.assert_allclose(CoralPlusPlus(scale=0.4).adapt(*STATISTICS).source.matrix, matrix, atol=1e-9)


def test_fda_stretches_common_directions() -> None:
    maps = Fda().adapt(*STATISTICS)
    mapped = maps.transform_source(SOURCE)
    np.testing.assert_allclose(covariance_of(mapped), gamma_max(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mapped.mean(axis=0), TARGET.mean(axis=0), rtol=1e-9)
    before, after = (
        (SOURCE - SOURCE.mean(axis=0)) @ EXCESS_VECTORS,
        (mapped - mapped.mean(axis=0)) @ EXCESS_VECTORS,
    )
    np.testing.assert_allclose(after, before * np.sqrt(np.maximum(1, EXCESS_VALUES)), rtol=1e-8, atol=1e-9)


def test_fda_follows_linear_maps() -> None:
    mixing, shift = np.random.default_rng(1).normal(size=(4, 4)), np.arange(4.0)
    moved = SourceStatistics.from_embeddings(SOURCE @ mixing.T + shift)
    target_domain = TargetStatistics.from_embeddings(TARGET @ mixing.T + shift)
    mapped = Fda().adapt(moved, target_domain).transform_source(SOURCE @ mixing.T + shift)
    expected = Fda().adapt(*STATISTICS).transform_source(SOURCE) @ mixing.T + shift
    np.testing.assert_allclose(mapped, expected, rtol=1e-7, atol=1e-7)


def test_idvc_removes_the_directions_of_dataset_means() -> None:
    maps = Idvc().adapt(*STATISTICS)
    x, y = maps.transform_source(SOURCE), maps.transform_target_domain(TARGET)
    means = [x[subset == SUBSETS].mean(axis=0) for subset in range(3)]
    np.testing.assert_allclose(means, [y.mean(axis=0)] * 3, atol=1e-9)
    matrix = maps.source.matrix
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert round(np.trace(matrix)) == 4 - 3  # four means span three directions


def test_idvc_removes_the_leading_directions_only() -> None:
    matrix = Idvc(num_directions=1).adapt(*STATISTICS).source.matrix
    means = np.array([*(SOURCE[subset == SUBSETS].mean(axis=0) for subset in range(3)), TARGET.mean(axis=0)])
    leading = np.linalg.eigh(np.cov(means.T))[1][:, -1]
    np.testing.assert_allclose(matrix, np.eye(4) - np.outer(leading, leading), atol=1e-10)


def test_idvc_of_centred_domains_removes_nothing() -> None:
    """Both means are rounding, and in rounding there is always a leading direction."""
    source = SourceStatistics.from_embeddings(SOURCE - SOURCE.mean(axis=0))
    target_domain = TargetStatistics.from_embeddings(TARGET - TARGET.mean(axis=0))
    np.testing.assert_array_equal(Idvc().adapt(source, target_domain).source.matrix, np.eye(4))


def test_dicn_whitens_what_varies_within_and_between_domains() -> None:
    maps = Dicn().adapt(*STATISTICS)
    x, y = maps.transform_source(SOURCE), maps.transform_target_domain(TARGET)
    common = (x.mean(axis=0) + y.mean(axis=0)) / 2
    spread = sum((z - common).T @ (z - common) / len(z) for z in (x, y)) / 2
    before = (SOURCE.mean(axis=0) + TARGET.mean(axis=0)) / 2
    variance = sum(((z - before) ** 2).sum() / len(z) for z in (SOURCE, TARGET)) / 2 / 4
    np.testing.assert_allclose(spread, variance * np.eye(4), atol=1e-9)
    np.testing.assert_allclose(maps.source.matrix, maps.source.matrix.T, atol=1e-12)


def test_an_affine_map() -> None:
    matrix, offset = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([1.0, -1.0])
    mapped = AffineMap(matrix, offset).transform(np.array([[3.0, 4.0]], dtype=np.float32))
    np.testing.assert_array_equal(mapped, np.array([[12.0, 3.0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coral(ridge=-1), "Coral: ridge is -1; expected a number of at least 0"),
        (lambda: CoralPlusPlus(scale=-1), "CoralPlusPlus: scale is -1; expected a number of at least 0"),
        (
            lambda: Idvc(num_directions=0),
            "Idvc: num_directions is 0; expected a whole number of at least 1",
        ),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
