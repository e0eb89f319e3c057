"""A thin residual network over time and frequency, after the r-vector (Zeinali et al., 2019; He et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spkadapt.backbone.pooling import statistics_pooling
from spkadapt.errors import InputError
from spkadapt.frames import is_padding

# (stride over frequency, stride over time) of each block; the first convolution halves both.
STRIDES = ((1, 1), (2, 2), (2, 1), (1, 1))


@dataclass(frozen=True)
class ResnetConfig:
    """The shape of a `Resnet`.

    Attributes:
        channels: width of the first block; the others have two, four and four times as many.
        embedding_dim: size of the embedding.
    """

    channels: int = 16
    embedding_dim: int = 192

    def __post_init__(self) -> None:
        if min(self.channels, self.embedding_dim) < 1:
            raise InputError("channels and embedding_dim must be ≥ 1")


class Resnet(nn.Module):
    """Four residual blocks of two 3 × 3 convolutions, statistics pooling, one linear embedding layer.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.
    Time is halved twice. What lies beyond `lengths` is set to zero before every convolution, so that an
    utterance's embedding does not depend on how far its batch was padded.
    """

    ignores_padding = True

    def __init__(self, num_features: int, config: ResnetConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        width = config.channels
        widths = (width, width, 2 * width, 4 * width, 4 * width)
        self.entry = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.entry_norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(
            _Block(inputs, outputs, stride)
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True)
        )
        num_bins = -(-num_features // 2)
        for frequency_stride, _ in STRIDES:
            num_bins = -(-num_bins // frequency_stride)
        self.frame_dim = widths[-1] * num_bins
        self.embedding = nn.Linear(2 * self.frame_dim, config.embedding_dim)

    def encode_frames(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's output, `(batch, frames / 4, frame_dim)`, and how many of its frames are real."""
        maps = _masked(features.transpose(1, 2)[:, None], lengths)
        # Two-dimensional convolutions of few channels are faster on a CPU with the channels last.
        maps = self.entry(maps.contiguous(memory_format=torch.channels_last))
        lengths = _halved(lengths)
        maps = torch.relu(self.entry_norm(maps))
        for block in self.blocks:
            maps, lengths = block(maps, lengths)
        return maps.flatten(1, 2).transpose(1, 2), lengths

    def pool_frames(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames to embeddings."""
        return self.embedding(statistics_pooling(frames, lengths))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.halves_time = stride[1] == 2
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        maps = _masked(maps, lengths)
        if self.halves_time:
            lengths = _halved(lengths)
        inner = _masked(torch.relu(self.first_norm(self.first(maps))), lengths)
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(maps)), lengths


def _masked(maps: Tensor, lengths: Tensor) -> Tensor:
    """Maps `(batch, channels, bins, frames)`, zero beyond each utterance's frames."""
    return maps * ~is_padding(lengths, maps.shape[3])[:, None, None, :]


def _halved(lengths: Tensor) -> Tensor:
    return torch.div(lengths + 1, 2, rounding_mode="floor")
