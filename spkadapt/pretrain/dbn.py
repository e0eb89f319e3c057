"""Deep belief networks: a greedy stack of restricted Boltzmann machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.interface import (
    EncodedFrames,
    FrameSource,
    OnEpoch,
    Pretrainer,
    as_frame_source,
    draw_seed,
)
from spkadapt.pretrain.rbm import Rbm, RbmConfig

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class DbnConfig(RbmConfig):
    """How each RBM of the stack is trained: `RbmConfig`, and a rate of its own for the bottom one.

    Attributes:
        learning_rate: of the Bernoulli-Bernoulli layers; default of Hinton & Salakhutdinov (2006).
        gaussian_learning_rate: of the Gaussian-Bernoulli bottom layer, one or two orders of magnitude below
            the other (Hinton 2010, §13.2).
        num_epochs: passes over the frames for each layer.

    All else is as in `RbmConfig`, for every layer.

    Raises:
        InputError: a value out of its range.
    """

    gaussian_learning_rate: float = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gaussian_learning_rate", 0 < self.gaussian_learning_rate < float("inf"), "a number above 0")


class Dbn(Pretrainer):
    """A deep belief network, trained greedily from the bottom up (Hinton, Osindero & Teh 2006).

    The bottom RBM has Gaussian visible units, for standardised frames; those above have Bernoulli ones. Layer
    k + 1 trains on samples of the layers below, h₁ ~ q(h₁ | v), …, h_k ~ q(h_k | h_{k−1}), drawn afresh for every
    mini-batch: it is of these that the paper's bound on log p(v) speaks. `transform` passes the probabilities
    up instead, as the frame network will.

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid", which is what Bernoulli hidden units have.
        config: how to train.

    Attributes:
        rbms: the stack, bottom first; empty before `fit`.
        history: one `PretrainProgress` per epoch of each layer.

    Raises:
        InputError: no layer, an empty layer, or another activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: DbnConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims))
        if activation != "sigmoid":
            raise InputError(
                f'a dbn has Bernoulli hidden units and so activation "sigmoid"; found "{activation}" '
                '(choose "dae" or "vae" to pretrain such a network)'
            )
        self.config = config
        self.rbms: list[Rbm] = []

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the stack afresh, bottom layer first; see `Pretrainer.fit`."""
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        self.rbms, self.history = [], []
        noise = torch.Generator(source.take(torch.tensor([0])).device).manual_seed(draw_seed(generator))
        shared = {"generator": generator, "noise": noise}
        saved = self._open_checkpoint(checkpoint, source, seed, self.config, shared)
        for layer, num_hidden in enumerate(self.hidden_dims, start=1):
            bottom = layer == 1
            rbm = Rbm(source.dim, num_hidden, "gaussian" if bottom else "bernoulli", generator=generator)
            learning_rate = self.config.gaussian_learning_rate if bottom else self.config.learning_rate
            config = replace(self.config, learning_rate=learning_rate)
            rbm.fit(source, config, seed=draw_seed(generator), layer=layer, on_epoch=on_epoch, checkpoint=saved)
            self.rbms.append(rbm)
            self.history += rbm.history
            source = _sampled_above(rbm, source, noise)
        return self

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the recognition weights and hidden biases, bottom first; see `Pretrainer.hidden_layers`."""
        if not self.rbms:
            raise self._unfitted()
        return [rbm.hidden_layer() for rbm in self.rbms]


def _sampled_above(rbm: Rbm, source: FrameSource, noise: torch.Generator) -> EncodedFrames:
    """What the next layer trains on: `source` through a sample of `rbm`'s hidden units."""
    return EncodedFrames(source, len(rbm.hidden_bias), lambda v: rbm.sample_hidden(v, noise))
