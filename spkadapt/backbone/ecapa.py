"""SpeechBrain's ECAPA-TDNN (Desplanques et al., 2020), behind the interface of the other backbones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spkadapt.errors import InputError

# The widest convolution mirrors 4 frames beyond each end, so there must be 5 to mirror them from.
MIN_FRAMES = 5


@dataclass(frozen=True)
class EcapaConfig:
    """The shape of an `Ecapa`.

    Attributes:
        channels: width of the frame layers (the paper uses 512 and 1024); a multiple of 8, the Res2Net scale.
        embedding_dim: size of the embedding (the paper uses 192).
    """

    channels: int = 256
    embedding_dim: int = 192

    def __post_init__(self) -> None:
        if self.channels < 8 or self.channels % 8:
            raise InputError(f"channels is {self.channels}; ECAPA's Res2Net blocks need a multiple of 8")
        if self.embedding_dim < 1:
            raise InputError(f"embedding_dim is {self.embedding_dim}; expected at least 1")


class Ecapa(nn.Module):
    """ECAPA-TDNN, for utterances of any length: one of fewer than `MIN_FRAMES` is repeated from its start.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.
    """

    ignores_padding = False

    def __init__(self, num_features: int, config: EcapaConfig) -> None:
        super().__init__()
        # Imported here because SpeechBrain takes seconds to import and most runs do without it.
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        self.embedding_dim = config.embedding_dim
        width = config.channels
        self.network = ECAPA_TDNN(
            num_features, channels=[width] * 4 + [3 * width], lin_neurons=config.embedding_dim
        )

        self.frame_dim = 3 * width

    def encode_frames(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention pools, `(batch, frames, frame_dim)`, and how many of its frames are real."""
        if features.shape[1] < MIN_FRAMES:
            within = torch.arange(MIN_FRAMES, device=features.device) % lengths[:, None]
            features = features.take_along_dim(within[:, :, None], dim=1)
            lengths = torch.full_like(lengths, MIN_FRAMES)
        relative, outputs = lengths / features.shape[1], []
        maps = self.network.blocks[0](features.transpose(1, 2))
        for block in self.network.blocks[1:]:
            maps = block(maps, lengths=relative)
            outputs.append(maps)
        return self.network.mfa(torch.cat(outputs, dim=1)).transpose(1, 2), lengths

    def pool_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Frames to embeddings."""
        network = self.network
        pooled = network.asp(frames.transpose(1, 2), lengths=lengths / frames.shape[1])
        return network.fc(network.asp_bn(pooled)).squeeze(2).float()

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))
