"""Spherical k-means: its objective, its start, empty clusters, and the best of all partitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.pseudo_labels import cluster_kmeans, kmeans

seeds = st.integers(0, 2**31)


def objective(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Σ cos(x, c) with the best centres, which is the sum of the lengths of the clusters' sums."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return float(sum(np.linalg.norm(unit[labels == k].sum(axis=0)) for k in np.unique(labels)))


@given(seeds, st.integers(1, 3), st.integers(2, 3))
@settings(max_examples=15, deadline=None)
def test_finds_the_best_of_all_partitions(seed: int, num_clusters: int, dim: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(7, dim))
    labels = cluster_kmeans(embeddings, num_clusters, num_restarts=40, seed=seed)
    every = (np.array(partition) for partition in product(range(num_clusters), repeat=7))
    best = max(objective(embeddings, partition) for partition in every)
    assert objective(embeddings, labels) == pytest.approx(best)


@given(seeds, st.integers(1, 30), st.integers(1, 12), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_fixed_point_with_every_cluster(seed: int, num_rows: int, num_clusters: int, dim: int) -> None:
    num_clusters = min(num_clusters, num_rows)
    embeddings = np.random.default_rng(seed).normal(size=(num_rows, dim))
    labels = cluster_kmeans(embeddings, num_clusters, num_restarts=3, seed=seed)
    assert list(dict.fromkeys(labels.tolist())) == list(range(num_clusters))
    assert cluster_kmeans(embeddings, num_clusters, num_restarts=3, seed=seed).tolist() == labels.tolist()
    if dim == 1:  # two directions: clusters beyond two have equal rows, and stay as the empty ones were filled
        return
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    centres = np.stack([unit[labels == k].sum(axis=0) for k in range(num_clusters)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    cosines = unit @ centres.T
    assert (cosines[np.arange(num_rows), labels] >= cosines.max(axis=1) - 1e-12).all()


def test_more_restarts_do_no_worse() -> None:
    embeddings = np.random.default_rng(0).normal(size=(60, 5))
    values = [objective(embeddings, cluster_kmeans(embeddings, 9, num_restarts=n, seed=1)) for n in (1, 4, 16)]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_first_centres_are_drawn_by_distance() -> None:
    # From x the squared distances are 2 (1 − cos): 0 to itself, 2 to y, 4 to −x; drawn 1 : 2.
    directions = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    generator = np.random.default_rng(0)
    seconds = []
    for _ in range(3000):
        first, second = kmeans._draw_centres(directions, 2, generator)
        if first.tolist() == [1.0, 0.0]:
            seconds.append(second.tolist())
    share = seconds.count([-1.0, 0.0]) / len(seconds)
    assert seconds.count([1.0, 0.0]) == 0
    assert abs(share - 2 / 3) < 5 * np.sqrt(2 / 9 / len(seconds))  # five standard errors


def test_a_centre_is_drawn_by_distance_from_the_nearest_before() -> None:
    # With x and −x drawn, y is at 2 from both, and z, of which 1 − cos to x is 0.02, at 0.04: drawn 50 : 1.
    near = np.array([0.98, np.sqrt(1 - 0.98**2)])
    directions = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], near])
    generator = np.random.default_rng(0)
    thirds = []
    while len(thirds) < 500:
        centres = kmeans._draw_centres(directions, 3, generator)
        if {tuple(centre) for centre in centres[:2]} == {(1.0, 0.0), (-1.0, 0.0)}:
            thirds.append(centres[2].tolist())
    share = thirds.count([0.0, -1.0]) / len(thirds)
    assert abs(share - 50 / 51) < 5 * np.sqrt(50 / 51**2 / len(thirds))


def test_equal_rows() -> None:
    assert cluster_kmeans(np.ones((4, 2)), 4).tolist() == [0, 1, 2, 3]
    assert cluster_kmeans(np.ones((4, 2)), 1).tolist() == [0, 0, 0, 0]
    labels = cluster_kmeans(np.repeat(np.eye(2), 5, axis=0), 2)
    assert labels.tolist() == [0] * 5 + [1] * 5


def test_an_empty_cluster_takes_the_row_that_fits_worst() -> None:
    cosines = np.array([[0.9, 0.1, -1.0], [0.2, 0.1, -1.0], [0.8, 0.7, -1.0], [0.0, 0.3, -1.0]])
    assert kmeans._fill_empty(cosines).tolist() == [0, 2, 0, 1]
    # The worst of all is alone in its cluster, which would then be empty in turn.
    cosines = np.array([[-1.0, 0.9, 0.1], [-1.0, 0.5, 0.1], [-1.0, 0.0, 0.1]])
    assert kmeans._fill_empty(cosines).tolist() == [1, 0, 2]


def test_bad_arguments() -> None:
    for number in (0, 4):
        with pytest.raises(InputError, match=f"num_clusters is {number}; expected 1 to 3, the number of rows"):
            cluster_kmeans(np.eye(3), number)
    for name in ("num_restarts", "max_iterations"):
        with pytest.raises(InputError, match=f"{name} is 0; expected at least 1"):
            cluster_kmeans(np.eye(3), 2, **{name: 0})
