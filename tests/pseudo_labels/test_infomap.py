"""The map equation by hand and by entropies, Infomap's own figure, and the best of all partitions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from spkadapt.errors import InputError
from spkadapt.pseudo_labels import cluster_infomap, infomap, map_equation, mutual_neighbour_graph
from spkadapt.pseudo_labels.infomap import find_communities

seeds = st.integers(0, 2**31)
# Two triangles joined by an edge.
TRIANGLES = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]


def graph_of(edges: list[tuple[int, int]], num_nodes: int) -> sparse.csr_array:
    weights = np.zeros((num_nodes, num_nodes))
    for a, b in edges:
        weights[a, b] = weights[b, a] = 1
    return sparse.csr_array(weights)


def random_graph(seed: int, num_nodes: int) -> sparse.csr_array:
    """Few or many edges, of weights alike or far apart."""
    generator = np.random.default_rng(seed)
    weights = generator.uniform(size=(num_nodes, num_nodes)) ** generator.integers(1, 6)
    weights *= generator.uniform(size=(num_nodes, num_nodes)) < generator.choice([0.2, 0.4, 0.7])
    return sparse.csr_array(np.triu(weights, 1) + np.triu(weights, 1).T)


def entropy(shares: list[float]) -> float:
    total = sum(shares)
    return -sum(share / total * math.log2(share / total) for share in shares if share > 0)


def direct_length(weights: np.ndarray, labels: np.ndarray) -> float:
    """Rosvall & Bergstrom's equation 1 in words: an index codebook, and one with an exit for each module."""
    total = weights.sum()
    if total == 0:
        return 0.0
    visits = weights.sum(axis=1) / total
    modules = [np.flatnonzero(labels == module) for module in np.unique(labels)]
    exits = [
        sum(weights[a, b] for a in rows for b in range(len(weights)) if b not in rows) / total for rows in modules
    ]
    length = sum(exits) * entropy(exits) if sum(exits) > 0 else 0.0
    for rows, leaving in zip(modules, exits, strict=True):
        shares = [leaving, *visits[rows].tolist()]
        length += sum(shares) * entropy(shares) if sum(shares) > 0 else 0.0
    return length


def partitions(num_nodes: int) -> Iterator[np.ndarray]:
    """All of them, once each, as restricted growth strings."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == num_nodes:
            yield labels
        else:
            for label in range(max(labels, default=-1) + 2):
                yield from grow([*labels, label])

    return (np.array(labels) for labels in grow([]))


def test_two_triangles_by_hand() -> None:
    graph = graph_of(TRIANGLES, 6)
    # Visits are 2/14 for four nodes and 3/14 for two; one module is their entropy.
    one = 4 * (1 / 7) * math.log2(7) + 2 * (3 / 14) * math.log2(14 / 3)
    assert map_equation(graph, np.zeros(6, dtype=int)) == pytest.approx(one, rel=1e-12)
    # Two modules, each left with 1/14: the index takes one bit 1/7 of the time; each module's codebook is used
    # 8/14 of the time, for words of shares 1 (exit), 2, 2 and 3 of 8.
    codebook = 1 / 8 * 3 + 2 * (1 / 4) * 2 + 3 / 8 * math.log2(8 / 3)
    two = 1 / 7 + 2 * (8 / 14) * codebook
    assert map_equation(graph, np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(two, rel=1e-12)
    assert two < one
    assert find_communities(graph, np.random.default_rng(0)).tolist() == [0, 0, 0, 1, 1, 1]


def test_infomap_on_zacharys_karate_club() -> None:
    # What Infomap 2.16 (mapequation.org) finds with two levels: three modules, 4.3117926458 bits.
    networkx = pytest.importorskip("networkx")
    graph = sparse.csr_array(
        networkx.to_scipy_sparse_array(networkx.karate_club_graph(), weight=None, dtype=float)
    )
    labels = find_communities(graph, np.random.default_rng(0))
    assert labels.max() + 1 == 3
    assert map_equation(graph, labels) == pytest.approx(4.3117926458018285, rel=1e-12)


@given(seeds, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_equals_the_entropies(seed: int, num_nodes: int) -> None:
    graph = random_graph(seed, num_nodes)
    labels = np.unique(np.random.default_rng(seed + 1).integers(3, size=num_nodes), return_inverse=True)[1]
    assert map_equation(graph, labels) == pytest.approx(
        direct_length(graph.toarray(), labels), rel=1e-9, abs=1e-12
    )


@given(seeds, st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_modules_as_nodes_code_the_same_flow(seed: int, num_nodes: int) -> None:
    """Gathering nodes changes only the nodes' own part of the length, whatever partition of modules follows."""
    graph = random_graph(seed, num_nodes)
    modules = np.unique(np.random.default_rng(seed).integers(4, size=num_nodes), return_inverse=True)[1]
    membership = sparse.csr_array(np.eye(modules.max() + 1)[modules])
    gathered = (membership.T @ graph @ membership).tocsr()
    together = np.zeros(gathered.shape[0], dtype=int)
    apart = np.arange(gathered.shape[0])
    difference = map_equation(graph, together[modules]) - map_equation(graph, apart[modules])
    expected = map_equation(gathered, together) - map_equation(gathered, apart)
    assert difference == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_the_best_of_all_partitions(seed: int) -> None:
    graph = random_graph(seed, 6)
    found = min(map_equation(graph, find_communities(graph, np.random.default_rng(s))) for s in range(8))
    assert found == pytest.approx(min(map_equation(graph, labels) for labels in partitions(6)), abs=1e-9)


