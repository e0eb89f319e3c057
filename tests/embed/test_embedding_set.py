"""Embedding sets: what they refuse, and that files come back bit for bit or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spkadapt.embed import EmbeddingSet
from spkadapt.embed.embedding_set import FORMATS
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


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("num_utterances", [0, 5])
def test_file_round_trip_is_exact(tmp_path: Path, suffix: str, num_utterances: int) -> None:
    embeddings = make_set(num_utterances)
    path = tmp_path / "folder" / f"set{suffix}"
    if suffix in (".ark", ".scp") and not num_utterances:
        with pytest.raises(InputError, match="expected embeddings to write, found none"):
            embeddings.save(path)
        return
    embeddings.save(path)
    loaded = EmbeddingSet.load(path)
    assert loaded.utterance_ids == embeddings.utterance_ids
    assert loaded.embeddings.dtype == np.float32
    assert loaded.embeddings.tobytes() == embeddings.embeddings.tobytes()
    assert loaded.embeddings.flags.writeable
    beside = {"set.ark"} if suffix == ".scp" else set()
    assert {file.name for file in path.parent.iterdir()} == {path.name} | beside


@pytest.mark.parametrize(("suffix", "hint"), [(".nzp", 'did you mean ".npz"?'), ("", "choose from: ")])
def test_a_file_of_no_known_ending_is_refused(tmp_path: Path, suffix: str, hint: str) -> None:
    path = tmp_path / f"set{suffix}"
    found = f'found "{suffix}"' if suffix else "found no ending"
    for call in (EmbeddingSet.load, make_set().save):
        with pytest.raises(InputError) as caught:
            call(path)
        expected = f"{path}: expected an embedding file that ends in .npz, .ark, .scp or .parquet, {found}; {hint}"
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_a_set_refuses_is_refused_of_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    _, write = FORMATS[suffix]
    ids, embeddings = ["a", "b"], np.array([[1, 2], [np.nan, 0]], np.float32)
    write(path, ids, embeddings)
    with pytest.raises(InputError) as caught:
        EmbeddingSet.load(path)
    assert str(caught.value) == f"{path}: expected finite embeddings, found NaN or infinity in: b"
    write(path, ["a", "a"], np.ones((2, 2), np.float32))
    with pytest.raises(
        InputError, match=r": expected each utterance once, found repeated: a|:2: \"a\" stands already"
    ):
        EmbeddingSet.load(path)
    path.unlink()
    with pytest.raises(InputError, match=r"found no such file"):
        EmbeddingSet.load(path)


def test_parquet_as_others_write_it(tmp_path: Path) -> None:
    path, embeddings = tmp_path / "set.parquet", make_set()
    lists = pa.array(embeddings.embeddings.astype(np.float64).tolist())
    columns = {"utterance_id": embeddings.utterance_ids, "embedding": lists, "more": np.arange(5)}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    loaded = EmbeddingSet.load(path)
    assert loaded.utterance_ids == embeddings.utterance_ids
    assert loaded.embeddings.tobytes() == embeddings.embeddings.tobytes()
    columns["embedding"] = pa.array([[1.0], [1.0], [1.0, 2.0], [1.0], [1.0]])
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=r'"utt2" has 2 numbers in column "embedding", and "utt0" has 1'):
        EmbeddingSet.load(path)


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_of_double_precision_is_refused_without_a_warning(tmp_path: Path) -> None:
    signalling = np.array([[1.0, 2.0], [0.0, 1e300]])
    signalling.view(np.uint64)[1, 0] = 0x7FF0000000000001
    np.savez(tmp_path / "set.npz", utterance_ids=np.array(["a", "b"]), embeddings=signalling)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(signalling.reshape(-1)), 2)
    pq.write_table(pa.table({"utterance_id": ["a", "b"], "embedding": lists}), tmp_path / "set.parquet")
    rows = [
        b"%s \0BDV \4\2\0\0\0" % name + row.tobytes() for name, row in zip((b"a", b"b"), signalling, strict=True)
    ]
    (tmp_path / "set.ark").write_bytes(b"".join(rows))
    for suffix in (".npz", ".parquet", ".ark"):
        with pytest.raises(InputError, match="found NaN or infinity in: b"):
            EmbeddingSet.load(tmp_path / f"set{suffix}")


def test_infinity_is_found_wherever_it_is() -> None:
    """Blocks are checked by their sums: one that overflows is no infinity, opposite infinities do not cancel."""
    dim = 1 << 16
    embeddings = np.full((9, dim), 3e38, np.float32)
    names = tuple("abcdefghi")
    assert len(EmbeddingSet(names, embeddings).utterance_ids) == 9
    embeddings[[2, 7], -1] = np.inf, -np.inf
    embeddings[8, 0] = -np.inf
    with pytest.raises(InputError, match=r"found NaN or infinity in: c, h, i$"):
        EmbeddingSet(names, embeddings)


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
