"""Frames larger than memory, read from disk at the speed of training."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.frames import block_shuffled


class DiskFrames:
    """An `OrderedFrameSource` over frames in files, one file after another, never read as a whole.

    An epoch takes them in the order of `block_shuffled`: whole blocks are read, each in one go, into a buffer of
    fixed size, from which the mini-batches come; the system is asked to fetch the next buffer's blocks meanwhile.
    That one buffer, the order of the blocks and the indices of the buffer's frames are all that an epoch holds.
    What is taken in another order is read frame by frame. Frames that are not finite are found when a loss is not.

    Args:
        paths: `.npy` matrices `(n, dim)` of float32 or float64 in C order, all alike; or, where `dim` is given,
            raw files of little-endian float32. A feature store's `frames.npy` is such a file.
        dim: of raw files.
        block_bytes: size of a block, the least that is read at once. Disks reach their speed at about a megabyte.
        buffer_bytes: size of a buffer. Its number of blocks is what decides how good the shuffle is.
        device: where the frames are wanted.

    Raises:
        InputError: no file; a file that cannot be read, is of another kind, empty, cut short, or unlike the first.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        dim: int | None = None,
        block_bytes: int = 1 << 20,
        buffer_bytes: int = 1 << 28,
        device: str = "cpu",
    ) -> None:
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not paths:
            raise InputError("there are no files of frames; expected at least one")
        if not 1 <= block_bytes <= buffer_bytes:
            raise InputError(
                f"block_bytes is {block_bytes} and buffer_bytes {buffer_bytes}; expected 1 ≤ block ≤ buffer"
            )
        self._files = [_open_raw(Path(path), dim) if dim is not None else _open_npy(Path(path)) for path in paths]
        first = self._files[0]
        for file in self._files[1:]:
            if (file.dim, file.dtype) != (first.dim, first.dtype):
                raise InputError(
                    f"frames of {file.dim} dimensions in {file.dtype}; those of {first.path} have {first.dim} "
                    f"in {first.dtype}",
                    path=file.path,
                )
        self.dim = first.dim
        self._ends = list(accumulate(file.num_frames for file in self._files))
        frame_bytes = self.dim * first.dtype.itemsize
        self.block_size = max(1, block_bytes // frame_bytes)
        self.blocks_per_buffer = max(1, buffer_bytes // (self.block_size * frame_bytes))
        self._buffer = self._empty(0)
        # Where in the buffer each block lies, in blocks; below 0 where it does not.
        self._slots = torch.full((-(-len(self) // self.block_size),), -1)
        self._device = device

    def __len__(self) -> int:
        return self._ends[-1]

    def take(self, indices: Tensor) -> Tensor:
        """The frames `(batch, dim)` at `indices (batch,)`."""
        slots = self._slots[indices // self.block_size]
        if (slots >= 0).all():
            taken = self._buffer.index_select(0, slots * self.block_size + indices % self.block_size)
        else:  # also a mini-batch of which a part was in the buffer before
            taken = self._take_singly(indices)
        return taken.to(self._device)

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Every index once, in the order of `block_shuffled`, a buffer at a time."""
        buffers = block_shuffled(len(self), self.block_size, self.blocks_per_buffer, generator)
        return self._read_ahead(buffers)

    def _read_ahead(self, buffers: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """The buffers' indices, each as its blocks have been read and the next buffer's have been asked for."""
        blocks, indices = next(buffers)
        for following in buffers:
            self._fill(blocks)
            for file, _, first, past in self._pieces(following[0]):
                file.ask_for(first, past)
            yield indices
            blocks, indices = following
        self._fill(blocks)
        yield indices

    def _fill(self, blocks: Tensor) -> None:
        if not len(self._buffer):
            self._buffer = self._empty(min(self.blocks_per_buffer, len(self._slots)) * self.block_size)
        self._slots.fill_(-1)
        rows = self._buffer.numpy()
        for file, place, first, past in self._pieces(blocks):
            file.read(first, rows[place : place + past - first])
        self._slots[blocks] = torch.arange(len(blocks))

    def _pieces(self, blocks: Tensor) -> Iterator[tuple[_FramesFile, int, int, int]]:
        """Where blocks lie: the file, the first row within the buffer, and the file's frames `first:past`."""
        for slot, block in enumerate(blocks.tolist()):
            begin, stop = block * self.block_size, min((block + 1) * self.block_size, len(self))
            for file, end in zip(self._files, self._ends, strict=True):
                start = end - file.num_frames
                first, past = max(begin, start), min(stop, end)
                if first < past:
                    yield file, slot * self.block_size + first - begin, first - start, past - start

    def _take_singly(self, indices: Tensor) -> Tensor:
        taken = self._empty(len(indices))
        for row, index in zip(taken.numpy(), indices.tolist(), strict=True):
            number = bisect_right(self._ends, index)
            file = self._files[number]
            file.read(index - self._ends[number] + file.num_frames, row)
        return taken

    def _empty(self, num_frames: int) -> Tensor:
        return torch.from_numpy(np.empty((num_frames, self.dim), self._files[0].dtype))


class _FramesFile:
    """A file of `num_frames` frames of `dim` numbers, read in pieces."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, int], offset: int) -> None:
        self.path, self.dtype, (self.num_frames, self.dim) = path, dtype, shape
        self._offset, self._frame_bytes = offset, self.dim * dtype.itemsize

    def ask_for(self, first: int, past: int) -> None:
        """Have the system begin to read the frames `first:past`, where it can be asked."""
        if hasattr(os, "posix_fadvise"):
            start, length = self._offset + first * self._frame_bytes, (past - first) * self._frame_bytes
            with open(self.path, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def read(self, first: int, rows: np.ndarray) -> None:
        """Fill `rows (length, dim)`, or one row `(dim,)`, with the frames from `first` on.

        Raises:
            InputError: the file has become shorter.
        """
        left = rows.data.cast("B")
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self._offset + first * self._frame_bytes)
            while len(left):
                num_read = file.readinto(left)
                if not num_read:
                    raise InputError("the file has become shorter since it was opened", path=self.path)
                left = left[num_read:]


def _open_raw(path: Path, dim: int) -> _FramesFile:
    if dim < 1:
        raise InputError(f"dim is {dim}; expected a whole number of at least 1")
    try:
        size = path.stat().st_size
        num_frames, rest = divmod(size, 4 * dim)
        if num_frames == 0 or rest:
            raise InputError(
                f"{size} bytes; expected a multiple of {4 * dim} above 0, for frames of {dim} float32 numbers",
                path=path,
            )
        return _FramesFile(path, np.dtype("<f4"), (num_frames, dim), 0)
    except OSError as error:
        raise InputError(f"cannot read frames: {error.strerror}", path=path) from error


def _open_npy(path: Path) -> _FramesFile:
    try:
        header = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read frames: {error.strerror or error}", path=path) from error
    except (ValueError, EOFError) as error:
        raise InputError(
            f"expected a whole .npy matrix of float32 or float64 ({error}); raw files need dim", path=path
        ) from error
    if not isinstance(header, np.memmap) or header.dtype not in (np.dtype("<f4"), np.dtype("<f8")):
        found = header.dtype if isinstance(header, np.ndarray) else "an archive"
        raise InputError(f"expected a .npy matrix of float32 or float64; found {found}", path=path)
    if header.ndim != 2 or header.size == 0 or not header.flags.c_contiguous:
        order = "C" if header.flags.c_contiguous else "Fortran"
        raise InputError(
            f"expected a non-empty (n, dim) matrix in C order; found shape {header.shape} in {order} order",
            path=path,
        )
    return _FramesFile(path, header.dtype, (header.shape[0], header.shape[1]), header.offset)
