"""Statistics of a domain against their definitions, and what they have no room for."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from spkadapt.backend.adaptation import SourceStatistics, TargetStatistics
from spkadapt.errors import InputError

RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.normal(size=(12, 3)) + 4
SESSIONS = np.array(["b", "a", "c", "a", "b", "c", "c", "a", "d", "b", "c", "a"])


def test_target_statistics_match_their_definitions() -> None:
    statistics = TargetStatistics.from_embeddings(EMBEDDINGS.astype(np.float32), SESSIONS)
    x = EMBEDDINGS.astype(np.float32).astype(np.float64)
    scatter = np.zeros((3, 3))
    for vector, session in zip(x, SESSIONS, strict=True):
        residual = vector - np.mean([y for y, other in zip(x, SESSIONS, strict=True) if other == session], axis=0)
        scatter += np.outer(residual, residual)
    assert (statistics.num_embeddings, statistics.num_sessions) == (12, 4)
    np.testing.assert_allclose(statistics.mean, sum(x) / 12, rtol=1e-14)
    np.testing.assert_allclose(statistics.total, np.cov(x.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(statistics.within_session, scatter / (12 - 4), rtol=1e-12)


@pytest.mark.parametrize("sessions", [None, np.arange(12)])
def test_without_repeated_sessions_nothing_is_known_within_one(sessions: np.ndarray | None) -> None:
    statistics = TargetStatistics.from_embeddings(EMBEDDINGS, sessions)
    assert statistics.within_session is None
    assert statistics.num_sessions == 12
    np.testing.assert_allclose(statistics.total, np.cov(EMBEDDINGS.T, bias=True), rtol=1e-12)


def test_merged_sessions_are_as_if_they_had_been_one() -> None:
    statistics = TargetStatistics.from_embeddings(EMBEDDINGS, SESSIONS)
    merged = statistics.merge_sessions(np.array([7, 3, 7, 3]))  # of a, b, c and d
    expected = TargetStatistics.from_embeddings(EMBEDDINGS, [{"a": 7, "c": 7}.get(s, 3) for s in SESSIONS])
    np.testing.assert_array_equal(merged.sessions.counts, expected.sessions.counts)
    np.testing.assert_allclose(merged.sessions.means, expected.sessions.means, rtol=1e-13)
    np.testing.assert_allclose(merged.within_session, expected.within_session, rtol=1e-12)
    np.testing.assert_allclose(merged.total, statistics.total, rtol=1e-12)


def test_source_statistics_match_their_definitions() -> None:
    whole = SourceStatistics.from_embeddings(EMBEDDINGS)
    parts = SourceStatistics.from_embeddings(EMBEDDINGS, SESSIONS)
    np.testing.assert_allclose(whole.subsets.means, [EMBEDDINGS.mean(axis=0)], rtol=1e-14)
    np.testing.assert_allclose(parts.subsets.means[3], EMBEDDINGS[8], rtol=1e-14)
    for statistics in (whole, parts):
        np.testing.assert_allclose(statistics.mean, EMBEDDINGS.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(statistics.total, np.cov(EMBEDDINGS.T, bias=True), rtol=1e-12)


def test_no_type_has_room_for_a_speaker() -> None:
    assert [field.name for field in fields(TargetStatistics)] == ["sessions"]
    assert [field.name for field in fields(SourceStatistics)] == ["subsets"]


@pytest.mark.parametrize("kind", [SourceStatistics, TargetStatistics])
@pytest.mark.parametrize(
    ("embeddings", "classes", "message"),
    [
        (np.zeros((0, 3)), None, r"expected at least one embedding to adapt to or from, found shape \(0, 3\)"),
        (np.zeros(3), None, r"floats of shape \(num_embeddings, dim\), found float64 of shape \(3,\)"),
        (np.array([[1.0], [np.nan]]), None, "1 of 2 embeddings hold NaN or infinity, first row 1"),
        (np.zeros((2, 3)), ["a"], r"expected one class for each of 2 embeddings, found \(1,\)"),
    ],
)
def test_bad_embeddings(kind: type, embeddings: np.ndarray, classes: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind.from_embeddings(embeddings, classes)


def test_clusters_that_are_not_one_for_each_session() -> None:
    with pytest.raises(InputError, match="expected one class for each of 4 embeddings"):
        TargetStatistics.from_embeddings(EMBEDDINGS, SESSIONS).merge_sessions(np.zeros(3))
