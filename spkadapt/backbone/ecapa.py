"""SpeechBrain's ECAPA-TDNN (Desplanques et al., 2020), behind the interface of the other backbones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spkadapt.errors import InputError


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


class Ecapa(nn.Module):
    """ECAPA-TDNN: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, dim)`."""

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

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed each utterance of the batch."""
        return self.network(features, lengths / features.shape[1]).squeeze(1).float()
