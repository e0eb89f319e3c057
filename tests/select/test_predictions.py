"""Validators of predictions, against loops straight from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.select import SelectionData
from spkadapt.select import predictions as module
from spkadapt.select.predictions import (
    SCALE,
    compute_deep_embedded_validation,
    compute_entropy,
    compute_information,
    compute_neighbourhood_density,
    compute_nuclear_norm,
    pool_posteriors,
    source_losses,
    weighted_risk,
)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(float(x) ** 2 for x in vector))


def posterior(embedding: np.ndarray, means: list[np.ndarray]) -> list[float]:
    weights = [math.exp(SCALE * float(unit(embedding) @ unit(mean))) for mean in means]
    return [weight / sum(weights) for weight in weights]


def brute_posteriors(data: SelectionData) -> np.ndarray:
    speakers = sorted(set(data.source_speakers.tolist()))
    means = [sum(unit(x) for x in data.source[data.source_speakers == name]) for name in speakers]
    return np.array([posterior(x, means) for x in data.pool])


def test_posteriors_and_what_is_made_of_them(domains: SelectionData) -> None:
    expected = brute_posteriors(domains)
    np.testing.assert_allclose(pool_posteriors(domains), expected, rtol=1e-9)
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in expected]
    mean = expected.mean(axis=0)
    assert compute_entropy(domains) == pytest.approx(np.mean(entropies))
    total = -sum(p * math.log(p) for p in mean)
    assert compute_information(domains) == pytest.approx(total - np.mean(entropies))
    singular = np.linalg.svd(expected, compute_uv=False)
    assert compute_nuclear_norm(domains) == pytest.approx(singular.sum() / len(expected))


def test_source_losses_leave_the_utterance_out(domains: SelectionData) -> None:
    speakers = sorted(set(domains.source_speakers.tolist()))
    losses = source_losses(domains, np.array([0, 5, 47]))
    for place, row in enumerate((0, 5, 47)):
        means = []
        for name in speakers:
            own = (domains.source_speakers == name) & (np.arange(48) != row)
            means.append(sum(unit(x) for x in domains.source[own]))
        expected = posterior(domains.source[row], means)[speakers.index(domains.source_speakers[row])]
        assert losses[place] == pytest.approx(-math.log(expected), rel=1e-9)


def test_the_only_utterance_of_a_speaker_has_no_loss() -> None:
    data = SelectionData(np.eye(3), np.array([0, 0, 1]), np.eye(3))
    assert np.isnan(source_losses(data, np.array([2, 0, 1]))).tolist() == [True, False, False]
    with pytest.raises(InputError, match="source speakers of two utterances or more, found none"):
        compute_deep_embedded_validation(SelectionData(np.eye(3), np.arange(3), np.eye(3)))


def test_large_pools_are_thinned(domains: SelectionData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 40)
    np.testing.assert_allclose(pool_posteriors(domains), brute_posteriors(domains)[::3], rtol=1e-9)


def test_neighbourhood_density_is_that_of_the_paper(
    domains: SelectionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [unit(row) for row in brute_posteriors(domains)]
    entropies = []
    for i, feature in enumerate(features):
        weights = [math.exp(float(feature @ other) / 0.05) for j, other in enumerate(features) if j != i]
        entropies.append(-sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights))
    assert compute_neighbourhood_density(domains) == pytest.approx(np.mean(entropies), rel=1e-9)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert compute_neighbourhood_density(domains) == pytest.approx(np.mean(entropies), rel=1e-9)


def test_density_of_equal_predictions_is_the_greatest() -> None:
    data = SelectionData(np.eye(4), np.arange(4), np.ones((9, 4)))
    assert compute_neighbourhood_density(data) == pytest.approx(math.log(8))


def test_the_control_variate_by_hand() -> None:
    """w = 1, 2, 3 and ℓ = 1, 0, 1: wℓ = 1, 0, 3, Cov = 1, Var = 1, so 4/3 − (2 − 1)."""
    assert weighted_risk(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 1.0])) == pytest.approx(4 / 3 - 1)
    assert weighted_risk(np.ones(3), np.array([1.0, 2.0, 6.0])) == pytest.approx(3)


def test_a_constant_loss_is_estimated_without_error() -> None:
    """What the control variate is for: w̄ · ℓ alone would be off by as much as the weights' mean is."""
    weights = np.random.default_rng(0).gamma(1.0, size=50)
    assert weighted_risk(weights, np.full(50, 0.7)) == pytest.approx(0.7, abs=1e-12)


def test_validation_takes_after_the_part_of_the_source_that_is_like_the_target() -> None:
    """Half of the source's speakers are noisy. The closer the pool is to those, the higher the risk."""
    random = np.random.default_rng(3)
    speakers = np.repeat(np.arange(60), 4)
    noisy = speakers >= 30
    voices = random.normal(size=(60, 8))
    voices[:, 0] = np.where(np.arange(60) >= 30, 2.5, -2.5)
    source = voices[speakers] + np.where(noisy, 1.2, 0.1)[:, None] * random.normal(size=(240, 8)) * [0, *[1] * 7]
    pools = {}
    for side in (-1, 1):
        pool = random.normal(size=(120, 8))
        pool[:, 0] = 2.5 * side
        pools[side] = SelectionData(source, speakers, pool, np.repeat(np.arange(30), 4))
    assert compute_deep_embedded_validation(pools[1]) > 2 * compute_deep_embedded_validation(pools[-1])
