"""Majorities by counting, the gate against closed forms and simulated losses, and correction row by row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from spkadapt.errors import InputError
from spkadapt.pseudo_labels import correct_labels, fit_loss_gate, majority_labels
from spkadapt.pseudo_labels.selection import LOSS_FLOOR, _crossing

seeds = st.integers(0, 2**31)


@given(seeds, st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_majorities(seed: int, num: int) -> None:
    generator = np.random.default_rng(seed)
    labels, recordings = generator.integers(4, size=num), generator.integers(6, size=num)
    found = majority_labels(labels, recordings.astype(str))
    for recording in np.unique(recordings):
        counts = Counter(labels[recordings == recording].tolist())
        expected = min(label for label, count in counts.items() if count == max(counts.values()))
        assert set(found[recordings == recording].tolist()) == {expected}


def test_gate_of_two_equal_gaussians_is_halfway() -> None:
    generator = np.random.default_rng(0)
    half = generator.normal(size=4000)
    half = np.concatenate([half, -half])  # symmetric, so that the fit is as well
    gate = fit_loss_gate(np.exp(np.concatenate([half - 4, half + 4])))
    assert np.log(gate.threshold) == pytest.approx(0, abs=1e-3)
    assert gate.means == pytest.approx((-4, 4), abs=0.05)
    assert gate.weights == pytest.approx((0.5, 0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("weights", "means", "stds"),
    [((0.5, 0.5), (-3, 1), (1, 1)), ((0.8, 0.2), (-3, 1), (1, 0.5)), ((0.3, 0.7), (0, 5), (0.7, 2))],
)
def test_crossing_is_where_the_weighted_densities_are_equal(
    weights: tuple[float, float], means: tuple[float, float], stds: tuple[float, float]
) -> None:
    crossing = _crossing(np.array(weights), np.array(means, dtype=float), np.array(stds, dtype=float))
    densities = [
        w / s * np.exp(-(((crossing - m) / s) ** 2) / 2) for w, m, s in zip(weights, means, stds, strict=True)
    ]
    assert means[0] < crossing < means[1]
    assert densities[0] == pytest.approx(densities[1])


def test_nothing_crosses_under_a_wider_and_heavier_component() -> None:
    assert _crossing(np.array([0.01, 0.99]), np.array([0.0, 1.0]), np.array([1.0, 1.0])) == np.inf


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_gate_finds_wrong_labels(share: float) -> None:
    generator = np.random.default_rng(3)
    is_wrong = generator.uniform(size=3000) < share
    logs = np.where(is_wrong, generator.normal(2, 0.6, 3000), generator.normal(-2, 1, 3000))
    gate = fit_loss_gate(np.exp(logs))
    assert (gate.is_reliable(np.exp(logs)) == ~is_wrong).mean() > 0.99
    mixture = GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0).fit(logs[:, None])
    order = np.argsort(mixture.means_.ravel())
    assert gate.means == pytest.approx(mixture.means_.ravel()[order], abs=1e-3)
    assert gate.stds == pytest.approx(np.sqrt(mixture.covariances_.ravel())[order], abs=1e-3)
    assert gate.weights == pytest.approx(mixture.weights_[order], abs=1e-3)


@pytest.mark.parametrize("shape", ["normal", "gumbel", "logistic", "laplace", "equal", "zero"])
def test_losses_of_one_mode_all_pass(shape: str) -> None:
    generator = np.random.default_rng(0)
    losses = {"equal": np.full(10, 0.3), "zero": np.zeros(5)}.get(shape)
    if losses is None:
        losses = np.exp(getattr(generator, shape)(size=5000))
    gate = fit_loss_gate(losses)
    assert gate.threshold == np.inf
    assert gate.is_reliable(losses).all()


def test_a_loss_of_zero_is_its_rounding_error() -> None:
    losses = np.array([0.0, 1e-30] * 50 + [3.0, 4.0] * 50)
    gate = fit_loss_gate(losses)
    assert gate.means[0] == pytest.approx(np.log(LOSS_FLOOR))
    assert gate.is_reliable(losses).tolist() == [True] * 100 + [False] * 100


def test_correction() -> None:
    labels = np.array([2, 0, 1, 1])
    posteriors = np.array([[0.9, 0.1, 0.0], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]])
    passed = np.array([True, False, False, False])
    corrected, kept = correct_labels(labels, posteriors, passed)
    assert corrected[kept].tolist() == [2, 2, 1]
    assert kept.tolist() == [True, True, False, True]
    assert correct_labels(labels, posteriors, passed, 0.9)[1].tolist() == [True, True, False, False]


def test_bad_arguments() -> None:
    with pytest.raises(
        InputError, match=r"expected labels to be integers of one dimension, found float64, \(2,\)"
    ):
        majority_labels(np.ones(2), np.arange(2))
    with pytest.raises(InputError, match=r"expected a recording for each of 2 labels, found \(3,\)"):
        majority_labels(np.arange(2), np.arange(3))
    for shape in ((1,), (2, 2)):
        with pytest.raises(InputError, match="expected two or more losses in one dimension, found shape"):
            fit_loss_gate(np.ones(shape))
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="expected losses to be finite and not negative"):
            fit_loss_gate(np.array([1.0, value]))
    labels, posteriors, passed = np.arange(2), np.ones((2, 2)) / 2, np.ones(2, dtype=bool)
    with pytest.raises(InputError, match=r"expected posteriors of shape \(2, num_classes\), found \(3, 2\)"):
        correct_labels(labels, np.ones((3, 2)), passed)
    with pytest.raises(InputError, match=r"expected is_reliable to be bool of shape \(2,\), found int64 of shape"):
        correct_labels(labels, posteriors, passed.astype(int))
    with pytest.raises(InputError, match=r"least_posterior is 1\.5; expected 0 to 1"):
        correct_labels(labels, posteriors, passed, 1.5)
