"""LDA by its definition, against scikit-learn, and against Kaldi's own matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from spkadapt.backend.covariance import class_statistics
from spkadapt.backend.lda import Lda
from spkadapt.errors import InputError
from spkadapt.kaldi_io import read_kaldi_matrix

if TYPE_CHECKING:
    from tests.backend.conftest import KaldiChain

RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8])
EMBEDDINGS = RANDOM.normal(size=(8, 4))[LABELS] + RANDOM.normal(size=(36, 4)) * [0.2, 0.5, 1, 2] + 3


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_definition(factor: float) -> None:
    lda = Lda(total_covariance_factor=factor).fit(EMBEDDINGS, LABELS)
    projected = class_statistics(lda.transform(EMBEDDINGS), LABELS)
    within = projected.scatter / 36
    assert_allclose(within + factor * projected.between, np.eye(4), atol=1e-10)
    assert_allclose(projected.between, np.diag(lda.ratios_), atol=1e-10)
    assert_allclose(projected.mean, np.zeros(4), atol=1e-12)
    assert (np.diff(lda.ratios_) <= 0).all()


def test_directions_are_scikit_learns() -> None:
    repeated = LABELS > 0  # the peer warns of singletons
    peer = LinearDiscriminantAnalysis(solver="eigen").fit(EMBEDDINGS[repeated], LABELS[repeated])
    ours = Lda().fit(EMBEDDINGS[repeated], LABELS[repeated]).projection_
    theirs = peer.scalings_.T
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert_allclose(np.abs(cosines), np.ones(4), rtol=1e-9)


def test_dim_keeps_the_leading_rows_and_the_factor_turns_none() -> None:
    full = Lda().fit(EMBEDDINGS, LABELS)
    assert_allclose(Lda(dim=2).fit(EMBEDDINGS, LABELS).projection_, full.projection_[:2])
    assert_allclose(Lda(dim=2).fit(EMBEDDINGS, LABELS).ratios_, full.ratios_[:2])
    total = Lda(total_covariance_factor=1.0).fit(EMBEDDINGS, LABELS)
    assert_allclose(total.projection_, full.projection_ / np.sqrt(1 + full.ratios_)[:, None], rtol=1e-9)


def test_full_shrinkage_gives_principal_components_of_the_means() -> None:
    lda = Lda(shrinkage=1.0).fit(EMBEDDINGS, LABELS)
    statistics = class_statistics(EMBEDDINGS, LABELS)
    covariance = lda.projection_ @ statistics.between @ lda.projection_.T
    assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-10)
    assert_allclose(
        lda.projection_ @ lda.projection_.T, np.eye(4) * 36 * 4 / np.trace(statistics.scatter), atol=1e-9
    )


@given(seed=st.integers(0, 999), dim=st.integers(2, 30))
@settings(max_examples=20, deadline=None)
def test_any_sizes_are_finite(seed: int, dim: int) -> None:
    """Fewer embeddings than dimensions, singletons, a constant dimension and a duplicate."""
    random = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 1, 1, 2, 3])
    embeddings = random.normal(size=(7, dim)).astype(np.float32)
    embeddings[3] = embeddings[2]
    embeddings[:, 0] = 0.1
    for shrinkage in (0.0, 0.5, "ledoit-wolf"):
        lda = Lda(shrinkage=shrinkage).fit(embeddings, labels)
        assert lda.projection_.shape == (min(3, dim), dim)
        projected = lda.transform(embeddings)
        assert np.isfinite(projected).all()
        assert projected.dtype == np.float32


def test_more_dimensions_than_embeddings_part_the_speakers() -> None:
    labels = np.repeat(np.arange(5), 3)
    embeddings = RANDOM.normal(size=(5, 60))[labels] + RANDOM.normal(size=(15, 60)) * 0.1
    projected = class_statistics(Lda().fit(embeddings, labels).transform(embeddings), labels)
    assert np.trace(projected.between) > 100 * np.trace(projected.scatter) / 15


def test_kaldi_matrix_round_trip() -> None:
    lda = Lda(dim=3).fit(EMBEDDINGS, LABELS)
    matrix = lda.to_kaldi()
    assert_allclose(np.hstack([EMBEDDINGS, np.ones((36, 1))]) @ matrix.T, lda.transform(EMBEDDINGS), atol=1e-12)
    again = Lda.from_kaldi(matrix)
    assert_allclose(again.transform(EMBEDDINGS), lda.transform(EMBEDDINGS), atol=1e-10)
    assert again.get_params()["dim"] == 3


def test_parity_with_kaldi(kaldi_chain: KaldiChain) -> None:
    """Rows agree but for their signs; Kaldi's are stored in float32."""
    expected = read_kaldi_matrix(kaldi_chain.folder / "lda.mat").astype(np.float64)
    found = Lda(dim=100).fit(kaldi_chain.source, kaldi_chain.speakers).to_kaldi()
    assert found.shape == expected.shape == (100, 193)
    signs = np.sign((found * expected).sum(axis=1, keepdims=True))
    assert_allclose(signs * found, expected, atol=1e-5 * np.abs(expected).max())
    errors = np.linalg.norm(signs * found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < 1e-4


def test_refusals() -> None:
    def refusal(call: object, *args: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args)  # type: ignore[operator]
        return str(caught.value)

    assert refusal(Lda(dim=5).fit, EMBEDDINGS, LABELS) == (
        "expected LDA to 1 up to 4 dimensions for 8 speakers and embeddings of 4 dimensions, found 5"
    )
    assert "1 up to 2 dimensions for 3 speakers" in refusal(Lda(dim=0).fit, EMBEDDINGS[:6], LABELS[:6])
    assert "from 0 to 1, found 2" in refusal(Lda(total_covariance_factor=2).fit, EMBEDDINGS, LABELS)
    assert 'or "ledoit-wolf", found 7' in refusal(Lda(shrinkage=7).fit, EMBEDDINGS, LABELS)
    assert "at least two classes" in refusal(Lda().fit, EMBEDDINGS, np.zeros(36))
    assert "two or more embeddings" in refusal(Lda().fit, EMBEDDINGS, np.arange(36))
    assert "one class for each of 36" in refusal(Lda().fit, EMBEDDINGS, LABELS[1:])
    assert "differ within their classes" in refusal(Lda().fit, np.ones((36, 4)), LABELS)
    assert "Lda is not fitted yet: call fit first" in refusal(Lda().transform, EMBEDDINGS)
    assert "4 dimensions as in fit" in refusal(Lda().fit(EMBEDDINGS, LABELS).transform, EMBEDDINGS[:, 1:])
    assert "found (3,)" in refusal(Lda.from_kaldi, np.ones(3))
    assert "found rank below 2" in refusal(Lda.from_kaldi, np.ones((2, 5)))
