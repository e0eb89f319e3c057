"""Layer-wise unsupervised pretraining of frame networks.

    frames (n, dim) → Dbn | Dbm | StackedAutoencoder | StackedSparseCoding | DeconvNetwork | Vae
                   → hidden layers (weights and biases, bottom first)

Torch only, and knows nothing of audio. `interface` holds what the methods share; each method is in the file
that bears its name; `PRETRAINERS` maps a recipe's name to a class, `PRETRAINER_CONFIGS` to its configuration.
"""

from __future__ import annotations

from collections.abc import Callable

from spkadapt.pretrain.autoencoder import DaeConfig, DenoisingAutoencoder, StackedAutoencoder
from spkadapt.pretrain.dbm import Dbm, DbmConfig
from spkadapt.pretrain.dbn import Dbn, DbnConfig
from spkadapt.pretrain.deconv import ConvolutionalSparseCoding, DeconvConfig, DeconvNetwork
from spkadapt.pretrain.disk_frames import DiskFrames
from spkadapt.pretrain.frames import FrameSource, TensorFrames
from spkadapt.pretrain.interface import (
    PretrainConfig,
    Pretrainer,
    PretrainProgress,
)
from spkadapt.pretrain.rbm import Rbm, RbmConfig
from spkadapt.pretrain.sparse import SparseCoding, SparseConfig, StackedSparseCoding
from spkadapt.pretrain.strategies import (
    STRATEGIES,
    ClassifierConfig,
    FrameClassifier,
    train_classifier,
    train_greedy_layers,
)
from spkadapt.pretrain.vae import Vae, VaeConfig, VariationalAutoencoder

PRETRAINERS: dict[str, Callable[..., Pretrainer]] = {
    "dae": StackedAutoencoder,
    "dbm": Dbm,
    "dbn": Dbn,
    "sparse": StackedSparseCoding,
    "vae": Vae,
}
PRETRAINER_CONFIGS: dict[str, type[PretrainConfig]] = {
    "dae": DaeConfig,
    "dbm": DbmConfig,
    "dbn": DbnConfig,
    "sparse": SparseConfig,
    "vae": VaeConfig,
}

__all__ = [
    "PRETRAINERS",
    "PRETRAINER_CONFIGS",
    "STRATEGIES",
    "ClassifierConfig",
    "ConvolutionalSparseCoding",
    "DaeConfig",
    "Dbm",
    "DbmConfig",
    "Dbn",
    "DbnConfig",
    "DeconvConfig",
    "DeconvNetwork",
    "DenoisingAutoencoder",
    "DiskFrames",
    "FrameClassifier",
    "FrameSource",
    "PretrainConfig",
    "PretrainProgress",
    "Pretrainer",
    "Rbm",
    "RbmConfig",
    "SparseCoding",
    "SparseConfig",
    "StackedAutoencoder",
    "StackedSparseCoding",
    "TensorFrames",
    "Vae",
    "VaeConfig",
    "VariationalAutoencoder",
    "train_classifier",
    "train_greedy_layers",
]
