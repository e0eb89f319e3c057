"""Kaldi's matrices and PLDA models: its own files byte for byte, and damage told apart by name."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.kaldi_io import read_kaldi_matrix, read_kaldi_plda, write_kaldi_matrix, write_kaldi_plda

MATRIX = np.array([[1.5, -2.0, 0.1], [0.0, 1e-7, 3e8]])
PLDA_TEXT = b"<Plda>  [ 0.1 -0.2 ]\n [\n  1.0 0.5 \n  0.25 2.0 ]\n [ 3.0 0.125 ]\n</Plda> "
PLDA = np.array([0.1, -0.2]), np.array([[1.0, 0.5], [0.25, 2.0]]), np.array([3.0, 0.125])


@pytest.mark.parametrize("name", ["plda", "plda_adapt"])
def test_kaldis_own_plda_comes_back_byte_for_byte(shared: Path, tmp_path: Path, name: str) -> None:
    path = shared / "fixtures/kaldi" / name
    mean, transform, psi = read_kaldi_plda(path)
    assert (mean.shape, transform.shape, psi.shape) == ((100,), (100, 100), (100,))
    assert {array.dtype.name for array in (mean, transform, psi)} == {"float64"}
    assert (np.diff(psi) <= 0).all()  # Kaldi sorts its eigenvalues
    write_kaldi_plda(tmp_path / name, mean, transform, psi)
    assert (tmp_path / name).read_bytes() == path.read_bytes()


def test_kaldis_own_lda_comes_back_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    path = shared / "fixtures/kaldi/lda.mat"
    matrix = read_kaldi_matrix(path)
    assert (matrix.shape, matrix.dtype) == ((100, 193), np.float32)  # 192 numbers and the offset
    write_kaldi_matrix(tmp_path / "lda.mat", matrix)
    assert (tmp_path / "lda.mat").read_bytes() == path.read_bytes()
    np.testing.assert_array_equal(matrix, kaldiio.load_mat(str(path)))


def test_exact_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_kaldi_matrix(path, np.array([[1.0, -2.0]], np.float32))
    assert path.read_bytes() == b"\0BFM \4\1\0\0\0\4\2\0\0\0" + struct.pack("<2f", 1, -2)
    write_kaldi_plda(path, np.array([1.0]), np.array([[2.0]]), np.array([3.0]))
    one, two, three = (struct.pack("<d", number) for number in (1, 2, 3))
    size = b"\4\1\0\0\0"
    parts = b"DV " + size + one + b"DM " + size + size + two + b"DV " + size + three
    assert path.read_bytes() == b"\0B<Plda> " + parts + b"</Plda> "
    write_kaldi_matrix(path, MATRIX, text=True)
    assert path.read_bytes() == b" [\n  1.5 -2.0 0.1 \n  0.0 1e-07 300000000.0 ]\n"
    write_kaldi_plda(path, *PLDA, text=True)
    assert path.read_bytes() == PLDA_TEXT


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", [False, True])
def test_round_trip_is_exact(tmp_path: Path, dtype: type, text: bool) -> None:
    random = np.random.default_rng(0)
    matrix = (random.normal(size=(4, 3)) * 10.0 ** random.integers(-30, 30, (4, 3))).astype(dtype)
    write_kaldi_matrix(tmp_path / "m", matrix, text=text)
    found = read_kaldi_matrix(tmp_path / "m")
    assert found.dtype == (np.float64 if text else dtype)
    np.testing.assert_array_equal(found.astype(dtype), matrix)
    peers = kaldiio.load_mat(str(tmp_path / "m"))  # which reads text as float32
    np.testing.assert_array_equal(peers, matrix.astype(peers.dtype))
    square = matrix[:3]
    write_kaldi_plda(tmp_path / "p", matrix[0], square, abs(matrix[1]), text=text)
    for part, expected in zip(read_kaldi_plda(tmp_path / "p"), (matrix[0], square, abs(matrix[1])), strict=True):
        np.testing.assert_array_equal(part.astype(dtype), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reads_what_kaldiio_writes(tmp_path: Path, dtype: type) -> None:
    kaldiio.save_mat(str(tmp_path / "m"), MATRIX.astype(dtype))
    np.testing.assert_array_equal(read_kaldi_matrix(tmp_path / "m"), MATRIX.astype(dtype))


def test_refuses_to_write_what_is_not_a_model(tmp_path: Path) -> None:
    path, (mean, transform, psi) = tmp_path / "x", PLDA
    for parts, message in [
        (
            (mean, transform[:1], psi),
            "expected transform to be float32 or float64 of shape (2, 2), found float64 of",
        ),
        (
            (mean, transform, psi[:1]),
            "expected psi to be float32 or float64 of shape (2), found float64 of shape (1,)",
        ),
        (
            (transform, transform, psi),
            "expected mean to be float32 or float64 of shape (any), found float64 of shape",
        ),
        ((mean.astype(int), transform, psi), "expected mean to be float32 or float64 of shape (any), found int64"),
        ((mean, transform * np.nan, psi), "expected transform to be finite, found NaN or infinity"),
        ((mean, transform, -psi), "expected psi, variances between speakers, to be ≥ 0, found -3"),
    ]:
        with pytest.raises(InputError) as caught:
            write_kaldi_plda(path, *parts)
        assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(InputError, match=r"expected matrix to be float32 or float64 of shape \(any, any\), found"):
        write_kaldi_matrix(path, mean)
    assert not path.exists()


def plda_bytes(*parts: np.ndarray) -> bytes:
    """Without the checks of the writer."""
    out = b"\0B<Plda> "
    for part in parts:
        sizes = b"".join(b"\4" + struct.pack("<i", size) for size in part.shape)
        out += (b"DV " if part.ndim == 1 else b"DM ") + sizes + part.tobytes()
    return out + b"</Plda> "


MEAN, TRANSFORM, PSI = PLDA
PLDA_BYTES = plda_bytes(*PLDA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a Kaldi PLDA model, found an empty file"),
        (b"hello", 'expected "<Plda>", found "hello"'),
        (b"\0B<Plda", 'expected "<Plda>", found "<Plda"'),
        (b"\0BDM \4", 'expected "<Plda>", found "DM \\x04"'),
        (PLDA_BYTES[:9], "expected a vector of floats, found the end of the file"),
        (PLDA_BYTES[:13], "ends within the vector"),
        (PLDA_BYTES[:20], "ends within the vector: it has 2 numbers of 8 bytes, and 3 bytes are left"),
        (PLDA_BYTES[:-3], 'expected "</Plda>", found "</Pld"'),
        (PLDA_BYTES + b"more", 'expected the end after the numbers, found "more"'),
        (plda_bytes(TRANSFORM, TRANSFORM, PSI), "expected a vector of floats, found a matrix"),
        (plda_bytes(MEAN, MEAN, PSI), "expected a matrix of floats, found a vector"),
        (
            plda_bytes(MEAN, TRANSFORM[:1], PSI),
            "expected transform to be float32 or float64 of shape (2, 2), found",
        ),
        (
            plda_bytes(MEAN, TRANSFORM, PSI[:1]),
            "expected psi to be float32 or float64 of shape (2), found float64",
        ),
        (plda_bytes(MEAN, TRANSFORM, -PSI), "expected psi, variances between speakers, to be ≥ 0, found -3"),
        (plda_bytes(MEAN, TRANSFORM * np.inf, PSI), "found NaN or infinity in the matrix"),
        (
            PLDA_BYTES.replace(b"DV \4\2\0\0\0", b"DV \4\2\0\0\x7f"),
            "ends within the vector: it has 2130706434 numbers",
        ),
        (PLDA_BYTES.replace(b"DV \4\2\0\0\0", b"DV \4\2\0\0\xff"), "damaged: the vector has sizes that cannot be"),
        (PLDA_BYTES.replace(b"DV \4", b"DV \5"), "damaged: the vector has sizes that cannot be"),
        (b"<Plda> [ 1 ]\n [\n 1 ]\n [ 1 ]\n", 'expected "</Plda>", found the end of the file'),
        (b"<Plda> [ 1 2\n", 'the vector has no closing "]"'),
        (b"<Plda> 1 2 ]\n", 'expected a vector, as "[ 1 2 3 ]" or binary, found "1 2 ]\\n"'),
        (b"<Plda> [ 1 two ]\n", "expected numbers in the vector (could not convert string to float: b'two')"),
        (b"<Plda> [ 1 nan ]\n", "found NaN or infinity in the vector"),
        (b"<Plda> [\n 1 2\n 3 4 ]\n", "expected a vector of floats, found a matrix"),
        (
            b"<Plda> [ 1 2 ]\n [\n 1 2\n 3 ]\n",
            "expected a matrix of even rows, found a row of 1 numbers below one of 2",
        ),
    ],
)
def test_names_the_file_and_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "plda"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_kaldi_plda(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_names_a_missing_file_and_one_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "lda.mat"
    with pytest.raises(InputError, match=r"lda.mat: expected a Kaldi matrix, found no such file"):
        read_kaldi_matrix(path)
    path.write_bytes(b"\0BCM ")
    with pytest.raises(InputError, match=r'lda.mat: expected a matrix of floats, found "CM "'):
        read_kaldi_matrix(path)


class Bomb:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.ran,)


def test_never_unpickles(tmp_path: Path) -> None:
    """As kaldiio does on reading an entry that begins with PKL."""
    path, ran = tmp_path / "lda.mat", tmp_path / "ran"
    path.write_bytes(b"PKL" + pickle.dumps(Bomb(ran)))
    with pytest.raises(InputError, match='found "PKL'):
        read_kaldi_matrix(path)
    assert not ran.exists()
    kaldiio.load_mat(str(path))
    assert ran.exists()  # else the bomb was a dud


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=st.booleans())
def test_damaged_file_is_one_clear_error(tmp_path: Path, data: st.DataObject, text: bool) -> None:
    """Cut anywhere, or with any byte changed: an InputError, or a model of sizes that agree; nothing else."""
    path = tmp_path / "plda"
    content = bytearray(PLDA_TEXT if text else PLDA_BYTES)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message, dim = f"{path}: ", 2
    try:
        mean, transform, psi = read_kaldi_plda(path)
        dim = len(mean)
        assert transform.shape == (dim, dim)
        assert psi.shape == (dim,)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
