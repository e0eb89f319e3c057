"""The predicted EER: right where its model holds, an interval that covers, and its refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spkadapt.backend.calibration import MixtureCalibration
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer
from spkadapt.select import SelectionData, predict_eer
from spkadapt.select.score_mixture import compute_predicted_eer

Make = Callable[..., SelectionData]


def true_eer(data: SelectionData) -> float:
    """Pairs across calls of `make_domains`, of which calls 2n and 2n + 1 are of one caller."""
    calls = np.repeat(np.arange(len(data.pool) // 4), 4)
    first, second = np.triu_indices(len(calls), 1)
    across = calls[first] != calls[second]
    scores = (data.unit_pool @ data.unit_pool.T)[first, second][across]
    return compute_eer(scores, (calls[first] // 2 == calls[second] // 2)[across])


def test_it_ranks_noise_as_the_truth_does(make_domains: Make) -> None:
    pools = [make_domains(noise=noise, shift=0.0) for noise in (0.3, 0.5, 0.8)]
    predicted = [compute_predicted_eer(pool) for pool in pools]
    true = [true_eer(pool) for pool in pools]
    assert np.argsort(predicted).tolist() == np.argsort(true).tolist() == [0, 1, 2]


def test_the_interval_is_about_the_prediction_and_repeats(make_domains: Make) -> None:
    data = make_domains(noise=0.6, shift=0.0)
    found = predict_eer(data, num_replicates=20)
    assert found.eer == compute_predicted_eer(data)
    assert found.interval.low < found.eer < found.interval.high
    assert predict_eer(data, num_replicates=20) == found
    assert predict_eer(data, num_replicates=20, seed=1) != found


def test_only_pairs_across_calls_count(domains: SelectionData, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[np.ndarray] = []

    def fit(self: MixtureCalibration, scores: np.ndarray) -> MixtureCalibration:
        fitted.append(scores)
        self.predicted_eer_ = 0.1
        return self

    monkeypatch.setattr(MixtureCalibration, "fit", fit)
    compute_predicted_eer(domains)
    compute_predicted_eer(replace(domains, pool_sessions=None))
    units, calls = domains.unit_pool, np.repeat(np.arange(30), 4)
    pairs = list(itertools.combinations(range(120), 2))
    np.testing.assert_allclose(fitted[0], [units[i] @ units[j] for i, j in pairs if calls[i] != calls[j]])
    np.testing.assert_allclose(fitted[1], [units[i] @ units[j] for i, j in pairs])


def test_one_gaussian_is_refused() -> None:
    random = np.random.default_rng(0)
    data = SelectionData(np.eye(400)[:2], np.arange(2), random.normal(size=(60, 400)), np.repeat(np.arange(30), 2))
    with pytest.raises(InputError, match="one Gaussian describes the scores as well as two"):
        compute_predicted_eer(data)
