"""Kaldi archives of vectors, `.ark`: an utterance id and a vector, one after another.

Archives are memory-mapped and gathered into one float32 array; what a header claims is checked against the file
before anything is allocated.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import atomic_path
from spkadapt.kaldi_io.objects import DTYPES, FLAG, ObjectReader, encode_header, map_file

_EXPECTED = "a Kaldi archive of vectors"
_LONGEST_NAME = 4096
_BLOCK_BYTES = 1 << 20  # read or written at once: what a cache holds
_SPACE = ord(" ")


@dataclass(frozen=True)
class Layout:
    """What all vectors of an archive have in common."""

    dtype: np.dtype
    dim: int

    @property
    def header(self) -> bytes:
        """The bytes before the numbers of each vector."""
        return FLAG + encode_header(self.dtype, (self.dim,))

    @property
    def num_bytes(self) -> int:
        """The length of a vector with its header."""
        return len(self.header) + self.dim * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dim} numbers" if self.dtype == DTYPES["F"] else f"{self.dim} numbers of double precision"


def read_ark(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read every vector of an archive, binary or text.

    Shape:
        returns names and float32 `(len(names), dim)`

    Raises:
        InputError: naming the file and the utterance (in text: the line): the file is missing, empty or cut short,
            an entry is not a vector of floats, or one is not of the first one's length and precision.
    """
    path = Path(path)
    data = map_file(path, _EXPECTED)
    space = data.find(b" ", 0, _LONGEST_NAME)
    if data[space + 1 : space + 1 + len(FLAG)] != FLAG:
        return _read_text_ark(path)
    layout = read_layout(path, None, data, space + 1, _decode(data[:space], path, None, " of entry 1"))
    names, starts = _walk(path, data, layout)
    return names, gather(data, starts, layout)


def _read_text_ark(path: Path) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    rows: list[np.ndarray] = []
    with open(path, "rb") as file:
        for line, text in enumerate(file, start=1):
            key = (text.split(maxsplit=1) or [b""])[0]
            names.append(_decode(key, path, line))
            reader = ObjectReader(text, text.find(key) + len(key), path, line, names[-1])
            rows.append(as_float32(reader.array(1)))
            reader.finish()
            check_alike(path, line, (names[-1], f"{len(rows[-1])} numbers"), (names[0], f"{len(rows[0])} numbers"))
    return names, np.stack(rows)


def _walk(path: Path, data: mmap.mmap, layout: Layout) -> tuple[list[str], np.ndarray]:
    """The name of each entry of a binary archive, all of `layout`, and where its header begins.

    Where the next entry begins depends on the length of this one's name, so one entry is read after another; but
    names of one length come in runs, and a run is read at once.
    """
    names: list[str] = []
    starts: list[int] = []
    header, num_bytes = layout.header, layout.num_bytes
    at, last_length = 0, -1
    while at < len(data):
        space = data.find(b" ", at, at + _LONGEST_NAME)
        names.append(_decode(data[at:space] if space >= 0 else b"", path, None, f" of entry {len(names) + 1}"))
        start, length = space + 1, space - at
        at = start + num_bytes
        if data[start : start + len(header)] != header or at > len(data):
            found = read_layout(path, None, data, start, names[-1])  # which says so where the file ends within it
            check_alike(path, None, (names[-1], found), (names[0], layout))
        starts.append(start)
        if length == last_length:
            run = _run(data, at, length, layout)
            stride = length + 1 + num_bytes
            starts += range(at + length + 1, at + length + 1 + stride * len(run), stride)
            names += run
            at += stride * len(run)
        last_length = length
    return names, np.array(starts)


