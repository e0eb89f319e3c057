"""Embeddings in NumPy's npz format: arrays `utterance_ids` (text) and `embeddings` (floats).

Large embeddings that are stored as we store them, uncompressed float32 at an aligned place, are memory-mapped:
they are read and checked once, and take no memory that the system cannot have back. Sizes are checked against the
file before anything is allocated, and nothing in a file is ever run.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import UNREADABLE_NPZ, atomic_path

_KEYS = ("utterance_ids", "embeddings")
_MAP_FROM = 1 << 28  # bytes of embeddings
_BLOCK_BYTES = 1 << 20
_LOCAL_HEADER_SIZE, _NAME_LENGTH_AT, _EXTRA_LENGTH_AT = 30, 26, 28  # of a member of a zip file (PKWARE's APPNOTE)
_BEST_DEFLATION = 1032  # bytes from one, at the very most (zlib's technical details)


def read_npz(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read `utterance_ids` and `embeddings`, whatever else the file holds.

    Raises:
        InputError: the file is missing, cut short, altered, or lacks one of the two arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("expected an npz file of embeddings, found no such file", path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if not set(_KEYS) <= set(infos):
                message = f"expected arrays {' and '.join(_KEYS)}, found: {', '.join(infos) or 'none'}"
                raise InputError(message, path=path)
            ids, embeddings = (_Member(path, archive, infos[key]).read() for key in _KEYS)
    except InputError:
        raise
    except UNREADABLE_NPZ as error:
        message = "expected an npz file of embeddings, found one that is damaged or of another kind"
        raise InputError(f"{message} ({error})", path=path) from error
    if ids.dtype.kind != "U" or ids.ndim != 1:
        found = f"{ids.dtype} of shape {ids.shape}"
        raise InputError(f"expected utterance_ids to be one-dimensional text, found {found}", path=path)
    return ids.tolist(), embeddings


def write_npz(path: str | Path, utterance_ids: Sequence[str], embeddings: np.ndarray) -> None:
    """Write the two arrays to `path`, atomically, so that `read_npz` reads them back bit for bit."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        # The first array begins at a multiple of 64 bytes, so that it can be mapped; a later one may not.
        np.savez(file, embeddings=embeddings, utterance_ids=np.array(utterance_ids, dtype=str))


@dataclass(frozen=True)
class _Member:
    """One array of an npz file; what is wrong with it is a ValueError."""

    path: Path
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def read(self) -> np.ndarray:
        shape, fortran_order, dtype, header_size = self._header()
        stored = self.info.compress_type == zipfile.ZIP_STORED
        if self.info.compress_size > self.path.stat().st_size:
            raise ValueError(f"{self.info.filename} claims more bytes than the file has")
        if self.info.file_size > self.info.compress_size * (1 if stored else _BEST_DEFLATION) + _BEST_DEFLATION:
            raise ValueError(f"{self.info.filename} claims more bytes than compression can hold")
        num_bytes = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and (header_size + num_bytes != self.info.file_size or min(shape, default=0) < 0):
            raise ValueError(f"{self.info.filename} claims to be of shape {shape}, which its size contradicts")
        if not dtype.itemsize:
            raise ValueError(f"{self.info.filename} claims {math.prod(shape)} texts of no length")
        if stored and dtype == np.dtype("<f4") and not fortran_order and self.info.file_size >= _MAP_FROM:
            start = self._start()
            if (start + header_size) % dtype.itemsize == 0:
                return self._map(start, header_size).view(dtype).reshape(shape)
        with self.archive.open(self.info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """Shape, whether in Fortran order, dtype, and the length of the header itself."""
        with self.archive.open(self.info) as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read[version](file)
            return shape, fortran_order, dtype, file.tell()

    def _start(self) -> int:
        """Where in the file the bytes of a stored member begin."""
        with open(self.path, "rb") as file:
            file.seek(self.info.header_offset)
            header = file.read(_LOCAL_HEADER_SIZE)
        lengths = (header[at : at + 2] for at in (_NAME_LENGTH_AT, _EXTRA_LENGTH_AT))
        return (
            self.info.header_offset + _LOCAL_HEADER_SIZE + sum(int.from_bytes(each, "little") for each in lengths)
        )

    def _map(self, start: int, skip: int) -> np.ndarray:
        """The bytes after the first `skip`, mapped; changes to them stay in memory. The checksum is checked."""
        content = np.asarray(np.memmap(self.path, np.uint8, "c", start, (self.info.file_size,)))
        checksum = 0
        for at in range(0, len(content), _BLOCK_BYTES):
            checksum = zlib.crc32(content[at : at + _BLOCK_BYTES].data, checksum)
        if checksum != self.info.CRC:
            raise ValueError(f"{self.info.filename} does not have the checksum that it was written with")
        return content[skip:]
