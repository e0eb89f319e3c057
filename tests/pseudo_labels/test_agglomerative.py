"""Average linkage against a loop, the silhouette against its definition, and both on calls of known callers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, silhouette_score

from spkadapt.errors import InputError
from spkadapt.pseudo_labels import agglomerative, cluster_agglomerative, recording_means

seeds = st.integers(0, 2**31)


def direct_partitions(embeddings: np.ndarray) -> list[np.ndarray]:
    """Partitions into n, n − 1, …, 1 clusters, the pair of highest mean cosine merged each time."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    clusters = [[row] for row in range(len(unit))]
    partitions = []
    while True:
        labels = np.empty(len(unit), dtype=int)
        for number, cluster in enumerate(sorted(clusters, key=min)):
            labels[cluster] = number
        partitions.append(labels)
        if len(clusters) == 1:
            return partitions
        pairs = [(a, b) for b in range(len(clusters)) for a in range(b)]
        a, b = max(pairs, key=lambda pair: cosines[np.ix_(clusters[pair[0]], clusters[pair[1]])].mean())
        clusters[a] = clusters[a] + clusters.pop(b)


def direct_silhouette(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Rousseeuw's, where it is defined; zero where every row is alone."""
    if labels.max() + 1 == len(labels):
        return 0.0
    return float(silhouette_score(embeddings, labels, metric="cosine"))


@given(seeds, st.integers(1, 14), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_every_cut_is_that_of_the_loop(seed: int, num_rows: int, dim: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(num_rows, dim))
    for labels in direct_partitions(embeddings):
        assert cluster_agglomerative(embeddings, int(labels.max()) + 1).tolist() == labels.tolist()


@given(seeds, st.integers(2, 14), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_the_cut_of_greatest_silhouette_is_taken(seed: int, num_rows: int, dim: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(num_rows, dim))
    partitions = direct_partitions(embeddings)[:-1]
    for fewest in (2, None):
        allowed = [labels for labels in partitions if labels.max() + 1 >= (fewest or num_rows**0.5)]
        expected = max(allowed, key=lambda labels: direct_silhouette(embeddings, labels))
        assert cluster_agglomerative(embeddings, fewest_clusters=fewest).tolist() == expected.tolist()


@given(seeds, st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_silhouettes_after_any_merges(seed: int, num_rows: int) -> None:
    """Not only those of average linkage: what is kept from one merge to the next must hold for all."""
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(num_rows, 3))
    distances = 1 - (unit := embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) @ unit.T
    np.fill_diagonal(distances, 0)
    alive, merges = list(range(num_rows)), []
    for number in range(num_rows - 1):
        pair = [alive.pop(int(generator.integers(len(alive)))) for _ in range(2)]
        merges.append(pair)
        alive.append(num_rows + number)
    found = agglomerative.silhouettes(distances, np.array(merges))
    labels = np.arange(num_rows)
    for number, value in enumerate(found):
        assert value == pytest.approx(direct_silhouette(embeddings, np.unique(labels, return_inverse=True)[1]))
        labels[np.isin(labels, merges[number])] = num_rows + number


def simulate_calls(
    seed: int, num_callers: int, spread: float, sexes: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, the call of each, and the caller of each call: 1 + Poisson(1.2) calls, of ten utterances.

    Callers, and calls of one caller, differ along few directions. `spread` is how far calls of a caller differ,
    `sexes` how far the two halves of the callers are from the middle.
    """
    generator = np.random.default_rng(seed)
    scale = np.exp(-np.arange(64) / 20)
    callers = scale * generator.normal(size=(num_callers, 64))
    callers[:, 0] += sexes * generator.choice([-1, 1], size=num_callers)
    caller_of = np.repeat(np.arange(num_callers), 1 + generator.poisson(1.2, num_callers))
    noise = generator.permutation(scale) * generator.normal(size=(len(caller_of), 64))
    embeddings = np.repeat(callers[caller_of] + spread * noise, 10, axis=0)
    embeddings += generator.normal(size=embeddings.shape)
    return embeddings - embeddings.mean(axis=0), np.repeat(np.arange(len(caller_of)), 10), caller_of


@pytest.mark.parametrize("sexes", [1, 3])
@pytest.mark.parametrize("spread", [0.3, 0.5, 0.8])
def test_stops_near_the_best_cut_in_hindsight(spread: float, sexes: float) -> None:
    ours, best = [], []
    for seed in range(4):
        embeddings, recordings, callers = simulate_calls(seed, 100, spread, sexes)
        means, _ = recording_means(embeddings, recordings)
        ours.append(adjusted_rand_score(callers, cluster_agglomerative(means)))
        cuts = [cluster_agglomerative(means, number) for number in range(2, len(means), 3)]
        best.append(max(adjusted_rand_score(callers, labels) for labels in cuts))
    assert np.mean(ours) > np.mean(best) - 0.1
    assert np.mean(ours) > 0.5


def test_two_sexes_are_what_the_silhouette_alone_would_find() -> None:
    embeddings, recordings, _ = simulate_calls(0, 100, 0.5, 3)
    means, _ = recording_means(embeddings, recordings)
    assert cluster_agglomerative(means, fewest_clusters=2).max() + 1 == 2
    assert cluster_agglomerative(means).max() + 1 > 50


def test_separate_groups_are_found_whatever_their_sizes() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), [1, 2, 3, 5, 9, 30])
    embeddings = np.eye(6)[truth] + 0.05 * generator.normal(size=(50, 6))
    assert cluster_agglomerative(embeddings, fewest_clusters=2).tolist() == truth.tolist()
    in_float32 = 3 * embeddings.astype(np.float32)
    assert cluster_agglomerative(in_float32, fewest_clusters=2).tolist() == truth.tolist()


def test_corners() -> None:
    assert cluster_agglomerative(np.ones((1, 3))).tolist() == [0]
    assert cluster_agglomerative(np.eye(2)).tolist() == [0, 1]
    assert cluster_agglomerative(np.eye(2), 1).tolist() == [0, 0]
    assert cluster_agglomerative(np.eye(4)).tolist() == [0, 1, 2, 3]  # no pair is nearer than any other
    assert cluster_agglomerative(np.repeat(np.eye(4), 4, axis=0)).tolist() == np.repeat(range(4), 4).tolist()


def test_bad_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 4):
        with pytest.raises(InputError, match=f"num_clusters is {number}; expected 1 to 3, the number of rows"):
            cluster_agglomerative(np.eye(3), number)
        with pytest.raises(InputError, match=f"fewest_clusters is {number}; expected 1 to 3"):
            cluster_agglomerative(np.eye(3), fewest_clusters=number)
    monkeypatch.setattr(agglomerative, "MOST_ROWS", 2)
    with pytest.raises(InputError, match="expected at most 2 rows to cluster, found 3"):
        cluster_agglomerative(np.eye(3))
