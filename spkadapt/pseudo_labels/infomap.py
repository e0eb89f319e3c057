"""Communities of a graph of neighbours by the map equation: Infomap, of two levels."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.special import xlogy

from spkadapt.errors import InputError
from spkadapt.pseudo_labels.embeddings import number_from_zero, unit_rows

_BLOCK_ROWS = 4096
_LEAST_GAIN = 1e-10  # bits; less is rounding


def cluster_infomap(
    embeddings: np.ndarray, num_neighbours: int = 3, *, num_restarts: int = 5, seed: int = 0
) -> np.ndarray:
    """Communities of `mutual_neighbour_graph` with the shortest map equation that is found.

    Rows are moved to the neighbouring community that shortens the code most, in random order, until none is; then
    communities are moved in the same way, and rows again, as in Rosvall, Axelsson & Bergstrom (2009). The best of
    all restarts is kept. There is no number of clusters and no threshold, and rows without a mutual neighbour stay
    alone; but `num_neighbours` sets the scale, and should be about the number of recordings that a speaker has:
    speakers with fewer are joined, speakers with many more divided.

    Shape:
        embeddings: `(n, dim)`, as a rule `recording_means`
        returns `(n,)`, community numbers from 0 in the order in which they first occur

    Raises:
        InputError: what `mutual_neighbour_graph` refuses, or `num_restarts` below 1.
    """
    if num_restarts < 1:
        raise InputError(f"num_restarts is {num_restarts}; expected at least 1")
    graph = mutual_neighbour_graph(embeddings, num_neighbours)
    generator = np.random.default_rng(seed)
    runs = [find_communities(graph, generator) for _ in range(num_restarts)]
    return min(runs, key=lambda labels: map_equation(graph, labels))


def mutual_neighbour_graph(embeddings: np.ndarray, num_neighbours: int) -> sparse.csr_array:
    """Edges between rows that are among each other's nearest, weighted by their cosine, where that is positive.

    A neighbour must be mutual, since every row has some nearest rows, a speaker's only recording too.

    Shape:
        embeddings: `(n, dim)`
        returns `(n, n)`, symmetric, without self-loops

    Raises:
        InputError: what `unit_rows` refuses, or `num_neighbours` below 1.
    """
    if num_neighbours < 1:
        raise InputError(f"num_neighbours is {num_neighbours}; expected at least 1")
    directions = unit_rows(embeddings)
    num_rows = len(directions)
    num_neighbours = min(num_neighbours, num_rows - 1)
    if num_neighbours == 0:
        return sparse.csr_array((num_rows, num_rows))
    places, values = [], []
    for start in range(0, num_rows, _BLOCK_ROWS):
        cosines = directions[start : start + _BLOCK_ROWS] @ directions.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        nearest = np.argpartition(-cosines, num_neighbours - 1, axis=1)[:, :num_neighbours]
        places.append(nearest)
        values.append(np.take_along_axis(cosines, nearest, axis=1))
    rows = np.repeat(np.arange(num_rows), num_neighbours)
    edges = (np.maximum(np.concatenate(values).ravel(), 0), (rows, np.concatenate(places).ravel()))
    near = sparse.csr_array(edges, shape=(num_rows, num_rows))
    mutual = near.minimum(near.T).tocsr()  # a cosine is found twice, and may differ in its last digit
    mutual.eliminate_zeros()
    return mutual


def map_equation(graph: sparse.sparray, labels: np.ndarray) -> float:
    """Bits a step that the best two-level code of a random walk takes (Rosvall & Bergstrom 2008).

        L = q H(Q) + Σ_i p_i H(P_i)
          = q log q − 2 Σ_i q_i log q_i − Σ_α p_α log p_α + Σ_i (q_i + Σ_{α ∈ i} p_α) log(q_i + Σ_{α ∈ i} p_α)

    with p_α a node's share of the weight of all ends of edges, q_i the share that leaves module i, and q = Σ q_i.

    Shape:
        graph: `(n, n)`, symmetric, weights ≥ 0; a self-loop of weight w stands on the diagonal as 2 w
        labels: `(n,)`, from 0
    """
    edges = sparse.coo_array(graph)
    total = edges.data.sum()
    if total == 0:
        return 0.0
    visits = np.bincount(edges.row, edges.data, minlength=len(labels)) / total
    leaving = labels[edges.row] != labels[edges.col]
    num_modules = int(labels.max()) + 1
    exits = np.bincount(labels[edges.row[leaving]], edges.data[leaving], minlength=num_modules) / total
    inside = np.bincount(labels, visits, minlength=num_modules)
    terms = _plogp(exits.sum()) - 2 * _plogp(exits).sum() - _plogp(visits).sum() + _plogp(exits + inside).sum()
    return float(terms)


def _plogp(shares: np.ndarray) -> np.ndarray:
    return xlogy(shares, shares) / math.log(2)


def find_communities(graph: sparse.csr_array, generator: np.random.Generator) -> np.ndarray:
    """Labels `(n,)` of a partition that no move of one node or one module shortens; see `cluster_infomap`."""
    labels = np.arange(graph.shape[0])
    length = map_equation(graph, labels)
    while True:
        moved = number_from_zero(_move_nodes(graph, labels, generator))
        while True:  # modules as nodes, until none moves
            membership = sparse.csr_array((np.ones(len(moved)), (np.arange(len(moved)), moved)))
            modules = (membership.T @ graph @ membership).tocsr()
            merged = number_from_zero(_move_nodes(modules, np.arange(modules.shape[0]), generator))
            if merged.max() + 1 == modules.shape[0]:
                break
            moved = number_from_zero(merged[moved])
        found = map_equation(graph, moved)
        if found > length - _LEAST_GAIN:
            return number_from_zero(labels)
        labels, length = moved, found


class _Flow:
    """The shares of a random walk that visit and that leave each module, as nodes move between them."""

    def __init__(self, graph: sparse.csr_array, labels: np.ndarray) -> None:
        weights = graph / max(graph.sum(), 1e-300)
        self.visits = weights.sum(axis=1).tolist()
        self.links = [
            [
                (int(other), float(share))
                for other, share in zip(
                    weights.indices[weights.indptr[node] : weights.indptr[node + 1]],
                    weights.data[weights.indptr[node] : weights.indptr[node + 1]],
                    strict=True,
                )
                if other != node
            ]
            for node in range(weights.shape[0])
        ]
        self.label = labels.tolist()
        self.inside = np.bincount(labels, self.visits, minlength=len(labels)).tolist()
        self.exits = [0.0] * len(labels)
        for node, links in enumerate(self.links):
            self.exits[self.label[node]] += sum(
                share for other, share in links if self.label[other] != self.label[node]
            )
        self.total_exit = sum(self.exits)
        self.size = np.bincount(labels, minlength=len(labels)).tolist()
        self.empty = [module for module, size in enumerate(self.size) if not size]

    def move_to_best(self, node: int) -> bool:
        """Move the node to the module, a neighbour's or an empty one, that shortens the code most, if any does."""
        own = self.label[node]
        to_module: dict[int, float] = {own: 0.0}
        for other, share in self.links[node]:
            module = self.label[other]
            to_module[module] = to_module.get(module, 0.0) + share
        if self.size[own] > 1 and self.empty:
            to_module[self.empty[-1]] = 0.0
        out, visits = sum(share for _, share in self.links[node]), self.visits[node]
        without = self.exits[own] - out + 2 * to_module[own], self.inside[own] - visits
        best, least = own, -_LEAST_GAIN
        for module, share in to_module.items():
            if module != own:
                with_it = self.exits[module] + out - 2 * share, self.inside[module] + visits
                change = self._change(own, without, module, with_it)
                if change < least:
                    best, least, best_state = module, change, with_it
        if best == own:
            return False
        self.total_exit += without[0] - self.exits[own] + best_state[0] - self.exits[best]
        self.exits[own], self.inside[own] = without
        self.exits[best], self.inside[best] = best_state
        self._relabel(node, own, best)
        return True

    def _relabel(self, node: int, old: int, new: int) -> None:
        self.label[node] = new
        self.size[old] -= 1
        self.size[new] += 1
        if self.size[new] == 1:
            self.empty.pop()
        if not self.size[old]:
            self.empty.append(old)
            self.total_exit -= self.exits[old]
            self.exits[old] = self.inside[old] = 0.0

    def _change(self, own: int, without: tuple[float, float], module: int, with_it: tuple[float, float]) -> float:
        """Bits by which the map equation grows; what does not change is left out."""
        exit_after = self.total_exit + without[0] - self.exits[own] + with_it[0] - self.exits[module]
        change = _bits(exit_after) - _bits(self.total_exit)
        for (exits, inside), which in ((without, own), (with_it, module)):
            change -= 2 * (_bits(exits) - _bits(self.exits[which]))
            change += _bits(exits + inside) - _bits(self.exits[which] + self.inside[which])
        return change


def _bits(share: float) -> float:
    return share * math.log2(share) if share > 0 else 0.0


def _move_nodes(graph: sparse.csr_array, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The labels after moving single nodes, in random order, until no move shortens the code."""
    flow = _Flow(graph, labels)
    any_moved = True
    while any_moved:
        any_moved = False
        for node in generator.permutation(len(labels)).tolist():
            any_moved |= flow.move_to_best(node)
    return np.array(flow.label)
