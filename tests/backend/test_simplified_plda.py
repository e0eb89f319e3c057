"""PLDA of low rank against the likelihood it maximises, known truth, and SpeechBrain's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from spkadapt.backend.plda import Plda
from spkadapt.backend.simplified_plda import SimplifiedPlda
from spkadapt.errors import InputError

LABELS = np.repeat(np.arange(80), [1, 2, 3, 4] * 20)


def draw(rank: int, dim: int, labels: np.ndarray = LABELS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings with F and a full Σ."""
    random = np.random.default_rng(0)
    factors, noise = random.normal(size=(dim, rank)), random.normal(size=(dim, dim)) / np.sqrt(2 * dim)
    speakers = random.normal(size=(labels.max() + 1, rank)) @ factors.T
    return 3 + speakers[labels] + random.normal(size=(len(labels), dim)) @ noise.T, factors, noise @ noise.T


def test_em_never_lowers_the_likelihood() -> None:
    embeddings = draw(3, 8)[0]
    path = [
        SimplifiedPlda(2, num_iterations=k).fit(embeddings, LABELS).log_likelihood(embeddings, LABELS)
        for k in range(12)
    ]
    assert (np.diff(path) > -1e-10).all()
    assert path[-1] > path[0] + 1e-4


def test_em_ends_at_a_maximum() -> None:
    """No small change of F or Σ raises the joint density of all embeddings, by brute force."""
    labels = np.repeat(np.arange(20), [1, 2, 3, 4] * 5)
    embeddings = draw(1, 2, labels)[0]
    plda = SimplifiedPlda(1, num_iterations=3000).fit(embeddings, labels)

    def likelihood(factors: np.ndarray, within: np.ndarray) -> float:
        total = 0.0
        for label in range(20):
            x = (embeddings[labels == label] - embeddings.mean(axis=0)).ravel()
            n = len(x) // 2
            covariance = np.kron(np.ones((n, n)), factors @ factors.T) + np.kron(np.eye(n), within)
            total += multivariate_normal.logpdf(x, np.zeros(2 * n), covariance)
        return total

    top = likelihood(plda.factors_, plda.within_)
    assert top / len(labels) == pytest.approx(plda.log_likelihood(embeddings, labels), rel=1e-10)
    for sign in (-1e-3, 1e-3):
        for change in np.eye(2):
            assert likelihood(plda.factors_ + sign * change[:, None], plda.within_) < top
        for matrix in ([[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]):
            assert likelihood(plda.factors_, plda.within_ + sign * np.array(matrix)) < top


def test_em_recovers_the_truth() -> None:
    labels = np.repeat(np.arange(2000), 4)
    embeddings, factors, within = draw(2, 5, labels)
    plda = SimplifiedPlda(2, num_iterations=50).fit(embeddings, labels)
    assert plda.factors_.shape == (5, 2)
    assert_allclose(plda.between_, plda.factors_ @ plda.factors_.T)
    assert_allclose(plda.between_, factors @ factors.T, atol=0.06 * np.abs(factors @ factors.T).max())
    assert_allclose(plda.within_, within, atol=0.04 * within.max())


def test_full_rank_is_the_two_covariance_model() -> None:
    """With balanced classes both estimate the same mean too."""
    labels = np.repeat(np.arange(50), 3)
    embeddings = draw(4, 4, labels)[0]
    low, full = SimplifiedPlda(4, num_iterations=500), Plda(num_iterations=500)
    assert_allclose(
        low.fit(embeddings, labels).between_, full.fit(embeddings, labels).between_, rtol=1e-5, atol=1e-7
    )
    assert_allclose(low.within_, full.within_, rtol=1e-5, atol=1e-7)


def test_scores_do_not_change_under_an_invertible_map_and_are_narrow() -> None:
    embeddings = draw(2, 4)[0]
    moved = embeddings @ (np.random.default_rng(1).normal(size=(4, 4)) * [1, 10, 100, 1000]) - 5
    scores = []
    for x in (embeddings, moved, np.hstack([embeddings, np.full((200, 1), 0.1), embeddings[:, :1]])):
        plda = SimplifiedPlda(2).fit(x, LABELS)
        side = plda.test_side(x)
        assert side.vectors.shape == (200, 2)
        scores.append(plda.score_block(plda.enrol_side(x), side).numpy())
    assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-4)
    assert_allclose(scores[2], scores[0], rtol=1e-4, atol=1e-4)


def test_fewer_embeddings_than_dimensions() -> None:
    labels = np.repeat(np.arange(6), [1, 2, 3, 2, 2, 2])
    embeddings = draw(2, 40, labels)[0]
    for estimator in ("em", "speechbrain"):
        plda = SimplifiedPlda(2, estimator).fit(embeddings, labels)
        scores = plda.score_block(plda.enrol_side(embeddings), plda.test_side(embeddings)).numpy()
        assert np.isfinite(scores).all()


def test_parity_with_speechbrain(shared: Path) -> None:
    with np.load(shared / "fixtures/plda_speechbrain.npz") as file:
        expected = file["expected_scores"]
        plda = SimplifiedPlda(100, "speechbrain").fit(file["train_vectors"], file["train_speakers"])
        sides = plda.enrol_side(file["enrol_vectors"]), plda.test_side(file["test_vectors"])
    assert_allclose(plda.score_block(*sides), expected, rtol=2e-6)


def test_refusals() -> None:
    embeddings = draw(2, 4)[0]

    def refusal(plda: SimplifiedPlda, embeddings: np.ndarray, labels: np.ndarray) -> str:
        with pytest.raises(InputError) as caught:
            plda.fit(embeddings, labels)
        return str(caught.value)

    assert "a rank from 1 to 4, as embeddings vary, found 100" in refusal(SimplifiedPlda(), embeddings, LABELS)
    assert "found 0" in refusal(SimplifiedPlda(0), embeddings, LABELS)
    unknown = refusal(SimplifiedPlda(2, "speech-brain"), embeddings, LABELS)
    assert unknown == 'no estimator "speech-brain": did you mean "speechbrain"?'
    assert "num_iterations -1" in refusal(SimplifiedPlda(2, num_iterations=-1), embeddings, LABELS)
    assert "floor 1" in refusal(SimplifiedPlda(2, floor=1), embeddings, LABELS)
    assert "two or more embeddings" in refusal(SimplifiedPlda(2), embeddings, np.arange(200))
    assert "one class for each" in refusal(SimplifiedPlda(2), embeddings, LABELS[1:])
    assert "found eigenvalues from 0 to 0" in refusal(SimplifiedPlda(2), np.ones((200, 4)), LABELS)
