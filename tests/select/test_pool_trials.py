"""Trials that a pool makes of itself, against their enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer
from spkadapt.select import SelectionData, unit_rows
from spkadapt.select import pool_trials as module
from spkadapt.select.pool_trials import (
    find_pseudo_speakers,
    pair_nearest,
    pseudo_speaker_trials,
    same_recording_trials,
)

SESSIONS = np.array([0, 0, 1, 2, 2, 2, 3])


def pseudo_speakers_of(*models: SelectionData) -> np.ndarray:
    return find_pseudo_speakers([model.unit_pool for model in models], models[0].session_numbers)


def test_same_recording_trials_are_all_pairs() -> None:
    trials = same_recording_trials(SESSIONS)
    expected = [(i, j, SESSIONS[i] == SESSIONS[j]) for i, j in itertools.combinations(range(7), 2)]
    found = list(zip(trials.first.tolist(), trials.second.tolist(), trials.is_target.tolist(), strict=True))
    assert found == expected


def test_pseudo_speaker_trials_are_all_pairs_across_sessions() -> None:
    pseudo = np.array([0, 1, 0, 3])
    trials = pseudo_speaker_trials(SESSIONS, pseudo)
    expected = [
        (i, j, pseudo[SESSIONS[i]] == pseudo[SESSIONS[j]])
        for i, j in itertools.combinations(range(7), 2)
        if SESSIONS[i] != SESSIONS[j]
    ]
    found = list(zip(trials.first.tolist(), trials.second.tolist(), trials.is_target.tolist(), strict=True))
    assert found == expected


def test_the_eer_is_that_of_the_cosines(domains: SelectionData) -> None:
    trials = same_recording_trials(domains.session_numbers)
    units = unit_rows(domains.pool)
    scores = [units[i] @ units[j] for i, j in zip(trials.first, trials.second, strict=True)]
    np.testing.assert_allclose(trials.score(domains), scores, rtol=1e-12)
    assert trials.eer(domains) == compute_eer(np.array(scores), trials.is_target)


def test_large_pools_are_thinned(domains: SelectionData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SESSIONS", 10)
    monkeypatch.setattr(module, "MOST_UTTERANCES", 3)
    trials = same_recording_trials(domains.session_numbers)
    assert len(trials.first) == 30 * 29 // 2
    assert trials.is_target.sum() == 10 * 3
    assert trials.score(domains).shape == (435,)


def test_of_many_sessions_pairs_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Session 4 of seven is nobody's partner; of three pairs, there may be room for two."""
    sessions, pseudo = np.repeat(np.arange(7), 2), np.array([0, 1, 1, 0, 4, 5, 5])
    for most, used in ((4, {0, 1, 2, 3}), (6, {0, 1, 2, 3, 5, 6}), (7, set(range(7)))):
        monkeypatch.setattr(module, "MOST_SESSIONS", most)
        trials = pseudo_speaker_trials(sessions, pseudo)
        assert set(sessions[np.concatenate([trials.first, trials.second])]) == used
        assert trials.is_target.sum() == 4 * (len(used) // 2)
    monkeypatch.setattr(module, "MOST_SESSIONS", 4)
    with pytest.raises(InputError, match="needs more sessions to find pseudo-speakers in, found 7"):
        pseudo_speaker_trials(sessions, np.arange(7))


def test_of_very_many_sessions_some_are_paired(domains: SelectionData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thirty sessions every second: none of its partners, as sessions 2n and 2n + 1 are not both there."""
    numbered = replace(domains, pool_sessions=np.repeat(np.arange(30), 4))
    monkeypatch.setattr(module, "_MOST_PAIRED", 15)
    found = pseudo_speakers_of(numbered)
    np.testing.assert_array_equal(found[1::2], np.arange(1, 30, 2))
    assert (found[::2] % 2 == 0).all()


def test_callers_are_found_where_calls_are_clear(domains: SelectionData) -> None:
    """Sessions are numbered as their names sort: call0, call1, call10, call11, ..."""
    order = sorted(range(30), key=lambda call: f"call{call}")
    caller = np.array([call // 2 for call in order])
    pseudo = pseudo_speakers_of(domains)
    np.testing.assert_array_equal(caller[pseudo], caller)
    assert len(np.unique(pseudo)) == 15


def test_models_agree_on_pseudo_speakers() -> None:
    """Two models that see 0-1 and 2-3 as pairs, weakly, outvote one that sees 0-2 and 1-3 on a larger scale."""

    def model(rows: list[list[float]]) -> SelectionData:
        pool = np.repeat(np.array(rows), 2, axis=0)
        return SelectionData(pool, np.arange(8), pool, np.repeat(np.arange(4), 2))

    pairs = model([[1, 0.0], [1, 0.1], [1, 0.5], [1, 0.6]])
    other = model([[1, 0.0], [0, 1.0], [1, 0.1], [0.1, 1.0]])
    np.testing.assert_array_equal(pseudo_speakers_of(pairs), [0, 0, 2, 2])
    np.testing.assert_array_equal(pseudo_speakers_of(other), [0, 1, 0, 1])
    np.testing.assert_array_equal(pseudo_speakers_of(pairs, pairs, other), [0, 0, 2, 2])


def test_a_partner_must_return_the_favour() -> None:
    """The nearest of 2 is 1, whose nearest is 0."""
    similarities = np.array([[9, 3.0, 0.0], [3.0, 9, 2.0], [0.0, 2.0, 9]])
    np.testing.assert_array_equal(pair_nearest(similarities), [0, 0, 2])


@pytest.mark.parametrize("sessions", [np.zeros(4, dtype=int), np.arange(4)])
def test_same_recording_needs_both_kinds(sessions: np.ndarray) -> None:
    with pytest.raises(InputError, match="two sessions of the pool, and two utterances of some session"):
        same_recording_trials(sessions)


def test_pseudo_speakers_need_calls() -> None:
    with pytest.raises(InputError, match="needs more sessions to find pseudo-speakers in, found 2"):
        pseudo_speaker_trials(np.array([0, 0, 1]), np.array([0, 0]))
    with pytest.raises(InputError, match="needs more sessions to find pseudo-speakers in, found 4"):
        pseudo_speaker_trials(SESSIONS, np.arange(4))


def test_agreed_pseudo_speakers_are_those_used(domains: SelectionData) -> None:
    from spkadapt.select.validators import compute_pseudo_speaker_eer

    found = pseudo_speakers_of(domains)
    wrong = np.random.default_rng(0).permutation(15).repeat(2)
    alone = compute_pseudo_speaker_eer(domains)
    assert compute_pseudo_speaker_eer(replace(domains, pseudo_speakers=found)) == alone < 0.15
    assert compute_pseudo_speaker_eer(replace(domains, pseudo_speakers=wrong)) > 0.3
