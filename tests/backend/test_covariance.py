"""Class statistics against loops, shrinkage against scikit-learn, bases against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.covariance import ledoit_wolf

from spkadapt.backend.covariance import (
    TwoCovariance,
    class_residuals,
    class_statistics,
    covariance,
    floored_eigen,
    number_classes,
    shrunk_covariance,
    simultaneous_diagonalise,
    sum_by_class,
    whiten_range,
    within_class_covariance,
)
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.normal(size=(12, 3)) + 5
LABELS = np.array(list("abacabadabac"))


def draw_covariance(dim: int, rank: int | None = None) -> np.ndarray:
    factors = RANDOM.normal(size=(dim, rank or 2 * dim))
    return factors @ factors.T


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_statistics_match_a_loop(labels: list[int]) -> None:
    embeddings = np.random.default_rng(len(labels)).normal(size=(len(labels), 2)) + 3
    names = sorted(set(labels))
    members = [
        np.array([e for e, label in zip(embeddings, labels, strict=True) if label == name]) for name in names
    ]
    statistics = class_statistics(embeddings, np.array(labels))
    assert statistics.counts.tolist() == [len(member) for member in members]
    assert statistics.num_embeddings == len(labels)
    assert_allclose(statistics.means, [member.mean(axis=0) for member in members])
    scatter = sum(np.outer(e - member.mean(axis=0), e - member.mean(axis=0)) for member in members for e in member)
    assert_allclose(statistics.scatter, scatter, atol=1e-12)
    assert_allclose(statistics.mean, embeddings.mean(axis=0))
    assert_allclose(statistics.total, np.cov(embeddings.T, bias=True), atol=1e-12)
    assert_allclose(statistics.between, statistics.total - scatter / len(labels), atol=1e-12)
    matrix = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]])
    projected = statistics.project(matrix)
    again = class_statistics(embeddings @ matrix.T, np.array(labels))
    assert_allclose(projected.means, again.means)
    assert_allclose(projected.scatter, again.scatter, atol=1e-10)


def test_classes_are_numbered_in_their_order() -> None:
    numbers, counts = number_classes(LABELS, 12)
    assert numbers.tolist() == ["abcd".index(label) for label in LABELS]
    assert counts.tolist() == [6, 3, 2, 1]
    sums = [EMBEDDINGS[label == LABELS].sum(axis=0) for label in "abcd"]
    assert_allclose(sum_by_class(EMBEDDINGS, numbers, 4), sums)
    residuals, means, _ = class_residuals(EMBEDDINGS, LABELS)
    assert_allclose(residuals + means[numbers], EMBEDDINGS)


def test_sums_are_taken_in_float64() -> None:
    embeddings = np.ones((1000, 1), dtype=np.float32)
    embeddings[0] = 2.0**25
    assert sum_by_class(embeddings, np.zeros(1000, dtype=int), 1)[0, 0] == 2.0**25 + 999


def test_covariances() -> None:
    assert_allclose(covariance(EMBEDDINGS), np.cov(EMBEDDINGS.T, bias=True))
    assert_allclose(covariance(EMBEDDINGS, np.zeros(3)), EMBEDDINGS.T @ EMBEDDINGS / 12)
    residuals, _, _ = class_residuals(EMBEDDINGS, LABELS)
    assert_allclose(within_class_covariance(EMBEDDINGS, LABELS), residuals.T @ residuals / 12)
    assert_allclose(within_class_covariance(EMBEDDINGS, LABELS, unbiased=True), residuals.T @ residuals / 8)
    model = TwoCovariance(np.zeros(2), np.eye(2), 2 * np.eye(2))
    assert_allclose(model.total, 3 * np.eye(2))


@pytest.mark.parametrize("shape", [(5, 3), (4, 10), (200, 6), (2, 4)])
def test_ledoit_wolf_is_scikit_learns(shape: tuple[int, int]) -> None:
    centred = RANDOM.normal(size=shape) * np.linspace(1, 3, shape[1])
    expected, _ = ledoit_wolf(centred, assume_centered=True)
    assert_allclose(shrunk_covariance(centred, "ledoit-wolf"), expected, rtol=1e-10, atol=1e-13)


def test_shrinkage_keeps_the_trace() -> None:
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    sample = centred.T @ centred / 12
    assert_allclose(shrunk_covariance(centred, 0.0), sample)
    assert_allclose(shrunk_covariance(centred, 1), np.trace(sample) / 3 * np.eye(3), atol=1e-15)
    assert_allclose(shrunk_covariance(centred, 0.25), 0.75 * sample + 0.25 * np.trace(sample) / 3 * np.eye(3))
    assert_allclose(shrunk_covariance(np.zeros((3, 2)), "ledoit-wolf"), np.zeros((2, 2)))


def test_floored_eigen() -> None:
    matrix = draw_covariance(4, rank=2)
    eigenvalues, vectors = floored_eigen(matrix, 0.01)
    assert (np.diff(eigenvalues) <= 0).all()
    assert_allclose(eigenvalues[2:], 0.01 * eigenvalues[0])
    assert_allclose((vectors[:, :2] * eigenvalues[:2]) @ vectors[:, :2].T, matrix, atol=1e-12)


def test_whiten_range_leaves_out_directions_without_variance() -> None:
    for matrix, rank in ((draw_covariance(5), 5), (draw_covariance(5, rank=2), 2)):
        whiten, colour = whiten_range(matrix)
        assert whiten.shape == (rank, 5)
        assert_allclose(whiten @ matrix @ whiten.T, np.eye(rank), atol=1e-10)
        assert_allclose(colour @ colour.T, matrix, atol=1e-10)
        assert_allclose(whiten @ colour, np.eye(rank), atol=1e-10)
        lengths = np.linalg.norm(colour, axis=0)
        assert (np.diff(lengths) <= 0).all()


def test_simultaneous_diagonalise() -> None:
    first, second = draw_covariance(4), draw_covariance(4, rank=2)
    basis, ratios = simultaneous_diagonalise(first, second)
    assert_allclose(basis @ first @ basis.T, np.eye(4), atol=1e-10)
    assert_allclose(basis @ second @ basis.T, np.diag(ratios), atol=1e-10)
    assert (np.diff(ratios) <= 0).all()


def test_refusals() -> None:
    def refusal(call: object, *args: object, **kwargs: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args, **kwargs)  # type: ignore[operator]
        return str(caught.value)

    assert "one class for each of 12 embeddings, found (11,)" in refusal(class_statistics, EMBEDDINGS, LABELS[1:])
    single = refusal(within_class_covariance, EMBEDDINGS, np.arange(12), unbiased=True)
    assert single == "expected some class of two or more embeddings, found none"
    for wrong in (1.5, -0.1, "ledoit"):
        assert refusal(shrunk_covariance, EMBEDDINGS, wrong).endswith(f'or "ledoit-wolf", found {wrong!r}')
    assert "differ within their classes, found a covariance of zero" in refusal(
        floored_eigen, np.zeros((2, 2)), 0.1
    )
    assert "eigenvalues from -1 to 1" in refusal(whiten_range, np.diag([1.0, -1.0]))
    assert "eigenvalues from 0 to 0" in refusal(whiten_range, np.zeros((2, 2)))
    assert "least eigenvalue 0" in refusal(simultaneous_diagonalise, np.diag([1.0, 0.0]), np.eye(2))
