"""What is clustered: directions of recordings."""

from __future__ import annotations

import numpy as np

from spkadapt.errors import InputError


def recording_means(embeddings: np.ndarray, recordings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The direction of the mean of each recording's directions, and each embedding's recording.

    The mean of a recording is far surer than any of its embeddings, and clustering it keeps a recording whole.
    Take the domain's mean off first: what all recordings have in common hides how they differ.

    Shape:
        embeddings: `(num_embeddings, dim)`
        recordings: `(num_embeddings,)`, of any type that sorts
        returns `(num_recordings, dim)`, float64, of unit length, in the order of `np.unique(recordings)`, and
            `(num_embeddings,)`, each embedding's row among them

    Raises:
        InputError: embeddings of another shape or not finite; not one recording for each; or embeddings without a
            direction, or that cancel out.
    """
    directions = unit_rows(embeddings)
    recordings = np.asarray(recordings)
    if recordings.shape != (len(directions),):
        found = f"{len(directions)} embeddings and recordings of shape {recordings.shape}"
        raise InputError(f"expected one recording for each embedding, found {found}")
    _, recording_of = np.unique(recordings, return_inverse=True)
    order = np.argsort(recording_of, kind="stable")
    starts = np.searchsorted(recording_of[order], np.arange(recording_of.max() + 1))
    return unit_rows(np.add.reduceat(directions[order], starts, axis=0)), recording_of


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """x / ‖x‖ of each row, in float64.

    Shape:
        embeddings: `(num_embeddings, dim)`
        returns the same

    Raises:
        InputError: not floats of that shape, none at all, a row that is not finite, or one of zeros.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not embeddings.size:
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise InputError(f"expected embeddings to be floats of shape (num_embeddings, dim), found {found}")
    rows = embeddings.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError(f"{len(bad)} of {len(rows)} embeddings hold NaN or infinity, first row {bad[0]}")
    largest = np.abs(rows).max(axis=1, keepdims=True)
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        raise InputError(f"{len(zero)} of {len(rows)} embeddings hold only zeros, first row {zero[0]}")
    rows /= largest  # the squares of what is left neither overflow nor vanish
    return rows / np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]


def number_from_zero(labels: np.ndarray) -> np.ndarray:
    """The same partition, its classes numbered from 0 in the order in which they first occur."""
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]
