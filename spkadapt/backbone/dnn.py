"""The frame network of the DBN-DNN line: spliced frames → hidden layers → pooling → embedding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spkadapt.backbone.pooling import statistics_pooling
from spkadapt.errors import InputError, suggest
from spkadapt.frames import splice_frames

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu}


@dataclass(frozen=True)
class DnnConfig:
    """The shape of a `FrameDnn`.

    Attributes:
        left_context, right_context: frames spliced to each frame's left and right (Hinton et al., 2012, use 5).
        hidden_dims: width of each hidden layer, bottom first.
        activation: `sigmoid` or `relu`.
        embedding_dim: size of the embedding.
        frame_subsampling: keep every so-manieth frame after splicing; neighbours share most of their context.
    """

    left_context: int = 5
    right_context: int = 5
    hidden_dims: tuple[int, ...] = (512, 512, 512)
    activation: str = "sigmoid"
    embedding_dim: int = 192
    frame_subsampling: int = 3

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(f'unknown activation "{self.activation}"; {suggest(self.activation, ACTIVATIONS)}')
        if min(self.left_context, self.right_context) < 0 or self.frame_subsampling < 1:
            raise InputError("contexts must be ≥ 0 and frame_subsampling ≥ 1")
        if not self.hidden_dims or min(*self.hidden_dims, self.embedding_dim) < 1:
            raise InputError("hidden_dims needs at least one layer, and every size must be ≥ 1")


class FrameDnn(nn.Module):
    """A sigmoid or ReLU network on spliced frames, pooled into an utterance embedding.

    Shape: features `(batch, frames, num_features)`, lengths `(batch,)` → embeddings `(batch, embedding_dim)`.

    The hidden layers may come from pretraining (`load_hidden_layers`), and may stay as they are
    (`freeze_hidden_layers`). The pooled statistics are batch-normalised: those of sigmoid units differ so
    little between utterances that the embedding layer would hardly learn from them as they are.
    """

    ignores_padding = True

    def __init__(self, num_features: int, config: DnnConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding_dim = config.embedding_dim
        spliced = num_features * (config.left_context + 1 + config.right_context)
        dims = [spliced, *config.hidden_dims]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(dims))
        self.frame_dim = dims[-1]
        self.pooled_norm = nn.BatchNorm1d(2 * dims[-1])
        self.embedding = nn.Linear(2 * dims[-1], config.embedding_dim)

    def load_hidden_layers(self, layers: Sequence[nn.Linear]) -> None:
        """Start from pretrained layers, bottom first.

        Raises:
            InputError: the number or the shapes of the layers differ from the network's.
        """
        ours = [tuple(value.shape) for name, value in self.hidden.named_parameters() if name.endswith("weight")]
        theirs = [tuple(layer.weight.shape) for layer in layers]
        if ours != theirs:
            raise InputError(f"the pretrained layers have shapes {theirs}; the network needs {ours}")
        for layer, pretrained in zip(self.hidden, layers, strict=True):
            layer.load_state_dict(pretrained.state_dict())

    def freeze_hidden_layers(self) -> None:
        """Keep the hidden layers as they are from now on."""
        self.hidden.requires_grad_(False)

    def encode_frames(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden layer's output, `(batch, frames, frame_dim)`, and how many of its frames are real."""
        step = self.config.frame_subsampling
        frames = splice_frames(features, lengths, self.config.left_context, self.config.right_context, step)
        activation = ACTIVATIONS[self.config.activation]
        for layer in self.hidden:
            frames = activation(layer(frames))
        return frames, torch.div(lengths + step - 1, step, rounding_mode="floor")

    def pool_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Frames to embeddings."""
        return self.embedding(self.pooled_norm(statistics_pooling(frames, lengths)))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed each utterance of the batch."""
        return self.pool_frames(*self.encode_frames(features, lengths))
