"""Spherical k-means."""

from __future__ import annotations

import numpy as np

from spkadapt.errors import InputError
from spkadapt.pseudo_labels.embeddings import number_from_zero, unit_rows


def cluster_kmeans(
    embeddings: np.ndarray, num_clusters: int, *, num_restarts: int = 10, max_iterations: int = 100, seed: int = 0
) -> np.ndarray:
    """Spherical k-means (Dhillon & Modha 2001): the centres c that maximise Σ cos(x, c of x's cluster).

    Each row goes to its nearest centre and each centre to the direction of its rows' mean, in turn, until no row
    moves. The first centres are drawn as in k-means++ (Arthur & Vassilvitskii 2007), each with a probability
    proportional to ‖x − c‖² = 2 (1 − cos) of the nearest centre drawn before. A cluster left empty takes the row
    that is farthest from its own centre. Of all restarts the one with the greatest sum is kept.

    Shape:
        embeddings: `(n, dim)`
        returns `(n,)`, cluster numbers from 0 in the order in which they first occur; all `num_clusters` occur

    Raises:
        InputError: what `unit_rows` refuses, `num_clusters` not from 1 to n, or another number below 1.
    """
    directions = unit_rows(embeddings)
    if not 1 <= num_clusters <= len(directions):
        raise InputError(f"num_clusters is {num_clusters}; expected 1 to {len(directions)}, the number of rows")
    for name, value in (("num_restarts", num_restarts), ("max_iterations", max_iterations)):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    generator = np.random.default_rng(seed)
    runs = [_run(directions, num_clusters, max_iterations, generator) for _ in range(num_restarts)]
    return number_from_zero(max(runs, key=lambda run: run[1])[0])


def _run(
    directions: np.ndarray, num_clusters: int, max_iterations: int, generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """One start: the labels, and the sum of cosines with the centres that these labels have."""
    labels = _fill_empty(directions @ _draw_centres(directions, num_clusters, generator).T)
    for _ in range(max_iterations):
        moved = _fill_empty(directions @ _centres(directions, labels, num_clusters).T)
        if (moved == labels).all():
            break
        labels = moved
    cosines = np.einsum("nd,nd->n", directions, _centres(directions, labels, num_clusters)[labels])
    return labels, float(cosines.sum())


def _draw_centres(directions: np.ndarray, num_clusters: int, generator: np.random.Generator) -> np.ndarray:
    chosen = [int(generator.integers(len(directions)))]
    distances = np.full(len(directions), np.inf)
    for _ in range(num_clusters - 1):
        distances = np.minimum(distances, np.maximum(1 - directions @ directions[chosen[-1]], 0))
        distances[chosen] = 0
        total = distances.sum()
        # Where all that are left lie on a centre, any will do.
        weights = distances / total if total > 0 else np.isin(np.arange(len(directions)), chosen, invert=True)
        chosen.append(int(generator.choice(len(directions), p=weights / weights.sum())))
    return directions[chosen]


def _fill_empty(cosines: np.ndarray) -> np.ndarray:
    """The nearest centre of each row, but that no centre is without one.

    Shape: `(n, num_clusters)` → `(n,)`
    """
    labels = cosines.argmax(axis=1)
    counts = np.bincount(labels, minlength=cosines.shape[1])
    if counts.all():
        return labels
    own = cosines[np.arange(len(labels)), labels]
    for row in np.argsort(own, kind="stable"):
        if counts.all():
            break
        if counts[labels[row]] > 1:
            counts[labels[row]] -= 1
            labels[row] = counts.argmin()
            counts[labels[row]] += 1
    return labels


def _centres(directions: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_clusters))
    sums = np.add.reduceat(directions[order], starts, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(lengths > 0, lengths, 1)
