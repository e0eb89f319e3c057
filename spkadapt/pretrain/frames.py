"""Where frames come from: in memory, from disk, or through the layers below; and the order of an epoch.

Every pretrainer sees a `FrameSource`: so many frames, of which it takes those at given places. A source that must
be read in an order of its own (`OrderedFrameSource`) says which; any other is shuffled as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spkadapt.errors import InputError


@runtime_checkable
class FrameSource(Protocol):
    """Frames that are made when asked for, e.g. spliced with their neighbours on the fly.

    The model trains on the device and in the precision of what `take` returns.
    """

    @property
    def dim(self) -> int:
        """Number of dimensions of a frame."""

    def __len__(self) -> int:
        """Number of frames."""

    def take(self, indices: Tensor) -> Tensor:
        """The frames `(batch, dim)` at `indices (batch,)`, int64 on the CPU, each in `[0, len(self))`."""


@runtime_checkable
class OrderedFrameSource(FrameSource, Protocol):
    """A `FrameSource` whose epochs have an order of its own making, because it is slow to read in any other."""

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Every index once, shuffled, in pieces `(length,)`; all that it draws decided by `generator`'s state."""


class TensorFrames:
    """A `FrameSource` over frames `(n, dim)` that lie in memory; never copied as a whole.

    Raises:
        InputError: not a matrix, empty, not of floating point, or not finite.
    """

    def __init__(self, frames: Tensor) -> None:
        check_frames(frames)
        self.frames = frames.detach()

    @property
    def dim(self) -> int:
        """Number of dimensions of a frame."""
        return self.frames.shape[1]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, indices: Tensor) -> Tensor:
        """The frames `(batch, dim)` at `indices (batch,)`."""
        return self.frames.index_select(0, indices.to(self.frames.device))


class EncodedFrames:
    """A `FrameSource` of codes: each mini-batch goes through the layers below when it is asked for."""

    def __init__(self, source: FrameSource, dim: int, encode: Callable[[Tensor], Tensor]) -> None:
        self.source, self.dim, self.encode = source, dim, encode

    def __len__(self) -> int:
        return len(self.source)

    @torch.no_grad()
    def take(self, indices: Tensor) -> Tensor:
        """The codes `(batch, dim)` of the source's frames at `indices (batch,)`."""
        return self.encode(self.source.take(indices))

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """An epoch in the order of the source."""
        return epoch_order(self.source, generator)


def check_frames(frames: Tensor) -> None:
    """Raise `InputError` unless `frames` is a finite, non-empty `(n, dim)` tensor of floating point."""
    if frames.ndim != 2 or frames.numel() == 0 or not frames.is_floating_point():
        raise InputError(
            f"frames have shape {tuple(frames.shape)} and type {frames.dtype}; "
            "expected a non-empty (n, dim) tensor of floating point"
        )
    if torch.isfinite(frames.sum()):  # one pass and no mask: NaN and infinity survive a sum
        return
    for start in range(0, len(frames), 4096):
        bad = torch.nonzero(~torch.isfinite(frames[start : start + 4096]))
        if len(bad):
            frame, dimension = bad[0].tolist()
            value = frames[start + frame, dimension].item()
            raise InputError(
                f"frames must be finite; frame {start + frame} holds {value} in dimension {dimension}"
            )


def check_unit_interval(frames: Tensor, what: str) -> None:
    """Raise `InputError` unless every value of `frames` lies in [0, 1], as `what` needs."""
    low, high = (extreme.item() for extreme in frames.aminmax())
    if low < 0 or high > 1:  # false for NaN, which the loss will tell of
        raise InputError(f"{what} needs frames in [0, 1]; found values from {low:.4g} to {high:.4g}")


def as_frame_source(frames: Tensor | FrameSource) -> FrameSource:
    """`frames` itself where it is a `FrameSource`, else a checked `TensorFrames`."""
    if isinstance(frames, Tensor):
        return TensorFrames(frames)
    if len(frames) == 0:
        raise InputError("the frame source is empty; expected at least one frame")
    return frames


def epoch_order(source: FrameSource, generator: torch.Generator) -> Iterator[Tensor]:
    """Every index of `source` once, shuffled, in pieces: the source's own order, or a uniform permutation."""
    if isinstance(source, OrderedFrameSource):
        return source.order(generator)
    return iter((torch.randperm(len(source), generator=generator),))


def index_batches(
    source: FrameSource, batch_size: int, max_frames: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """One epoch's mini-batches of indices, `(batch_size,)` each, the last perhaps smaller.

    Whatever is drawn from `generator` is drawn before this returns.

    Args:
        source: the frames.
        batch_size: indices a batch.
        max_frames: the epoch ends after so many; None for all.
        generator: decides the order.
    """
    return _rebatch(epoch_order(source, generator), batch_size, len(source) if max_frames is None else max_frames)


def _rebatch(pieces: Iterable[Tensor], batch_size: int, num_left: int) -> Iterator[Tensor]:
    rest = torch.empty(0, dtype=torch.int64)
    for piece in pieces:
        indices = torch.cat((rest, piece[:num_left]))
        num_left -= min(num_left, len(piece))
        num_whole = len(indices) - len(indices) % batch_size
        yield from indices[:num_whole].split(batch_size) if num_whole else ()
        rest = indices[num_whole:]
        if num_left == 0:
            break
    if len(rest):
        yield rest


def block_shuffled(
    num_frames: int, block_size: int, blocks_per_buffer: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every index once, in an order that reads whole blocks: what a disk is fast at, nearly as good as a shuffle.

    The frames are cut into blocks of `block_size` neighbours, which a uniform permutation deals into buffers of
    K = `blocks_per_buffer`; within a buffer every permutation of the frames is equally likely. Two frames of one
    mini-batch therefore come from the same block with probability (B − 1)/(KB − 1) ≈ 1/K. Where neighbours
    correlate with ρ, the mean of a mini-batch of b frames has a variance of about σ²/b · (1 + (b − 1)ρ/K), against
    σ²/b when all is shuffled: keep K well above b · ρ.

    Only the permutation of the blocks and one buffer's indices are held. All that is drawn from `generator`, a
    seed, is drawn before this returns.

    Yields:
        One buffer at a time, its blocks' numbers `(at most K,)` and its frames' indices `(at most KB,)`.
    """
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
    return _dealt(num_frames, block_size, blocks_per_buffer, own)


def _dealt(
    num_frames: int, block_size: int, blocks_per_buffer: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(-(-num_frames // block_size), generator=generator)
    for blocks in order.split(blocks_per_buffer):
        indices = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()
        indices = indices[indices < num_frames]
        yield blocks, indices[torch.randperm(len(indices), generator=generator)]


def frames_digest(source: FrameSource, num_frames: int = 256) -> str:
    """A checksum of `source` that tells it from others: its size, type, and up to 256 frames spread evenly.

    Other frames may go unnoticed where they lie between these: to read all would take as long as an epoch.
    """
    count = min(num_frames, len(source))
    taken = source.take(torch.arange(count) * len(source) // count)
    digest = hashlib.sha256(f"{len(source)} {source.dim} {taken.dtype} {taken.device.type}".encode())
    digest.update(taken.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
