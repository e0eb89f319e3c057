"""Whitening, WCCN and NAP by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from spkadapt.backend.covariance import covariance, within_class_covariance
from spkadapt.backend.nap import Nap
from spkadapt.backend.projection import Projection, fix_signs
from spkadapt.backend.wccn import Wccn
from spkadapt.backend.whitening import Whitening
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
EMBEDDINGS = RANDOM.normal(size=(6, 4))[LABELS] + RANDOM.normal(size=(21, 4)) * [0.2, 0.5, 1, 2] + 3


def refusal(call: object, *args: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize("dim", [None, 1, 3])
def test_whitening_is_scikit_learns_whitened_pca(dim: int | None) -> None:
    whitening = Whitening(dim).fit(EMBEDDINGS)
    whitened = whitening.transform(EMBEDDINGS)
    width = dim or 4
    assert_allclose(covariance(whitened), np.eye(width), atol=1e-10)
    assert_allclose(whitened.mean(axis=0), np.zeros(width), atol=1e-12)
    peer = PCA(dim, whiten=True).fit_transform(EMBEDDINGS) * np.sqrt(21 / 20)
    assert_allclose(np.abs(whitened), np.abs(peer), atol=1e-10)
    assert (whitening.projection_.max(axis=1) >= -whitening.projection_.min(axis=1)).all()


def test_whitening_leaves_out_what_does_not_vary() -> None:
    wide = np.hstack([EMBEDDINGS, EMBEDDINGS[:, :2], np.full((21, 1), 0.1)])
    assert_allclose(covariance(Whitening().fit(wide).transform(wide)), np.eye(4), atol=1e-9)
    few = RANDOM.normal(size=(5, 30))
    assert_allclose(covariance(Whitening().fit(few).transform(few)), np.eye(4), atol=1e-9)
    assert Whitening(shrinkage=0.1).fit(few).projection_.shape == (30, 30)


def test_whitening_by_a_shrunk_covariance() -> None:
    whitening = Whitening(shrinkage=1.0).fit(EMBEDDINGS)
    scale = np.trace(covariance(EMBEDDINGS)) / 4
    assert_allclose(whitening.projection_ @ whitening.projection_.T, np.eye(4) / scale, atol=1e-12)


def test_wccn_makes_the_within_class_covariance_the_identity() -> None:
    wccn = Wccn().fit(EMBEDDINGS, LABELS)
    assert_allclose(within_class_covariance(wccn.transform(EMBEDDINGS), LABELS), np.eye(4), atol=1e-10)
    assert_allclose(wccn.projection_, wccn.projection_.T)
    assert (np.linalg.eigvalsh(wccn.projection_) > 0).all()
    assert_allclose(wccn.transform(np.zeros((1, 4))), np.zeros((1, 4)))
    scale = np.trace(within_class_covariance(EMBEDDINGS, LABELS)) / 4
    assert_allclose(Wccn(shrinkage=1).fit(EMBEDDINGS, LABELS).projection_, np.eye(4) / np.sqrt(scale), atol=1e-12)


def test_wccn_floors_directions_without_variance() -> None:
    wide = np.hstack([EMBEDDINGS, np.ones((21, 1))])
    eigenvalues = np.linalg.eigvalsh(Wccn().fit(wide, LABELS).projection_)
    assert eigenvalues[-1] == pytest.approx(1e3 * eigenvalues[0], rel=1e-9)


def test_nap_removes_what_differs_within_classes_and_nothing_else() -> None:
    """Embeddings of one class differ along two known directions only."""
    basis = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]
    speakers, noise = RANDOM.normal(size=(6, 6))[LABELS], RANDOM.normal(size=(21, 2))
    embeddings = speakers + noise @ basis[:2]
    projected = Nap(num_directions=2).fit(embeddings, LABELS).transform(embeddings)
    assert_allclose(projected, speakers @ basis[2:].T @ basis[2:], atol=1e-12)
    first = Nap().fit(embeddings, LABELS)
    assert np.linalg.matrix_rank(first.projection_) == 5
    assert_allclose(first.projection_ @ first.projection_, first.projection_, atol=1e-12)


def test_nap_removes_the_direction_of_most_variance() -> None:
    within = within_class_covariance(EMBEDDINGS, LABELS)
    left = within_class_covariance(Nap(2).fit(EMBEDDINGS, LABELS).transform(EMBEDDINGS), LABELS)
    assert np.trace(left) == pytest.approx(np.linalg.eigvalsh(within)[:2].sum())


@given(seed=st.integers(0, 999), dim=st.integers(3, 30))
@settings(max_examples=20, deadline=None)
def test_any_sizes_are_finite(seed: int, dim: int) -> None:
    """Fewer embeddings than dimensions, singletons, a constant dimension and a duplicate; the type is kept."""
    random = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 1, 1, 2, 3])
    embeddings = random.normal(size=(7, dim)).astype(np.float32)
    embeddings[3] = embeddings[2]
    embeddings[:, 0] = 0.1
    before = embeddings.copy()
    fitted: list[Projection] = [Whitening().fit(embeddings), Nap().fit(embeddings, labels)]
    fitted += [Wccn(shrinkage).fit(embeddings, labels) for shrinkage in (0.0, 0.5, "ledoit-wolf")]
    for projection in fitted:
        projected = projection.transform(embeddings)
        assert np.isfinite(projected).all()
        assert projected.dtype == np.float32
        assert projection.projection_.flags.c_contiguous
    np.testing.assert_array_equal(embeddings, before)


def test_signs() -> None:
    assert_allclose(fix_signs(np.array([[1.0, -2.0], [2.0, 1.0]])), [[-1, 2], [2, 1]])


def test_refusals() -> None:
    assert "1 up to 4 dimensions" in refusal(Whitening(dim=5).fit, EMBEDDINGS)
    assert "as many as these embeddings vary in, found 0" in refusal(Whitening(dim=0).fit, EMBEDDINGS)
    assert "at least two embeddings to whiten by, found 1" in refusal(Whitening().fit, EMBEDDINGS[:1])
    assert "found eigenvalues from 0 to 0" in refusal(Whitening().fit, np.ones((3, 2)))
    assert "found -1" in refusal(Whitening(shrinkage=-1).fit, EMBEDDINGS)
    assert "found -1" in refusal(Wccn(shrinkage=-1).fit, EMBEDDINGS, LABELS)
    repeated = np.repeat(EMBEDDINGS[:3], 2, axis=0)
    assert "differ within their classes" in refusal(Wccn().fit, repeated, np.repeat(np.arange(3), 2))
    expected = "expected to remove 1 up to 3 of 4 directions, of those in which classes vary, found 4"
    assert refusal(Nap(4).fit, EMBEDDINGS, LABELS) == expected
    assert "1 up to 1 of 4" in refusal(Nap(2).fit, EMBEDDINGS[:3], LABELS[:3])
    assert "found 0" in refusal(Nap(0).fit, EMBEDDINGS, LABELS)
    assert "1 up to 0 of 4" in refusal(Nap().fit, repeated, np.repeat(np.arange(3), 2))
    for method in (Wccn(), Nap()):
        assert "at least two classes" in refusal(method.fit, EMBEDDINGS, np.zeros(21))
        assert "two or more embeddings" in refusal(method.fit, EMBEDDINGS, np.arange(21))
        assert "one class for each of 21" in refusal(method.fit, EMBEDDINGS, LABELS[1:])
        assert "hold NaN" in refusal(method.fit, EMBEDDINGS * np.nan, LABELS)
        assert "is not fitted yet: call fit first" in refusal(method.transform, EMBEDDINGS)
        fitted = method.fit(EMBEDDINGS, LABELS)
        assert "4 dimensions as in fit, found 3" in refusal(fitted.transform, EMBEDDINGS[:, 1:])
