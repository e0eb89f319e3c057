"""From a sequence of frames to one vector.

Half precision is pooled in float32: a sum over hundreds of frames needs the digits. The variance is floored before
the root, so that the gradient stays finite for constant frames and for utterances of one frame.
"""

from __future__ import annotations

import torch
from torch import nn

from spkadapt.frames import is_padding

VARIANCE_FLOOR = 1e-5


def statistics_pooling(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of each utterance's real frames (Snyder et al., 2018).

    Shape: `(batch, frames, dim)` and `(batch,)` to `(batch, 2 * dim)`.
    """
    return _weighted_statistics(frames, ~is_padding(lengths, frames.shape[1])[:, :, None])


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation of each utterance's real frames under learnt weights (Okabe et al., 2018).

        e_t = V tanh(W h_t + b) + k,   α_t = softmax over t of e_t,   μ = Σ α_t h_t,   σ² = Σ α_t (h_t − μ)²

    with weights for each channel (as Desplanques et al., 2020), where Okabe et al. have the same for all.

    Shape: `(batch, frames, dim)` and `(batch,)` to `(batch, 2 * dim)`.

    Args:
        dim: of the frames.
        attention_dim: width of the hidden layer.
    """

    def __init__(self, dim: int, attention_dim: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(dim, attention_dim), nn.Tanh(), nn.Linear(attention_dim, dim))

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Pool each utterance of the batch."""
        padding = is_padding(lengths, frames.shape[1])[:, :, None]
        scores = self.attention(frames).masked_fill(padding, -torch.inf)
        return _weighted_statistics(frames, scores.softmax(dim=1, dtype=_pooling_dtype(frames)))


def _weighted_statistics(frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    frames = frames.to(_pooling_dtype(frames))
    weights = weights.to(frames.dtype)
    total = weights.sum(dim=1)
    mean = (frames * weights).sum(dim=1) / total
    variance = ((frames - mean[:, None, :]).square() * weights).sum(dim=1) / total
    return torch.cat([mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()], dim=1)


def _pooling_dtype(frames: torch.Tensor) -> torch.dtype:
    return torch.promote_types(frames.dtype, torch.float32)