@given(seeds)
@example(39)  # here, and below, a node must be let out into a module of its own
@example(81)
@example(155)
@settings(max_examples=20, deadline=None)
def test_no_single_move_shortens_the_code(seed: int) -> None:
    graph = random_graph(seed, 20)
    labels = find_communities(graph, np.random.default_rng(seed))
    length = map_equation(graph, labels)
    for node in range(20):
        for module in range(labels.max() + 2):
            moved = labels.copy()
            moved[node] = module
            assert map_equation(graph, np.unique(moved, return_inverse=True)[1]) > length - 1e-9


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_flow_is_kept_as_nodes_move(seed: int) -> None:
    graph, generator = random_graph(seed, 12), np.random.default_rng(seed)
    flow = infomap._Flow(graph, np.arange(12))
    for node in generator.integers(12, size=40).tolist():
        length = map_equation(graph, np.array(flow.label))
        moved = flow.move_to_best(node)
        assert (map_equation(graph, np.array(flow.label)) < length) == moved
        anew = infomap._Flow(graph, np.array(flow.label))
        assert flow.exits == pytest.approx(anew.exits, abs=1e-12)
        assert flow.inside == pytest.approx(anew.inside, abs=1e-12)
        assert flow.total_exit == pytest.approx(anew.total_exit, abs=1e-12)
        assert flow.size == anew.size
        assert sorted(flow.empty) == anew.empty


@pytest.mark.parametrize("num_neighbours", [1, 2, 5])
def test_mutual_neighbours(monkeypatch: pytest.MonkeyPatch, num_neighbours: int) -> None:
    embeddings = np.random.default_rng(0).normal(size=(11, 3))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    near = [{j for j in np.argsort(-cosines[i]) if j != i} for i in range(11)]
    near = [set(sorted(row, key=lambda j, i=i: -cosines[i, j])[:num_neighbours]) for i, row in enumerate(near)]
    expected = np.zeros((11, 11))
    for i in range(11):
        for j in near[i]:
            if i in near[j]:
                expected[i, j] = max(cosines[i, j], 0)
    for rows in (4096, 4):
        monkeypatch.setattr("spkadapt.pseudo_labels.infomap._BLOCK_ROWS", rows)
        graph = mutual_neighbour_graph(embeddings, num_neighbours).toarray()
        np.testing.assert_allclose(graph, expected, atol=1e-14)
        assert (graph == graph.T).all()


def test_speakers_of_three_recordings_are_found() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(20), 3)
    embeddings = generator.normal(size=(20, 30))[truth] + 0.3 * generator.normal(size=(60, 30))
    assert cluster_infomap(embeddings, 2).tolist() == truth.tolist()


def test_corners() -> None:
    assert cluster_infomap(np.ones((1, 2))).tolist() == [0]
    assert cluster_infomap(np.eye(3)).tolist() == [0, 1, 2]  # no edge has any weight
    assert cluster_infomap(np.ones((4, 2)), 3).tolist() == [0, 0, 0, 0]
    assert map_equation(sparse.csr_array((2, 2)), np.array([0, 1])) == 0


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="num_neighbours is 0; expected at least 1"):
        cluster_infomap(np.eye(3), 0)
    with pytest.raises(InputError, match="num_restarts is 0; expected at least 1"):
        cluster_infomap(np.eye(3), num_restarts=0)
