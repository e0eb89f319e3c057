"""Embeddings as npz: read or mapped, bit for bit or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.embed import EmbeddingSet, npz
from spkadapt.errors import InputError

IDS = tuple(f"utt{i}" for i in range(5))
EMBEDDINGS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(params=["read", "mapped"])
def mapped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test holds of small files, which are read, and of large ones, which are mapped."""
    if request.param == "mapped":
        monkeypatch.setattr(npz, "_MAP_FROM", 0)
    return bool(request.param == "mapped")


def is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def test_what_we_write_is_mapped_where_it_stands(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "set.npz"
    EmbeddingSet(IDS, EMBEDDINGS).save(path)
    loaded = EmbeddingSet.load(path)
    assert is_mapped(loaded.embeddings) == mapped
    assert loaded.embeddings.flags.aligned
    assert loaded.embeddings.tobytes() == EMBEDDINGS.tobytes()
    before = path.read_bytes()
    loaded.embeddings[0] = 7  # changes what is in memory, never the file
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["ids first", "compressed", "double", "Fortran"])
def test_what_others_write(tmp_path: Path, mapped: bool, kind: str) -> None:
    """Not aligned, compressed, of another precision or order: read into memory, the same numbers."""
    path = tmp_path / "set.npz"
    write = np.savez_compressed if kind == "compressed" else np.savez
    stored = {"double": EMBEDDINGS.astype(np.float64), "Fortran": np.asfortranarray(EMBEDDINGS)}.get(
        kind, EMBEDDINGS
    )
    write(path, utterance_ids=np.array(IDS), more=np.zeros(1), embeddings=stored)
    loaded = EmbeddingSet.load(path)
    assert loaded.utterance_ids == IDS
    assert not is_mapped(loaded.embeddings)
    np.testing.assert_array_equal(loaded.embeddings, EMBEDDINGS)


def test_a_header_that_claims_too_much_allocates_nothing(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "set.npz"
    for claim in ("(10000000000, 3)", "(5, 4)", "(-5, -3)"):
        with zipfile.ZipFile(path, "w") as archive:
            for key, array in (("embeddings", EMBEDDINGS), ("utterance_ids", np.array(IDS))):
                with archive.open(f"{key}.npy", "w") as file:
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                    if key == "embeddings":
                        header["shape"] = tuple(map(int, claim.strip("()").split(",")))
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(array.tobytes())
        with pytest.raises(InputError) as caught:
            EmbeddingSet.load(path)
        assert f"embeddings.npy claims to be of shape {claim}, which its size contradicts" in str(caught.value)
    np.savez(path, utterance_ids=np.zeros(10**6, "V0").view("U0"), embeddings=EMBEDDINGS)
    with pytest.raises(InputError, match=r"utterance_ids.npy claims 1000000 texts of no length"):
        EmbeddingSet.load(path)


def test_compression_that_cannot_be(tmp_path: Path) -> None:
    """A directory that claims more bytes than the file could hold, however compressed."""
    path = tmp_path / "set.npz"
    np.savez_compressed(path, utterance_ids=np.array(IDS), embeddings=EMBEDDINGS)
    content = path.read_bytes()
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"embeddings.npy"))
    for at, claim in (
        (20, "claims more bytes than the file has"),
        (24, "claims more bytes than compression can hold"),
    ):
        changed = bytearray(content)
        changed[entry + at : entry + at + 4] = (1 << 30).to_bytes(4, "little")
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"embeddings.npy {claim}"):
            EmbeddingSet.load(path)


def test_load_names_the_file_and_what_is_wrong(tmp_path: Path, mapped: bool) -> None:
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


def test_load_never_unpickles(tmp_path: Path, mapped: bool) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    path = tmp_path / "set.npz"
    np.savez(path, utterance_ids=np.array([Bomb()], dtype=object), embeddings=np.ones((1, 2)))
    with pytest.raises(InputError, match="damaged or of another kind"):
        EmbeddingSet.load(path)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_is_one_clear_error(tmp_path: Path, mapped: bool, data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed: an InputError, or (in padding) the same set; nothing else."""
    path = tmp_path / "set.npz"
    original = EmbeddingSet(IDS, EMBEDDINGS)
    with open(path, "wb") as file:
        np.savez(file, embeddings=EMBEDDINGS, utterance_ids=np.array(IDS))
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
