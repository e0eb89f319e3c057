"""From a sequence of frames to one vector."""

from __future__ import annotations

import torch


def frame_mask(lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Which frames are real: bool `(batch, num_frames)` from the absolute counts `lengths (batch,)`."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def statistics_pooling(frames: torch.Tensor, lengths: torch.Tensor, variance_floor: float = 1e-5) -> torch.Tensor:
    """Mean and standard deviation of each utterance's real frames (Snyder et al., 2018).

    Shape: `(batch, frames, dim)` and `(batch,)` to `(batch, 2 * dim)`.

    The variance is floored before the root, so that the gradient stays finite for constant frames and for
    utterances of a single frame.
    """
    mask = frame_mask(lengths, frames.shape[1])[:, :, None].to(frames.dtype)
    count = lengths.to(frames.dtype)[:, None]
    mean = (frames * mask).sum(dim=1) / count
    variance = ((frames - mean[:, None, :]).square() * mask).sum(dim=1) / count
    return torch.cat([mean, variance.clamp_min(variance_floor).sqrt()], dim=1)
