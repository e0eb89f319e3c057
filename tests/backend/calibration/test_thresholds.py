"""Thresholds against counting, ties and blocks included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.backend.calibration import compute_far_threshold, compute_impostor_threshold, thresholds
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError


class Product(Scorer):
    """An inner product with a bias on the enrolment side, so that (a, b) and (b, a) score differently."""

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        return Side(torch.from_numpy(embeddings).float(), torch.from_numpy(embeddings[:, 0]).float())

    def test_side(self, embeddings: np.ndarray) -> Side:
        return Side(torch.from_numpy(embeddings).float(), torch.zeros(len(embeddings)))


@settings(max_examples=200, deadline=None)
@given(scores=st.lists(st.integers(-3, 3), min_size=2, max_size=30), num_accepted=st.integers(1, 29))
def test_far_threshold_is_the_least_that_keeps_the_rate(scores: list[int], num_accepted: int) -> None:
    num_accepted = min(num_accepted, len(scores) - 1)
    far = num_accepted / len(scores)
    values = np.array(scores, dtype=float)
    threshold = compute_far_threshold(values, far)
    assert (values >= threshold).mean() <= far
    # Any lower threshold accepts the score just below, and with it too many.
    below = values[values < threshold].max()
    assert threshold == np.nextafter(below, np.inf)
    assert (values >= below).mean() > far


@pytest.mark.parametrize(
    ("num", "far", "accepted"), [(100, 0.29, 29), (100, 0.295, 29), (10, 0.7, 7), (3, 1 / 3, 1)]
)
def test_rates_that_products_round_down(num: int, far: float, accepted: int) -> None:
    """0.29 · 100 is 28.999999999999996 in floating point."""
    scores = np.arange(num, dtype=float)
    assert (scores >= compute_far_threshold(scores, far)).sum() == accepted


def test_threshold_in_the_type_of_the_scores() -> None:
    """Of float32 scores, the next float64 number would be read back as the score itself."""
    scores = np.array([0.1, 0.2, 0.3, 0.3], dtype=np.float32)
    threshold = compute_far_threshold(scores, 0.5)
    assert np.float32(threshold) > scores[1]
    assert (scores >= np.float32(threshold)).sum() == 2


@pytest.mark.parametrize("block_scores", [1 << 22, 70])
@pytest.mark.parametrize("far", [0.001, 0.02, 0.5])
def test_impostor_threshold_is_that_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, block_scores: int, far: float
) -> None:
    monkeypatch.setattr(thresholds, "_BLOCK_SCORES", block_scores)
    random = np.random.default_rng(0)
    recordings = random.integers(9, size=60)
    embeddings = random.normal(size=(60, 4)) + 5 * random.normal(size=(9, 4))[recordings]
    scorer = Product()
    found = compute_impostor_threshold(scorer, embeddings, [f"call-{i}" for i in recordings], far)
    scores = scorer.score_block(scorer.enrol_side(embeddings), scorer.test_side(embeddings)).numpy()
    others = scores[recordings[:, None] != recordings]
    assert found == pytest.approx(compute_far_threshold(others, far), rel=1e-6)


def test_impostor_threshold_of_normalised_scores() -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(50, 4))
    scorer = NormalisedScorer(Product(), num_nearest=10).fit(random.normal(size=(40, 4)))
    found = compute_impostor_threshold(scorer, embeddings, np.arange(50), 0.01)
    scores = scorer.score_block(scorer.enrol_side(embeddings), scorer.test_side(embeddings)).numpy()
    assert found == compute_far_threshold(scores[~np.eye(50, dtype=bool)], 0.01)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_refusals() -> None:
    scores = np.arange(100.0)
    for far in (0, 1, -1, math.nan):
        assert f"expected far between 0 and 1, found {far}" in refusal(
            lambda far=far: compute_far_threshold(scores, far)
        )
    assert "a false-accept rate of 0.001 needs 1000 non-target scores, found 100" in refusal(
        lambda: compute_far_threshold(scores, 0.001)
    )
    assert "needs 2 non-target scores, found 0" in refusal(lambda: compute_far_threshold(scores[:0], 0.5))
    for bad in (np.array([1, np.nan]), np.ones((2, 2))):
        assert "expected finite non-target scores (num_scores,)" in refusal(
            lambda bad=bad: compute_far_threshold(bad, 0.5)
        )
    embeddings = np.ones((4, 2))
    assert "expected 4 recordings, one an embedding, found 3" in refusal(
        lambda: compute_impostor_threshold(Product(), embeddings, ["a"] * 3, 0.5)
    )
    assert "needs 2 non-target scores, found 0" in refusal(
        lambda: compute_impostor_threshold(Product(), embeddings, ["a"] * 4, 0.5)
    )
