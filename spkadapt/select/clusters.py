"""How far the calls of the pool stand apart, each taken for a cluster."""

from __future__ import annotations

import numpy as np

from spkadapt.backend.covariance import class_statistics, sum_by_class
from spkadapt.errors import InputError
from spkadapt.select.data import SelectionData

_BLOCK_ROWS = 1024


def compute_silhouette(data: SelectionData) -> float:
    """Mean silhouette of the pool's calls, by cosine distance (Rousseeuw, 1987).

        s_i = (b_i − a_i) / max(a_i, b_i)

    a_i the mean distance 1 − cos to the other utterances of the call, b_i the least mean distance to those of
    another call; 0 for the only utterance of a call. Found from the calls' sums, so the cost is n · calls.

    Raises:
        InputError: sessions are not known, or fewer than two.
    """
    counts = np.bincount(data.session_numbers)
    sums = sum_by_class(data.unit_pool, data.session_numbers, len(counts))
    starts = range(0, len(data.pool), _BLOCK_ROWS)
    parts = [slice(start, start + _BLOCK_ROWS) for start in starts]
    blocks = [_silhouettes(data.unit_pool[part], data.session_numbers[part], sums, counts) for part in parts]
    return float(np.concatenate(blocks).mean())


def _silhouettes(rows: np.ndarray, sessions: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of some rows, against the sums and sizes of all calls."""
    own = np.arange(len(rows)), sessions
    cosines = rows @ sums.T
    others = np.maximum(counts[sessions] - 1, 1)
    within = 1 - (cosines[own] - (rows**2).sum(axis=1)) / others
    distances = 1 - cosines / counts
    distances[own] = np.inf
    nearest = distances.min(axis=1)
    larger = np.maximum(within, nearest)
    known = (counts[sessions] > 1) & (larger > 0)
    return np.where(known, (nearest - within) / np.where(larger > 0, larger, 1.0), 0.0)


def compute_calinski_harabasz(data: SelectionData) -> float:
    """Variance ratio of the pool's calls, of embeddings of unit length (Caliński & Harabasz, 1974).

        CH = (tr B / (k − 1)) / (tr W / (n − k))

    B the scatter of the call means, W that within calls, of k calls and n utterances.

    Raises:
        InputError: sessions are not known, fewer than two, or of one utterance each; or calls without any spread.
    """
    statistics = class_statistics(data.unit_pool, data.session_numbers)
    num_rows, num_calls = statistics.num_embeddings, len(statistics.counts)
    within = np.trace(statistics.scatter)
    if num_rows == num_calls or within <= 0:
        raise InputError("needs a session of two utterances that differ, found none")
    between = num_rows * np.trace(statistics.between)
    return float(between / (num_calls - 1) / (within / (num_rows - num_calls)))
