"""One vector or matrix in Kaldi's format, binary or text, read from bytes that nothing is believed of.

Binary: the flag `\\0B`, a token of precision and kind (`FV`, `DV`, `FM`, `DM`), each size as the byte 4 and an
int32, then the numbers, little-endian. Text: `[ 1 2 3 ]`, a matrix with one line a row.
Source: Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011, and the files that it writes.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError

FLAG = b"\0B"
DTYPES: dict[str, np.dtype] = {"F": np.dtype("<f4"), "D": np.dtype("<f8")}
_KIND = {1: "vector", 2: "matrix"}
_SIZE = struct.Struct("<bi")
_SPACE = re.compile(rb"\s*")


def map_file(path: Path, expected: str) -> mmap.mmap:
    """The bytes of a file, read as they are touched.

    Raises:
        InputError: the file is missing, not a plain file, empty or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"expected {expected}, found no such file", path=path)
    if not path.stat().st_size:
        raise InputError(f"expected {expected}, found an empty file", path=path)
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"expected {expected}, found: {error}", path=path) from error


def encode_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of a binary vector or matrix, less the flag."""
    precision = next(letter for letter, each in DTYPES.items() if each == dtype)
    return f"{precision}{_KIND[len(shape)][0].upper()} ".encode() + b"".join(_SIZE.pack(4, size) for size in shape)


class ObjectReader:
    """Reads the parts of one Kaldi object, in order.

    Args:
        data: the bytes that hold it.
        at: where it begins in `data`.
        path, line, name: what errors say of where it stands: the file, the line and the utterance.

    Attributes:
        binary: whether the object is binary or text.
        at: the place that has been read up to.
    """

    def __init__(
        self, data: bytes | mmap.mmap, at: int, path: Path, line: int | None = None, name: str | None = None
    ) -> None:
        self._data, self._path, self._line = data, path, line
        self._of = "" if name is None else f' of "{name}"'
        self.at = at
        self.binary = data[at : at + 2] == FLAG
        self.at += 2 * self.binary

    def token(self, expected: str) -> None:
        """Read past a token such as `<Plda>`."""
        if not self.binary:
            self._skip_space()
        found = self._data[self.at : self.at + len(expected)]
        if found != expected.encode():
            raise self._error(f'expected "{expected}", found {_show(found)}')
        self.at += len(expected)
        if self.binary:
            self.at += 1  # Kaldi writes one space after each token

    def header(self, ndim: int) -> tuple[np.dtype, tuple[int, ...]]:
        """Read past what stands before the numbers of a binary vector (`ndim` 1) or matrix (2)."""
        wanted = f"a {_KIND[ndim]} of floats"
        token = self._data[self.at : self.at + 3]
        kinds = {
            f"{letter}{_KIND[each][0].upper()} ".encode(): (letter, each) for letter in DTYPES for each in _KIND
        }
        if token not in kinds:
            raise self._error(f"expected {wanted}{self._of}, found {_show(token)}")
        letter, found = kinds[token]
        if found != ndim:
            raise self._error(f"expected {wanted}{self._of}, found a {_KIND[found]}")
        self.at += 3
        sizes = self._data[self.at : self.at + _SIZE.size * ndim]
        if len(sizes) < _SIZE.size * ndim:
            raise self._error(f"ends within the {_KIND[ndim]}{self._of}")
        marks, shape = zip(*_SIZE.iter_unpack(sizes), strict=True)
        if set(marks) != {4} or min(shape) < 0:
            raise self._error(f"damaged: the {_KIND[ndim]}{self._of} has sizes that cannot be, {_show(sizes)}")
        self.at += len(sizes)
        left, dtype = len(self._data) - self.at, DTYPES[letter]
        if math.prod(shape) * dtype.itemsize > left:
            size = " × ".join(map(str, shape))
            claim = f"{size} numbers of {dtype.itemsize} bytes, and {left} bytes are left"
            raise self._error(f"ends within the {_KIND[ndim]}{self._of}: it has {claim}")
        return dtype, shape

    def array(self, ndim: int) -> np.ndarray:
        """Read a vector (`ndim` 1) or matrix (2), in the precision it has; text is read as float64.

        Raises:
            InputError: it is cut short, of another kind, or not finite.
        """
        if self.binary:
            dtype, shape = self.header(ndim)
            count = math.prod(shape)
            array = np.frombuffer(self._data, dtype, count, self.at).reshape(shape).copy()
            self.at += count * dtype.itemsize
        else:
            array = self._text(ndim)
        if not np.isfinite(array).all():
            raise self._error(f"found NaN or infinity in the {_KIND[ndim]}{self._of}")
        return array

    def _text(self, ndim: int) -> np.ndarray:
        self._skip_space()
        end = self._data.find(b"]", self.at)
        if self._data[self.at : self.at + 1] != b"[":
            found = _show(self._data[self.at : self.at + 20])
            raise self._error(f'expected a {_KIND[ndim]}{self._of}, as "[ 1 2 3 ]" or binary, found {found}')
        if end < 0:
            raise self._error(f'the {_KIND[ndim]}{self._of} has no closing "]"')
        rows = [row for line in self._data[self.at + 1 : end].splitlines() if (row := line.split())]
        self.at = end + 1
        try:
            numbers = [[float(cell) for cell in row] for row in rows]
        except ValueError as error:
            raise self._error(f"expected numbers in the {_KIND[ndim]}{self._of} ({error})") from error
        if ndim == 1 and len(rows) > 1:
            raise self._error(f"expected a vector of floats{self._of}, found a matrix")
        if ndim == 1:
            return np.array(numbers[0] if numbers else [], np.float64)
        uneven = next((row for row in numbers if len(row) != len(numbers[0])), None)
        if uneven is not None:
            found = f"a row of {len(uneven)} numbers below one of {len(numbers[0])}"
            raise self._error(f"expected a matrix of even rows, found {found}")
        return np.array(numbers, np.float64).reshape(len(numbers), -1 if numbers else 0)

    def finish(self) -> None:
        """Check that nothing but white space is left."""
        left = self._data[self.at : self.at + 20]
        if left.strip():
            raise self._error(f"expected the end after the numbers{self._of}, found {_show(left)}")

    def _skip_space(self) -> None:
        space = _SPACE.match(self._data, self.at)
        self.at = space.end() if space else self.at

    def _error(self, message: str) -> InputError:
        return InputError(message, path=self._path, line=self._line)


def _show(found: bytes) -> str:
    """Bytes as they are, or as escapes where they cannot be shown."""
    return f'"{found.decode("latin-1").encode("unicode_escape").decode()}"' if found else "the end of the file"
