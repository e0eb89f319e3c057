"""Telling domains apart: scikit-learn's logistic regression, both ends of the distance, and honest folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from spkadapt.select import SelectionData
from spkadapt.select import domain_classifier as module
from spkadapt.select.domain_classifier import compute_proxy_a_distance, cross_fit_log_odds, fit_domain_classifier


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_parity_with_scikit_learn(scale: float) -> None:
    """Of standardised data, with C = 1 and balanced classes; the scale of the embeddings is of no account."""
    random = np.random.default_rng(0)
    is_pool = np.arange(90) >= 60
    rows = random.normal(size=(90, 6)) @ random.normal(size=(6, 6)) + 0.7 * is_pool[:, None] + 3.0
    centred = rows - rows.mean(axis=0)
    deviation = np.sqrt((centred**2).mean())
    peer = LogisticRegression(class_weight="balanced", tol=1e-12, max_iter=10000).fit(centred / deviation, is_pool)
    weights, offset = fit_domain_classifier(scale * rows, is_pool)
    np.testing.assert_allclose(weights * scale * deviation, peer.coef_[0], rtol=1e-5)
    expected = peer.decision_function(centred / deviation)
    np.testing.assert_allclose(scale * rows @ weights + offset, expected, rtol=1e-5, atol=1e-6)


def test_separable_and_constant_data_have_a_finite_answer() -> None:
    is_pool = np.array([False, False, True, True])
    weights, offset = fit_domain_classifier(np.array([[-1.0], [-1.0], [1.0], [1.0]]), is_pool)
    assert 0 < weights[0] < np.inf
    assert offset == pytest.approx(0, abs=1e-9)
    weights, offset = fit_domain_classifier(np.ones((4, 2)), np.array([False, True, True, True]))
    np.testing.assert_allclose([*weights, offset], 0, atol=1e-12)  # both weigh alike


def make(shift: float, num: int = 60) -> SelectionData:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(num), 3)
    source, pool = (
        random.normal(size=(num, 5))[groups] + 0.1 * random.normal(size=(3 * num, 5)) for _ in range(2)
    )
    return SelectionData(source - shift, groups, pool + shift, groups)


def test_the_distance_runs_from_none_to_two() -> None:
    assert compute_proxy_a_distance(make(50.0)) == 2
    assert abs(compute_proxy_a_distance(make(0.0))) < 0.4
    middle = compute_proxy_a_distance(make(0.3))
    assert 0.2 < middle < 1.8


def test_the_distance_is_of_balanced_errors() -> None:
    """A pool six times as large is not told apart by saying `pool` always."""
    data = make(0.0)
    few = replace(data, source=data.source[:30], source_speakers=data.source_speakers[:30])
    assert compute_proxy_a_distance(few) < 0.6


def test_no_speaker_or_call_is_in_two_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers far apart, each in one place: a classifier that had met them would know them all."""
    fitted: list[np.ndarray] = []

    def fit(embeddings: np.ndarray, is_pool: np.ndarray) -> tuple[np.ndarray, float]:
        fitted.append(embeddings)
        return np.zeros(embeddings.shape[1]), 0.0

    monkeypatch.setattr(module, "fit_domain_classifier", fit)
    data = make(0.0)
    cross_fit_log_odds(data)
    assert len(fitted) == 5
    everything = np.concatenate([data.unit_source, data.unit_pool])
    groups = np.concatenate([data.speaker_numbers, 100 + data.session_numbers])
    for rows in fitted:
        inside = np.array([(rows == row).all(axis=1).any() for row in everything])
        assert 0 < inside.sum() < len(everything)
        for group in np.unique(groups):
            assert len(np.unique(inside[groups == group])) == 1


def test_without_sessions_utterances_are_folded() -> None:
    data = replace(make(50.0), pool_sessions=None)
    log_odds, is_pool, rows = cross_fit_log_odds(data)
    assert is_pool.sum() == 180
    np.testing.assert_array_equal(rows[is_pool], np.arange(180))
    assert ((log_odds > 0) == is_pool).all()


def test_it_is_the_same_every_time_and_whatever_the_groups_are_called() -> None:
    data = make(0.3)
    renamed = replace(data, source_speakers=np.char.zfill(data.source_speakers.astype(str), 4))
    assert compute_proxy_a_distance(data) == compute_proxy_a_distance(data) == compute_proxy_a_distance(renamed)
