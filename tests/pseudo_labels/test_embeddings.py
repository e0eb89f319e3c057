"""Directions of recordings, and what every clustering refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.pseudo_labels import (
    cluster_agglomerative,
    cluster_infomap,
    cluster_kmeans,
    mutual_neighbour_graph,
    recording_means,
)
from spkadapt.pseudo_labels.embeddings import number_from_zero, unit_rows


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e300])
def test_unit_rows_of_any_length(size: float) -> None:
    rows = unit_rows(size * np.array([[3.0, 4.0], [-5.0, 12.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [-5 / 13, 12 / 13]], rtol=1e-15)


def test_recording_means() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(7, 3)) * generator.uniform(1, 5, size=(7, 1))
    recordings = np.array(["b", "a", "c", "a", "b", "b", "a"])
    means, recording_of = recording_means(embeddings.astype(np.float32), recordings)
    assert recording_of.tolist() == [1, 0, 2, 0, 1, 1, 0]
    for name, mean in zip("abc", means, strict=True):
        rows = [row / np.sqrt(sum(row**2)) for row in embeddings[recordings == name]]
        expected = sum(rows) / len(rows)
        np.testing.assert_allclose(mean, expected / np.sqrt(sum(expected**2)), rtol=1e-6)
    assert means.dtype == np.float64


def test_classes_are_numbered_as_they_come() -> None:
    assert number_from_zero(np.array([7, 7, 2, 9, 2, 7])).tolist() == [0, 0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    "cluster",
    [
        cluster_agglomerative,
        cluster_infomap,
        lambda rows: cluster_kmeans(rows, 1),
        lambda rows: mutual_neighbour_graph(rows, 2),
        lambda rows: recording_means(rows, np.arange(len(rows))),
    ],
)
def test_bad_embeddings(cluster: Callable[[np.ndarray], object]) -> None:
    for bad, found in ((np.ones(3), r"float64 of shape \(3,\)"), (np.ones((2, 2), dtype=int), "int64")):
        message = r"expected embeddings to be floats of shape \(num_embeddings, dim\), found " + found
        with pytest.raises(InputError, match=message):
            cluster(bad)
    with pytest.raises(InputError, match=r"found float64 of shape \(0, 2\)"):
        cluster(np.ones((0, 2)))
    with pytest.raises(InputError, match="1 of 2 embeddings hold NaN or infinity, first row 1"):
        cluster(np.array([[1.0, 2.0], [np.inf, 1.0]]))
    with pytest.raises(InputError, match="2 of 3 embeddings hold only zeros, first row 0"):
        cluster(np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


def test_bad_recordings() -> None:
    message = r"expected one recording for each embedding, found 3 embeddings and recordings of shape \(2,\)"
    with pytest.raises(InputError, match=message):
        recording_means(np.eye(3), np.array([0, 1]))
    with pytest.raises(InputError, match="1 of 1 embeddings hold only zeros"):
        recording_means(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0, 0]))
