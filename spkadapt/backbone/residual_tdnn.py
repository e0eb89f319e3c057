"""A time-delay network of residual blocks (He et al., 2016), pooled by attention (Okabe et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spkadapt.backbone.pooling import AttentiveStatisticsPooling
from spkadapt.backbone.tdnn import mask_frames
from spkadapt.errors import InputError


@dataclass(frozen=True)
class ResidualTdnnConfig:
    """The shape of a `ResidualTdnn`.

    Attributes:
        channels: width of the frame layers.
        dilations: of the blocks, one each.
        pooled_channels: width of the last frame layer, before pooling.
        attention_dim: width of the attention's hidden layer (Okabe et al. use 64).
        embedding_dim: size of the embedding.
        frame_subsampling: the first layer keeps every so-manieth frame, which saves as much of the time.
    """

    channels: int = 256
    dilations: tuple[int, ...] = (1, 2, 3)
    pooled_channels: int = 512
    attention_dim: int = 64
    embedding_dim: int = 192
    frame_subsampling: int = 1

    def __post_init__(self) -> None:
        sizes = ("channels", "pooled_channels", "attention_dim", "embedding_dim", "frame_subsampling")
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.dilations or min(self.dilations) < 1:
            raise InputError(f"dilations are {list(self.dilations)}; expected at least one, each at least 1")


class ResidualTdnn(nn.Module):
    """A convolution over time, residual blocks of growing context, attentive statistics pooling, a linear layer.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.

    Each block is x + f₁(f₃(x)), with f a convolution, of one frame or of three that lie `dilation` apart, then
    ReLU and batch normalisation. What lies beyond `lengths` is set to zero after every layer, so that an
    utterance's embedding does not depend on how far its batch was padded. The pooled statistics are
    batch-normalised.
    """

    ignores_padding = True

    def __init__(self, num_features: int, config: ResidualTdnnConfig) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.frame_dim = config.pooled_channels
        self.frame_subsampling = config.frame_subsampling
        self.entry = _Layer(num_features, config.channels, 5, stride=config.frame_subsampling)
        self.blocks = nn.ModuleList(_Block(config.channels, dilation) for dilation in config.dilations)
        self.exit = _Layer(config.channels, config.pooled_channels, 1)
        self.pooling = AttentiveStatisticsPooling(config.pooled_channels, config.attention_dim)
        self.pooled_norm = nn.BatchNorm1d(2 * config.pooled_channels)
        self.embedding = nn.Linear(2 * config.pooled_channels, config.embedding_dim)

    def encode_frames(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The last frame layer's output, `(batch, frames, frame_dim)`, and how many of its frames are real."""
        maps, lengths, mask = mask_frames(features, lengths, self.frame_subsampling)
        maps = self.entry(maps, mask)
        for block in self.blocks:
            maps = block(maps, mask)
        return self.exit(maps, mask).transpose(1, 2), lengths

    def pool_frames(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames to embeddings."""
        return self.embedding(self.pooled_norm(self.pooling(frames, lengths)))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))


class _Layer(nn.Module):
    """Maps `(batch, channels, frames)` → convolution → ReLU → batch normalisation → zero where masked."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        reach = dilation * (kernel - 1) // 2
        self.convolution = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, padding=reach)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        return self.norm(torch.relu(self.convolution(maps))) * mask


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.context = _Layer(channels, channels, 3, dilation=dilation)
        self.mixing = _Layer(channels, channels, 1)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        return maps + self.mixing(self.context(maps, mask), mask)
