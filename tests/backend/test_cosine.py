"""Cosine scores against a loop, and models of several utterances."""

from __future__ import annotations

import numpy as np
import pytest

from spkadapt.backend.cosine import CosineScorer
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
ENROL, TEST = RANDOM.normal(size=(6, 5)).astype(np.float32), RANDOM.normal(size=(4, 5)).astype(np.float32)


def naive_cosine(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(x @ y / (x @ x) ** 0.5 / (y @ y) ** 0.5)


def test_block_matches_a_loop() -> None:
    scorer = CosineScorer()
    scores = scorer.score_block(scorer.enrol_side(ENROL), scorer.test_side(TEST))
    np.testing.assert_allclose(scores, [[naive_cosine(x, y) for y in TEST] for x in ENROL], atol=3e-7)


def test_a_model_is_the_mean_of_unit_vectors() -> None:
    """Lengths of the utterances do not matter; which come together, in any order, does."""
    scorer, model_of = CosineScorer(), np.array([1, 0, 1, 2, 0, 1])
    scaled = ENROL * np.arange(1, 7, dtype=np.float32)[:, None]
    scores = scorer.score_block(scorer.enrol_side(scaled, model_of), scorer.test_side(TEST))
    units = ENROL / np.linalg.norm(ENROL.astype(np.float64), axis=1, keepdims=True)
    models = [units[model_of == model].mean(axis=0) for model in range(3)]
    np.testing.assert_allclose(scores, [[naive_cosine(x, y) for y in TEST] for x in models], atol=3e-7)


def test_extremes_of_float32_are_scored() -> None:
    scorer, huge = CosineScorer(), np.array([[3e38, 3e38], [1e-40, 1e-40], [1, -1]], dtype=np.float32)
    side = scorer.test_side(huge)
    np.testing.assert_allclose(scorer.score_block(side, side), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)


def test_refusals() -> None:
    scorer = CosineScorer()
    with pytest.raises(InputError, match=r"1 of 2 embeddings to unit length: row 1 holds only zeros"):
        scorer.test_side(np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(InputError, match="1 of 2 embeddings hold NaN or infinity, first row 0"):
        scorer.enrol_side(np.array([[np.nan, 0], [1, 0]]))
    with pytest.raises(InputError, match="no utterance enrols model 1 of 3"):
        scorer.enrol_side(ENROL[:2], np.array([0, 2]))
    with pytest.raises(InputError, match="the 2 utterances of model 1 cancel out"):
        scorer.enrol_side(np.array([[1.0, 2], [3, 4], [-6, -8]]), np.array([0, 1, 1]))
