"""Agglomerative clustering by average cosine, stopped where the silhouette is greatest."""

from __future__ import annotations

import math

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from spkadapt.errors import InputError
from spkadapt.pseudo_labels.embeddings import number_from_zero, unit_rows

MOST_ROWS = 10_000  # 800 MB of sums of distances, and 400 MB of distances


def cluster_agglomerative(
    embeddings: np.ndarray, num_clusters: int | None = None, *, fewest_clusters: int | None = None
) -> np.ndarray:
    """Merge the two clusters whose members' cosines are highest on average, time and again (UPGMA).

    Without `num_clusters` it stops where the mean silhouette (Rousseeuw 1987) is greatest,

        s(i) = (b − a) / max(a, b),   a, b = mean distance 1 − cos to the others of i's cluster, and to the nearest
                                             other cluster; s(i) = 0 for one that is alone

    which needs neither labels nor a threshold. (Distances within recordings are no threshold: calls of one speaker
    differ by more than parts of one call do.) The silhouette of two clusters, the sexes, may be greater than that
    of the speakers, so it is sought from `fewest_clusters` on; ⌈√n⌉ unless given, which says that a speaker has no
    more than √n recordings on average. On simulated calls the partition comes near the best cut in hindsight; a
    test holds it to that. Where no silhouette is positive, nothing is merged.

    Memory is O(n²), and so is time as a rule.

    Shape:
        embeddings: `(n, dim)`, as a rule `recording_means`
        returns `(n,)`, cluster numbers from 0 in the order in which they first occur

    Raises:
        InputError: what `unit_rows` refuses, more than `MOST_ROWS` rows, or a number of clusters not from 1 to n.
    """
    directions = unit_rows(embeddings)
    num_rows = len(directions)
    if num_rows > MOST_ROWS:
        raise InputError(f"expected at most {MOST_ROWS} rows to cluster, found {num_rows}")
    for name, value in (("num_clusters", num_clusters), ("fewest_clusters", fewest_clusters)):
        if value is not None and not 1 <= value <= num_rows:
            raise InputError(f"{name} is {value}; expected 1 to {num_rows}, the number of rows")
    if num_rows == 1:
        return np.zeros(1, dtype=int)
    distances = 1 - directions @ directions.T
    np.fill_diagonal(distances, 0)
    merges = linkage(squareform(distances, checks=False), "average")[:, :2].astype(int)
    if num_clusters is None:
        fewest = math.ceil(math.sqrt(num_rows)) if fewest_clusters is None else fewest_clusters
        num_clusters = num_rows - int(np.argmax(silhouettes(distances, merges)[: num_rows - fewest + 1]))
    return _cut(merges, num_rows, num_clusters)


def silhouettes(distances: np.ndarray, merges: np.ndarray) -> np.ndarray:
    """The mean silhouette after each number of merges, from none to all but the last.

    Merging two clusters cannot bring a row nearer to either than it was to the nearer of them, so the nearest
    other cluster is sought anew only for the rows whose nearest it was, and for the members.

    Shape:
        distances: `(n, n)`, symmetric, zeros on the diagonal
        merges: `(n − 1, 2)`, as of `scipy.cluster.hierarchy.linkage`: rows are clusters 0 to n − 1, and merge m
            makes cluster n + m
        returns `(n − 1,)`
    """
    num_rows = len(distances)
    sums = (
        distances.copy()
    )  # of the distances of each row to each cluster, which is kept in its first row's column
    counts = np.ones(num_rows)
    column = np.arange(num_rows)  # of each row's cluster
    column_of = {row: row for row in range(num_rows)}
    np.fill_diagonal(sums, np.inf)
    nearest = sums.argmin(axis=1)
    others = sums[column, nearest]
    np.fill_diagonal(sums, 0)
    values = np.zeros(num_rows)
    means = [0.0]
    for number, (left, right) in enumerate(merges[:-1]):
        kept, gone = column_of.pop(left), column_of.pop(right)
        column_of[num_rows + number] = kept
        sums[:, kept] += sums[:, gone]
        sums[:, gone] = np.inf
        counts[kept] += counts[gone]
        column[column == gone] = kept
        changed = np.flatnonzero((column == kept) | (nearest == kept) | (nearest == gone))
        average = sums[changed] / counts
        average[np.arange(len(changed)), column[changed]] = np.inf
        nearest[changed] = average.argmin(axis=1)
        others[changed] = average[np.arange(len(changed)), nearest[changed]]
        size = counts[column[changed]]
        own = sums[changed, column[changed]] / np.maximum(size - 1, 1)
        largest = np.maximum(own, others[changed])
        defined = (size > 1) & (largest > 0)
        values[changed] = np.where(defined, (others[changed] - own) / np.where(defined, largest, 1), 0)
        means.append(float(values.mean()))
    return np.array(means)


def _cut(merges: np.ndarray, num_rows: int, num_clusters: int) -> np.ndarray:
    """The partition into so many clusters."""
    parent = np.arange(2 * num_rows - 1)
    for number, pair in enumerate(merges[: num_rows - num_clusters]):
        parent[pair] = num_rows + number
    for cluster in range(2 * num_rows - 2, -1, -1):  # a parent has a higher number than its children
        parent[cluster] = parent[parent[cluster]]
    return number_from_zero(parent[:num_rows])
