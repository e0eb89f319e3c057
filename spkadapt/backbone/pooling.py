"""From a sequence of frames to one vector."""

from __future__ import annotations

import torch

from spkadapt.frames import is_padding


def statistics_pooling(frames: torch.Tensor, lengths: torch.Tensor, variance_floor: float = 1e-5) -> torch.Tensor:
    """Mean and standard deviation of each utterance's real frames (Snyder et al., 2018).

    Shape: `(batch, frames, dim)` and `(batch,)` to `(batch, 2 * dim)`.

    Half precision is pooled in float32: a sum over hundreds of frames needs the digits. The variance is floored
    before the root, so that the gradient stays finite for constant frames and for utterances of one frame.
    """
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    mask = ~is_padding(lengths, frames.shape[1])[:, :, None]
    count = lengths.to(frames.dtype)[:, None]
    mean = (frames * mask).sum(dim=1) / count
    variance = ((frames - mean[:, None, :]).square() * mask).sum(dim=1) / count
    return torch.cat([mean, variance.clamp_min(variance_floor).sqrt()], dim=1)
