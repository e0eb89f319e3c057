"""Greedy layer-wise training of a stack of restricted Boltzmann machines (Hinton, Osindero & Teh 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.interface import (
    EncodedFrames,
    FrameSource,
    OnEpoch,
    PretrainProgress,
    as_frame_source,
    draw_seed,
)
from spkadapt.pretrain.rbm import Rbm, RbmConfig
from spkadapt.pretrain.units import sample_bernoulli

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class StackConfig(RbmConfig):
    """How each RBM of a stack is trained: `RbmConfig`, and a rate of its own for a Gaussian bottom.

    Attributes:
        learning_rate: of the Bernoulli-Bernoulli layers; default of Hinton & Salakhutdinov (2006).
        gaussian_learning_rate: of a Gaussian-Bernoulli bottom layer, one or two orders of magnitude below
            the other (Hinton 2010, §13.2).
        num_epochs: passes over the frames for each layer.
        visible: units of the bottom: "gaussian" for standardised frames, "bernoulli" for frames in [0, 1], which
            `learning_rate` then suits.

    All else is as in `RbmConfig`, for every layer.

    Raises:
        InputError: a value out of its range.
    """

    gaussian_learning_rate: float = 0.002
    visible: Literal["gaussian", "bernoulli"] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("gaussian_learning_rate", 0 < self.gaussian_learning_rate < float("inf"), "a number above 0")
        self.require("visible", self.visible in ("gaussian", "bernoulli"), '"gaussian" or "bernoulli"')

    def of_layer(self, layer: int) -> Self:
        """How the RBM of `layer`, 1 for the bottom, is trained."""
        gaussian = layer == 1 and self.visible == "gaussian"
        return replace(self, learning_rate=self.gaussian_learning_rate) if gaussian else self


def check_bernoulli(activation: str, method: str) -> None:
    """Raise `InputError` unless the units of a network that is made of RBMs are sigmoids."""
    if activation != "sigmoid":
        raise InputError(
            f'a {method} has Bernoulli hidden units and so activation "sigmoid"; found "{activation}" '
            '(choose "dae" or "vae" to pretrain such a network)'
        )


def train_greedily(
    rbms: Sequence[Rbm],
    frames: Tensor | FrameSource,
    config: StackConfig,
    generator: torch.Generator,
    noise: torch.Generator,
    on_epoch: OnEpoch | None,
    checkpoint: Checkpoint | None,
) -> list[PretrainProgress]:
    """Train each RBM of a stack on samples of the hidden units of the one below, drawn afresh at every visit.

    Args:
        rbms: bottom first.
        frames: (n, dim), for the bottom.
        config: how to train.
        generator: seeds the training of each.
        noise: draws the samples; on the frames' device.
        on_epoch: called after each epoch.
        checkpoint: each RBM is a phase of it.
    """
    history = []
    for layer, rbm in enumerate(rbms, start=1):
        rbm.fit(
            frames,
            config.of_layer(layer),
            seed=draw_seed(generator),
            layer=layer,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        history += rbm.history
        frames = _sampled_above(rbm, as_frame_source(frames), noise)
    return history


def _sampled_above(rbm: Rbm, source: FrameSource, noise: torch.Generator) -> EncodedFrames:
    """What the next layer trains on: `source` through a sample of `rbm`'s hidden units."""
    return EncodedFrames(
        source, len(rbm.hidden_bias), lambda v: sample_bernoulli(rbm.hidden_probabilities(v), noise)
    )
