"""What a choice may see: nothing of the evaluation, no speaker of the target domain, and even thinning."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.manifest import Manifest, Utterance
from spkadapt.select import SelectionData, unit_rows
from spkadapt.select.data import spread, thin

SOURCE = Manifest(tuple(Utterance(f"s{n}", Path("s.wav"), speaker_id=f"spk{n // 2}") for n in range(4)))
POOL = Manifest(
    tuple(Utterance(f"p{n}", Path("p.wav"), session_id=f"c{n // 2}", speaker_id="secret") for n in range(4))
)
IDS = ("e0", "p3", "s1", "p0", "s0", "p1", "s3", "s2", "p2", "e1")
EMBEDDINGS = EmbeddingSet(IDS, np.arange(30, dtype=np.float32).reshape(10, 3))


def test_there_is_no_field_for_a_speaker_of_the_target_domain() -> None:
    """`pseudo_speakers` are what models make of calls; a new field must be thought about here."""
    names = {field.name for field in fields(SelectionData)}
    assert names == {"source", "source_speakers", "pool", "pool_sessions", "pseudo_speakers"}


def test_parts_are_found_by_id_and_the_rest_is_not_there() -> None:
    data = SelectionData.from_parts(EMBEDDINGS, SOURCE, POOL.unlabelled())
    np.testing.assert_array_equal(data.source[:, 0], [12, 6, 21, 18])
    np.testing.assert_array_equal(data.pool[:, 0], [9, 15, 24, 3])
    assert data.source_speakers.tolist() == ["spk0", "spk0", "spk1", "spk1"]
    assert data.pool_sessions is not None
    assert data.pool_sessions.tolist() == ["c0", "c0", "c1", "c1"]


def test_sessions_count_only_if_all_are_known() -> None:
    items = (*POOL.utterances[:3], replace(POOL.utterances[3], session_id=None))
    data = SelectionData.from_parts(EMBEDDINGS, SOURCE, Manifest(items).unlabelled())
    assert data.pool_sessions is None
    with pytest.raises(InputError, match="which recordings of the pool are of one call: name the sessions"):
        _ = data.session_numbers


def test_a_recording_without_an_embedding_is_named() -> None:
    with pytest.raises(InputError, match="no embedding for 1 utterances: p2"):
        SelectionData.from_parts(EMBEDDINGS.select([*IDS[:8], "e1"]), SOURCE, POOL.unlabelled())


def test_each_domain_is_centred_on_itself() -> None:
    data = SelectionData.from_parts(EMBEDDINGS, SOURCE, POOL.unlabelled()).centred()
    np.testing.assert_allclose(data.source.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.pool.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.source[0] - data.source[1], [6, 6, 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": np.ones(3)}, r"finite source embeddings \(2 or more, dim\), found shape \(3,\)"),
        ({"pool": np.ones((1, 2))}, r"finite pool embeddings \(2 or more, dim\), found shape \(1, 2\)"),
        ({"pool": np.array([[1.0, np.nan], [0, 0]])}, "finite pool embeddings .*, found NaN or infinity"),
        ({"pool": np.ones((2, 3))}, "source and pool embeddings of one dim, found 2 and 3"),
        ({"source_speakers": np.arange(2)}, "one class for each of 3 embeddings"),
        ({"pool_sessions": np.arange(3)}, "one class for each of 2 embeddings"),
    ],
)
def test_what_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {"source": np.ones((3, 2)), "source_speakers": np.arange(3), "pool": np.ones((2, 2))}
    with pytest.raises(InputError, match=message):
        SelectionData(**{**good, **change})


def test_one_session_compares_with_nothing() -> None:
    data = SelectionData(np.ones((2, 2)), np.arange(2), np.ones((2, 2)), np.zeros(2))
    with pytest.raises(InputError, match="needs two sessions of the pool or more, found one"):
        _ = data.session_numbers


def test_unit_rows_leave_zeros() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_thinning_keeps_as_many_as_it_may_of_each_group(groups: list[int], most: int, most_each: int) -> None:
    numbers = np.unique(groups, return_inverse=True)[1]
    rows = thin(numbers, most, most_each)
    assert (np.diff(rows) > 0).all()
    kept = np.bincount(numbers[rows], minlength=numbers.max() + 1)
    present = np.bincount(numbers)
    chosen = spread(len(present), most)
    assert len(chosen) == min(most, len(present))
    np.testing.assert_array_equal(kept[chosen], np.minimum(present, most_each)[chosen])
    assert kept.sum() == kept[chosen].sum()


def test_thinning_is_even() -> None:
    np.testing.assert_array_equal(thin(np.zeros(10, dtype=int), 1, 2), [0, 5])
    np.testing.assert_array_equal(spread(9, 3), [0, 3, 6])
