"""Deep belief networks: a greedy stack of restricted Boltzmann machines, then perhaps trained as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spkadapt.pretrain.dbn_net import DeepBeliefNet
from spkadapt.pretrain.dbn_up_down import UpDownConfig, train_up_down
from spkadapt.pretrain.interface import (
    FrameSource,
    OnEpoch,
    Pretrainer,
    as_frame_source,
    draw_seed,
)
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.stack import StackConfig, check_bernoulli, train_greedily

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class DbnConfig(StackConfig):
    """How the stack is trained greedily (`StackConfig`), and what follows.

    Attributes:
        up_down: how the up-down algorithm goes on from the greedy stack; None for greedy training alone.

    Raises:
        InputError: a value out of its range.
    """

    up_down: UpDownConfig | None = None


class Dbn(Pretrainer):
    """A deep belief network, trained greedily from the bottom up (Hinton, Osindero & Teh 2006).

    The bottom RBM has Gaussian visible units unless said otherwise; those above have Bernoulli ones. Layer
    k + 1 trains on samples of the layers below, h₁ ~ q(h₁ | v), …, h_k ~ q(h_k | h_{k−1}), drawn afresh for every
    mini-batch: it is of these that the paper's bound on log p(v) speaks. `transform` passes the probabilities
    up instead, as the frame network will. Up-down training then unties recognition from generation.

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid", which is what Bernoulli hidden units have.
        config: how to train.

    Attributes:
        rbms: the greedy stack, bottom first; empty before `fit`.
        net: the generative model and its recognition network; None before `fit`.
        history: one `PretrainProgress` per epoch of each layer, then of up-down training.

    Raises:
        InputError: no layer, an empty layer, or another activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: DbnConfig) -> None:
        together = config.up_down.num_epochs if config.up_down else 0
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims) + together)
        check_bernoulli(activation, "dbn")
        self.config = config
        self.rbms: list[Rbm] = []
        self.net: DeepBeliefNet | None = None

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the stack afresh, bottom layer first, then all layers together; see `Pretrainer.fit`."""
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        self.rbms, self.net, self.history = [], None, []
        noise = torch.Generator(source.take(torch.tensor([0])).device).manual_seed(draw_seed(generator))
        shared = {"generator": generator, "noise": noise}
        saved = self._open_checkpoint(checkpoint, source, seed, self.config, shared)
        dims = [source.dim, *self.hidden_dims]
        kinds = [self.config.visible] + ["bernoulli"] * (len(dims) - 2)
        # Apart from the seeds of training: the first layers of a deep stack are then those of a shallow one.
        weights = torch.Generator().manual_seed(draw_seed(generator))
        rbms = [Rbm(*pair, kind, generator=weights) for pair, kind in zip(pairwise(dims), kinds, strict=True)]
        self.history = train_greedily(rbms, frames, self.config, generator, noise, on_epoch, saved)
        net = DeepBeliefNet(rbms)
        if self.config.up_down:
            seed = draw_seed(generator)
            self.history += train_up_down(
                net, frames, self.config.up_down, seed=seed, on_epoch=on_epoch, checkpoint=saved
            )
        self.rbms, self.net = rbms, net
        return self

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the recognition weights and hidden biases, bottom first; see `Pretrainer.hidden_layers`."""
        if self.net is None:
            raise self._unfitted()
        return self.net.hidden_layers()
