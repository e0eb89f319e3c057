"""Clustering against the exact likelihood of every partition, a naive twin, and known speakers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from spkadapt.backend.adaptation import ClusterRetraining, TargetStatistics, cluster_sessions, clustering
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.backend.plda import Plda
from spkadapt.errors import InputError


def draw(
    seed: int, num_speakers: int, num_sessions: int, dim: int = 4
) -> tuple[TwoCovariance, np.ndarray, np.ndarray]:
    """A model, sessions drawn from it, and who speaks in each."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(2, dim, dim))
    model = TwoCovariance(generator.normal(size=dim), factors[0] @ factors[0].T, factors[1] @ factors[1].T / dim)
    speakers = generator.integers(num_speakers, size=num_sessions)
    y = generator.normal(size=(num_speakers, dim)) @ factors[0].T + model.mean
    return model, y[speakers] + generator.normal(size=(num_sessions, dim)) @ factors[1].T / np.sqrt(dim), speakers


def likelihood(model: TwoCovariance, x: np.ndarray, clusters: Any) -> float:
    """log p(x | who speaks), each cluster's density by its own big covariance I ⊗ within + 11ᵀ ⊗ between."""
    total = 0.0
    clusters = np.asarray(clusters)
    for cluster in np.unique(clusters):
        members = x[clusters == cluster] - model.mean
        n = len(members)
        covariance = np.kron(np.eye(n), model.within) + np.kron(np.ones((n, n)), model.between)
        flat = members.ravel()
        determinant = np.linalg.slogdet(2 * np.pi * covariance)[1]
        total -= (determinant + flat @ np.linalg.solve(covariance, flat)) / 2
    return total


def partitions(num_sessions: int) -> Iterator[list[int]]:
    """All of them, as numbers of clusters that rise as they first occur."""
    if num_sessions == 0:
        yield []
        return
    for rest in partitions(num_sessions - 1):
        for cluster in range(max(rest, default=-1) + 2):
            yield [*rest, cluster]


def naive_clusters(model: TwoCovariance, x: np.ndarray, threshold: float = 0.0) -> list[list[int]]:
    """Agglomeration that tries every pair in every round."""
    clusters = [[i] for i in range(len(x))]
    while True:

        def gain(a: list[int], b: list[int]) -> float:
            together = likelihood(model, x[a + b], [0] * len(a + b))
            return together - likelihood(model, x[a], [0] * len(a)) - likelihood(model, x[b], [0] * len(b))

        pairs = [(gain(a, b), i, j) for i, a in enumerate(clusters) for j, b in enumerate(clusters) if i < j]
        if not pairs or max(pairs)[0] <= threshold:
            return clusters
        _, i, j = max(pairs)
        clusters[i] += clusters.pop(j)


def as_sets(clusters: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(clusters == cluster).tolist()) for cluster in np.unique(clusters)}


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_partitions(seed: int) -> None:
    model, x, _ = draw(seed, 3, 6)
    every = list(partitions(6))
    assert len(every) == 203  # Bell's number
    best = max(every, key=lambda clusters: likelihood(model, x, clusters))
    assert as_sets(cluster_sessions(model, x)) == as_sets(np.array(best))


@pytest.mark.parametrize("threshold", [0.0, 3.0, -5.0])
@pytest.mark.parametrize(("seed", "num_speakers", "dim"), [(0, 8, 2), (1, 8, 2), (2, 8, 2), (0, 6, 1)])
def test_agglomeration_is_that_of_a_naive_twin(seed: int, num_speakers: int, dim: int, threshold: float) -> None:
    """Poorly separated speakers, so that clusters of many sizes form, and best partners change.

    In the last, a merged cluster becomes the best partner of a third, whose partner was neither of the two.
    """
    model, x, _ = draw(seed, num_speakers, 18, dim)
    clusters = cluster_sessions(model, x, threshold)
    assert as_sets(clusters) == {frozenset(members) for members in naive_clusters(model, x, threshold)}
    names, first = np.unique(clusters, return_index=True)
    np.testing.assert_array_equal(names, np.arange(len(names)))
    assert (np.diff(first) > 0).all()


def test_known_speakers_are_found_without_their_number() -> None:
    model, x, speakers = draw(1, 40, 150, dim=30)
    assert adjusted_rand_score(speakers, cluster_sessions(model, x)) > 0.98


def test_a_model_of_less_rank() -> None:
    model, x, _ = draw(2, 3, 12, dim=3)
    pad = np.eye(4)[:, :3]
    wide = TwoCovariance(pad @ model.mean, pad @ model.between @ pad.T, pad @ model.within @ pad.T)
    assert as_sets(cluster_sessions(wide, x @ pad.T)) == as_sets(cluster_sessions(model, x))


def test_a_single_session() -> None:
    model, x, _ = draw(0, 1, 1)
    np.testing.assert_array_equal(cluster_sessions(model, x), [0])


def recordings(channel: float) -> tuple[TwoCovariance, np.ndarray, np.ndarray, np.ndarray]:
    """Two calls of ten utterances each of 30 speakers, and a source that hears neither channel nor scale."""
    generator = np.random.default_rng(3)
    between = np.diag(np.linspace(2, 0.2, 60))
    source = TwoCovariance(np.zeros(60), between, np.eye(60))
    y = generator.normal(size=(30, 60)) * np.sqrt(np.diag(between))
    calls = np.repeat(y, 2, axis=0) + channel**0.5 * generator.normal(size=(60, 60))
    x = np.repeat(calls, 10, axis=0) + generator.normal(size=(600, 60))
    return source, 3 * x + 5, np.repeat(np.arange(60), 10), np.repeat(np.arange(30), 20)


def test_retraining_finds_the_speakers_and_trains_on_them() -> None:
    source, x, sessions, speakers = recordings(channel=0.3)
    adapted = ClusterRetraining().adapt(source, TargetStatistics.from_embeddings(x, sessions))
    trained = Plda(num_iterations=10, floor=1e-4).fit(x, speakers).model_
    for field in ("mean", "between", "within"):
        np.testing.assert_allclose(getattr(adapted, field), getattr(trained, field), rtol=1e-8, atol=1e-7)


def test_retraining_without_sessions() -> None:
    source, x, _, speakers = recordings(channel=0.0)
    adapted = ClusterRetraining().adapt(source, TargetStatistics.from_embeddings(x))
    trained = Plda().fit(x, speakers).model_
    assert np.linalg.norm(adapted.within - trained.within) < 0.2 * np.linalg.norm(trained.within)


def test_clusters_that_cannot_train(domains: Any) -> None:
    lone = TargetStatistics.from_embeddings(domains.embeddings)
    never, always = ClusterRetraining(threshold=np.inf), ClusterRetraining(threshold=-np.inf)
    expected = "expected two or more, one of them with two of 60 embeddings"
    with pytest.raises(InputError, match=f"clustering found 60 speakers in 60 sessions; {expected}"):
        never.prepare(domains.model, lone)
    with pytest.raises(InputError, match=f"clustering found 1 speakers in 12 sessions; {expected}"):
        always.prepare(domains.model, domains.target_domain)
    with pytest.raises(InputError, match="expected two or more sessions to cluster, found 1"):
        never.prepare(domains.model, TargetStatistics.from_embeddings(domains.embeddings, np.zeros(60)))


def test_too_many_sessions(domains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MOST_SESSIONS", 11)
    with pytest.raises(InputError, match="expected at most 11 sessions to cluster, found 12"):
        ClusterRetraining().prepare(domains.model, domains.target_domain)
