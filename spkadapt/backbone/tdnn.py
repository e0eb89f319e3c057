"""The time-delay network of the x-vector (Snyder et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spkadapt.backbone.pooling import statistics_pooling
from spkadapt.errors import InputError
from spkadapt.frames import is_padding

# (kernel size, dilation) of each layer: Snyder et al. (2018), table 1.
LAYERS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))


@dataclass(frozen=True)
class TdnnConfig:
    """The shape of a `Tdnn`.

    Attributes:
        channels: width of the frame layers (Snyder et al. use 512).
        pooled_channels: width of the last frame layer, before pooling (they use 1500).
        embedding_dim: size of the embedding (they use 512).
        frame_subsampling: the first layer keeps every so-manieth frame, which saves as much of the time.
    """

    channels: int = 256
    pooled_channels: int = 512
    embedding_dim: int = 192
    frame_subsampling: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.pooled_channels, self.embedding_dim, self.frame_subsampling) < 1:
            raise InputError("channels, pooled_channels, embedding_dim and frame_subsampling must be ≥ 1")


class Tdnn(nn.Module):
    """Dilated convolutions over time, statistics pooling, one linear embedding layer.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.
    Convolutions are zero-padded at both ends and their output beyond `lengths` is set to zero after every
    layer, so that an utterance's embedding does not depend on how far its batch was padded.
    """

    ignores_padding = True

    def __init__(self, num_features: int, config: TdnnConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        widths = [num_features, *[config.channels] * (len(LAYERS) - 1), config.pooled_channels]
        strides = [config.frame_subsampling, *[1] * (len(LAYERS) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for inputs, outputs, (kernel, dilation), stride in zip(
                widths[:-1], widths[1:], LAYERS, strides, strict=True
            )
        )
        self.frame_subsampling = config.frame_subsampling
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.frame_dim = config.pooled_channels
        self.embedding = nn.Linear(2 * config.pooled_channels, config.embedding_dim)

    def encode_frames(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last frame layer's output, `(batch, frames, frame_dim)`, and how many of its frames are real."""
        frames, lengths, mask = mask_frames(features, lengths, self.frame_subsampling)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            frames = norm(torch.relu(convolution(frames))) * mask
        return frames.transpose(1, 2), lengths

    def pool_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Frames to embeddings."""
        return self.embedding(statistics_pooling(frames, lengths))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))


def mask_frames(
    features: torch.Tensor, lengths: torch.Tensor, subsampling: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What convolutions over time start from, where the first keeps every so-manieth frame.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → features `(batch, num_features, frames)`,
    zero beyond the lengths; the lengths after the first convolution, `(batch,)`; and which frames of its output
    are real, `(batch, 1, frames)`.
    """
    maps = features.transpose(1, 2) * ~is_padding(lengths, features.shape[1])[:, None, :]
    lengths = torch.div(lengths + subsampling - 1, subsampling, rounding_mode="floor")
    return maps, lengths, ~is_padding(lengths, -(-features.shape[1] // subsampling))[:, None, :]