def _run(data: mmap.mmap, at: int, length: int, layout: Layout) -> list[str]:
    """The names of the entries from `at` on, as far as each is `length` bytes long and its header as expected."""
    stride = length + 1 + layout.num_bytes
    header = np.frombuffer(b" " + layout.header, np.uint8)
    names: list[str] = []
    most, size = (len(data) - at) // stride, 16
    while len(names) < most:
        count = min(size, most - len(names))
        rows = np.frombuffer(data, np.uint8, count * stride, at + len(names) * stride).reshape(count, stride)
        keys = rows[:, :length]
        good = (keys > _SPACE).all(axis=1) & (rows[:, length : length + len(header)] == header).all(axis=1)
        kept = count if good.all() else int(good.argmin())
        try:
            names += [key.decode() for key in keys[:kept].copy().view(f"V{length}")[:, 0].tolist()]
        except UnicodeDecodeError:
            break  # the reader of single entries says which is wrong
        if kept < count:
            break
        size = min(4 * size, _BLOCK_BYTES // stride + 1)
    return names


def read_layout(path: Path, line: int | None, data: mmap.mmap, at: int, name: str) -> Layout:
    """Of the binary vector at `at`, which is checked to end within `data`; `line` and `name` are for errors."""
    reader = ObjectReader(data, at, path, line, name)
    if not reader.binary:
        raise InputError(f'expected a binary vector of "{name}", found none', path=path, line=line)
    dtype, (dim,) = reader.header(1)
    if not dim:
        raise InputError(f'the vector of "{name}" has no numbers', path=path, line=line)
    return Layout(dtype, dim)


def check_alike(path: Path, line: int | None, found: tuple[str, object], first: tuple[str, object]) -> None:
    """Raise an `InputError` unless two named vectors have the same layout."""
    if found[1] != first[1]:
        raise InputError(f'"{found[0]}" has {found[1]}, and "{first[0]}" has {first[1]}', path=path, line=line)


def gather(data: mmap.mmap, starts: np.ndarray, layout: Layout) -> np.ndarray:
    """The vectors whose headers begin at `starts`, as float32 `(len(starts), dim)`, copied a block at a time."""
    width = layout.dim * layout.dtype.itemsize
    # One record begins at each byte of the file: any set of vectors is then one indexing, a copy of whole records.
    records = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
    vectors = np.empty((len(starts), layout.dim), np.float32)
    block = max(1, _BLOCK_BYTES // width)
    for row in range(0, len(starts), block):
        found = records[starts[row : row + block] + len(layout.header)]
        vectors[row : row + block] = as_float32(found.view(layout.dtype).reshape(-1, layout.dim))
    return vectors


def as_float32(numbers: np.ndarray) -> np.ndarray:
    """What overflows becomes infinite, which an embedding set refuses by name, as it does NaN of any kind."""
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32, copy=False)


def _decode(name: bytes, path: Path, line: int | None, where: str = "") -> str:
    if name.split() != [name]:
        raise InputError(f"expected an utterance id{where} before a vector, found none", path=path, line=line)
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"expected the utterance id{where} in UTF-8 ({error})", path=path, line=line) from error


def write_ark(path: str | Path, names: Sequence[str], vectors: np.ndarray) -> None:
    """Write float32 vectors `(len(names), dim)` to `path`, atomically, as a binary archive.

    Raises:
        InputError: there are no vectors, or a name is empty or has white space, which Kaldi cannot hold.
    """
    with atomic_path(path) as temporary:
        write_entries(temporary, path, names, vectors)


def write_entries(file: Path, path: str | Path, names: Sequence[str], vectors: np.ndarray) -> list[int]:
    """Write an archive to `file`, as `write_ark` does; return where each vector begins. Errors name `path`."""
    unfit = [name for name in names if name.split() != [name]]
    if unfit:
        listed = ", ".join(f'"{name}"' for name in unfit[:10])
        raise InputError(
            f"expected utterance ids without white space, which Kaldi cannot hold, found {listed}", path=path
        )
    if not vectors.size:
        raise InputError("expected embeddings to write, found none; a Kaldi archive cannot be empty", path=path)
    layout = Layout(DTYPES["F"], vectors.shape[1])
    keys = [f"{name} ".encode() for name in names]
    width, block = layout.dim * 4, max(1, _BLOCK_BYTES // layout.num_bytes)
    with open(file, "wb") as out:
        for row in range(0, len(keys), block):
            numbers = vectors[row : row + block].astype(layout.dtype).tobytes()
            pieces: list[bytes] = []
            for place, key in enumerate(keys[row : row + block]):
                pieces += (key, layout.header, numbers[place * width : (place + 1) * width])
            out.write(b"".join(pieces))
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    return (np.cumsum(lengths + layout.num_bytes) - layout.num_bytes).tolist()
