"""Networks that turn features into embeddings, by name.

Every backbone is built as `Backbone(num_features, config)`, has an `embedding_dim`, and maps features
`(batch, frames, num_features)` with `lengths (batch,)` to embeddings `(batch, embedding_dim)`, in two halves:
`encode_frames` gives the last frame layer's output `(batch, frames, frame_dim)` and its lengths, and `pool_frames`
embeddings of these. `ignores_padding` says whether an utterance's embedding is the same however far its batch is
padded.
"""

from __future__ import annotations

from torch import nn

from spkadapt.backbone.dnn import DnnConfig, FrameDnn
from spkadapt.backbone.ecapa import Ecapa, EcapaConfig
from spkadapt.backbone.residual_tdnn import ResidualTdnn, ResidualTdnnConfig
from spkadapt.backbone.resnet import Resnet, ResnetConfig
from spkadapt.backbone.tdnn import Tdnn, TdnnConfig

BackboneConfig = DnnConfig | TdnnConfig | ResidualTdnnConfig | EcapaConfig | ResnetConfig

BACKBONES: dict[str, tuple[type[nn.Module], type[BackboneConfig]]] = {
    "dnn": (FrameDnn, DnnConfig),
    "tdnn": (Tdnn, TdnnConfig),
    "residual_tdnn": (ResidualTdnn, ResidualTdnnConfig),
    "ecapa": (Ecapa, EcapaConfig),
    "resnet": (Resnet, ResnetConfig),
}

__all__ = [
    "BACKBONES",
    "BackboneConfig",
    "DnnConfig",
    "Ecapa",
    "EcapaConfig",
    "FrameDnn",
    "ResidualTdnn",
    "ResidualTdnnConfig",
    "Resnet",
    "ResnetConfig",
    "Tdnn",
    "TdnnConfig",
]
