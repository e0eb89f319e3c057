"""Kaldi's matrices (of an LDA, say) and PLDA models, as its `ivector-compute-lda` and `-plda` write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import atomic_path
from spkadapt.kaldi_io.objects import DTYPES, FLAG, ObjectReader, encode_header, map_file

_OPEN, _CLOSE = "<Plda>", "</Plda>"


def read_kaldi_matrix(path: str | Path) -> np.ndarray:
    """Read a matrix such as `lda.mat`, binary or text.

    Kaldi's LDA may have one column more than an embedding has numbers: the offset, for an embedding followed by 1.

    Shape:
        returns `(num_rows, num_columns)`, float32 or float64 as it is stored; text is read as float64

    Raises:
        InputError: naming the file, which is missing, empty, cut short, of another kind, or holds NaN.
    """
    path = Path(path)
    reader = ObjectReader(map_file(path, "a Kaldi matrix"), 0, path)
    matrix = reader.array(2)
    reader.finish()
    return matrix


def write_kaldi_matrix(path: str | Path, matrix: np.ndarray, *, text: bool = False) -> None:
    """Write a matrix `(num_rows, num_columns)` of float32 or float64 to `path`, atomically, binary or text.

    Raises:
        InputError: it is not such a matrix.
    """
    _check(path, "matrix", matrix, (-1, -1))
    content = _text_matrix(matrix) if text else FLAG + _binary(matrix)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_kaldi_plda(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a PLDA model, binary or text: `(mean, transform, psi)`.

    With `u = transform @ (x - mean)`, the within-speaker covariance of `u` is the identity and the between-speaker
    covariance is `diag(psi)`. Source: S. Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006.

    Shape:
        mean `(dim,)`, transform `(dim, dim)`, psi `(dim,)`; float32 or float64 as stored, text as float64

    Raises:
        InputError: naming the file, which is missing, empty, cut short, not a PLDA model, holds NaN, parts whose
            sizes disagree, or a psi below 0.
    """
    path = Path(path)
    reader = ObjectReader(map_file(path, "a Kaldi PLDA model"), 0, path)
    reader.token(_OPEN)
    mean, transform, psi = reader.array(1), reader.array(2), reader.array(1)
    reader.token(_CLOSE)
    reader.finish()
    _check_plda(path, mean, transform, psi)
    return mean, transform, psi


def write_kaldi_plda(
    path: str | Path, mean: np.ndarray, transform: np.ndarray, psi: np.ndarray, *, text: bool = False
) -> None:
    """Write a PLDA model, as `read_kaldi_plda` describes it, to `path`, atomically, binary or text.

    Raises:
        InputError: the parts disagree in size, or are not finite float32 or float64, or a psi is below 0.
    """
    _check_plda(path, mean, transform, psi)
    if text:
        middle = _text_vector(mean) + _text_matrix(transform) + _text_vector(psi)
        content = f"{_OPEN} ".encode() + middle + f"{_CLOSE} ".encode()
    else:
        middle = _binary(mean) + _binary(transform) + _binary(psi)
        content = FLAG + f"{_OPEN} ".encode() + middle + f"{_CLOSE} ".encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _check_plda(path: str | Path, mean: np.ndarray, transform: np.ndarray, psi: np.ndarray) -> None:
    dim = mean.shape[0] if mean.ndim == 1 else -1
    _check(path, "mean", mean, (-1,))
    _check(path, "transform", transform, (dim, dim))
    _check(path, "psi", psi, (dim,))
    if (psi < 0).any():
        raise InputError(f"expected psi, variances between speakers, to be ≥ 0, found {psi.min():g}", path=path)


def _check(path: str | Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise unless `array` is finite, of floats and of `shape`, in which -1 is any size."""
    fits = len(shape) == array.ndim and all(
        size in (-1, found) for size, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype not in DTYPES.values() or not fits:
        wanted = "(" + ", ".join("any" if size < 0 else str(size) for size in shape) + ")"
        found = f"{array.dtype} of shape {array.shape}"
        raise InputError(f"expected {name} to be float32 or float64 of shape {wanted}, found {found}", path=path)
    if not np.isfinite(array).all():
        raise InputError(f"expected {name} to be finite, found NaN or infinity", path=path)


def _binary(array: np.ndarray) -> bytes:
    dtype = array.dtype.newbyteorder("<")
    return encode_header(dtype, array.shape) + array.astype(dtype).tobytes()


def _text_vector(vector: np.ndarray) -> bytes:
    return f" [ {_text(vector)}]\n".encode()


def _text_matrix(matrix: np.ndarray) -> bytes:
    return (" [" + "".join(f"\n  {_text(row)}" for row in matrix) + "]\n").encode()


def _text(numbers: np.ndarray) -> str:
    """The shortest digits that are read back as the same number."""
    return "".join(f"{number} " for number in numbers)
