"""Embedding sets: what they refuse, and that files come back bit for bit or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError


def make_set(num_utterances: int = 5, dim: int = 3) -> EmbeddingSet:
    embeddings = np.random.default_rng(0).normal(size=(num_utterances, dim)).astype(np.float32)
    return EmbeddingSet(tuple(f"utt{i}" for i in range(num_utterances)), embeddings)


def test_rows_and_select_follow_the_order_asked_for() -> None:
    embeddings = make_set()
    assert embeddings.rows(["utt3", "utt0", "utt3"]).tolist() == [3, 0, 3]
    assert embeddings.rows([]).shape == (0,)
    selected = embeddings.select(["utt3", "utt0"])
    assert selected.utterance_ids == ("utt3", "utt0")
    np.testing.assert_array_equal(selected.embeddings, embeddings.embeddings[[3, 0]])


def test_rows_names_ten_unknown_ids_each_once_and_counts_the_rest() -> None:
    asked = ["utt1", *(f"new{i}" for i in range(12)), "new0"]
    with pytest.raises(InputError) as caught:
        make_set().rows(asked, path="trials.txt")
    names = ", ".join(f"new{i}" for i in range(10))
    assert str(caught.value) == f"trials.txt: no embedding for 12 utterances: {names} and 2 more"


@pytest.mark.parametrize(
    ("ids", "embeddings", "message"),
    [
        (("a", "b", "a"), np.ones((3, 2)), "expected each utterance once, found repeated: a"),
        (("a", "b"), np.ones((3, 2)), "one embedding for each utterance, found 2 utterance ids for 3 embeddings"),
        (("a", "b"), np.array([[0, 1], [np.nan, 1]]), "found NaN or infinity in: b"),
        (("a", "b"), np.array([[0, 1e39], [0, 1]]), "found NaN or infinity in: a"),
        (("a", "b"), np.ones((2, 2), dtype=int), "found int64 of shape (2, 2)"),
        (("a", "b"), np.ones(2), "of shape (num_utterances, dim), found float64 of shape (2,)"),
    ],
)
def test_refuses(ids: tuple[str, ...], embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(InputError) as caught:
        EmbeddingSet(ids, embeddings)
    assert message in str(caught.value)


@pytest.mark.parametrize("num_utterances", [0, 5])
def test_file_round_trip_is_exact(tmp_path: Path, num_utterances: int) -> None:
    embeddings = make_set(num_utterances)
    path = tmp_path / "folder" / "set.npz"
    embeddings.save(path)
    loaded = EmbeddingSet.load(path)
    assert loaded.utterance_ids == embeddings.utterance_ids
    assert loaded.embeddings.dtype == np.float32
    np.testing.assert_array_equal(loaded.embeddings, embeddings.embeddings)
    assert [file.name for file in path.parent.iterdir()] == ["set.npz"]


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.npz"
    make_set().save(path)
    before = path.read_bytes()

    def fail(file: io.BufferedWriter, **arrays: np.ndarray) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        make_set(7).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_reads_the_shared_sets(shared: Path) -> None:
    loaded = EmbeddingSet.load(shared / "corpora/embeddings/wuw2_campplus.npz")
    assert loaded.embeddings.shape == (2204, 192)
    assert loaded.utterance_ids[:2] == ("wuw00001-name", "wuw00001-utt001")


def test_load_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            EmbeddingSet.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        return str(caught.value)

    path = tmp_path / "set.npz"
    assert "found no such file" in refusal(path)
    for content in (b"", b"hello\n"):
        path.write_bytes(content)
        assert "damaged or of another kind" in refusal(path)
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    assert "damaged or of another kind" in refusal(path)
    np.savez(path, utterance_ids=np.array(["a"]), vectors=np.ones((1, 2)))
    assert "expected arrays utterance_ids and embeddings, found: utterance_ids, vectors" in refusal(path)
    np.savez(path, utterance_ids=np.array([1]), embeddings=np.ones((1, 2)))
    assert "expected utterance_ids to be one-dimensional text, found int64 of shape (1,)" in refusal(path)
    np.savez(path, utterance_ids=np.array(["a", "a"]), embeddings=np.ones((2, 2)))
    assert "found repeated: a" in refusal(path)


def test_load_never_unpickles(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    path = tmp_path / "set.npz"
    np.savez(path, utterance_ids=np.array([Bomb()], dtype=object), embeddings=np.ones((1, 2)))
    with pytest.raises(InputError, match="damaged or of another kind"):
        EmbeddingSet.load(path)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_is_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed: an InputError, or (in padding) the same set; nothing else."""
    path = tmp_path / "set.npz"
    original = make_set()
    original.save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded = EmbeddingSet.load(path)
    except InputError as error:
        loaded, message = original, str(error)
    else:
        message = f"{path}: "
    assert message.startswith(f"{path}: ")
    assert loaded.utterance_ids == original.utterance_ids
    np.testing.assert_array_equal(loaded.embeddings, original.embeddings)
