"""Silhouette and variance ratio of calls against scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import calinski_harabasz_score, silhouette_score

from spkadapt.errors import InputError
from spkadapt.select import SelectionData, clusters, unit_rows
from spkadapt.select.clusters import compute_calinski_harabasz, compute_silhouette

UNEVEN = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])


@pytest.fixture
def uneven(domains: SelectionData) -> SelectionData:
    return replace(domains, pool=domains.pool[:10], pool_sessions=UNEVEN)


def test_parity_with_scikit_learn(
    domains: SelectionData, uneven: SelectionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_BLOCK_ROWS", 50)
    for data in (domains, uneven):
        expected = silhouette_score(data.pool, data.pool_sessions, metric="cosine")
        assert compute_silhouette(data) == pytest.approx(expected, rel=1e-9)
        expected = calinski_harabasz_score(unit_rows(data.pool), data.pool_sessions)
        assert compute_calinski_harabasz(data) == pytest.approx(expected, rel=1e-9)


def test_the_only_utterance_of_a_call_counts_as_zero(uneven: SelectionData) -> None:
    far = uneven.pool.copy()
    far[3] = -far[3]
    assert compute_silhouette(uneven) != compute_silhouette(replace(uneven, pool=far))  # as another's neighbour
    alone = SelectionData(uneven.source, uneven.source_speakers, uneven.pool[:3], np.arange(3))
    assert compute_silhouette(alone) == 0


def test_equal_embeddings_have_a_silhouette_of_zero() -> None:
    data = SelectionData(np.eye(4), np.arange(4), np.ones((4, 4)), np.array([0, 0, 1, 1]))
    assert compute_silhouette(data) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="a session of two utterances that differ, found none"):
        compute_calinski_harabasz(replace(data, pool=np.eye(4)[[0, 0, 0, 0]]))


def test_calls_of_one_utterance_have_no_spread(uneven: SelectionData) -> None:
    with pytest.raises(InputError, match="a session of two utterances that differ, found none"):
        compute_calinski_harabasz(replace(uneven, pool_sessions=np.arange(10)))
