"""Deep Boltzmann machines as pretraining: layer by layer, then all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.dbm_layers import build_copied_rbms, compose
from spkadapt.pretrain.dbm_net import DeepBoltzmannMachine
from spkadapt.pretrain.dbm_training import DbmTrainingConfig, train_dbm
from spkadapt.pretrain.interface import FrameSource, OnEpoch, Pretrainer, as_frame_source, draw_seed, linear_from
from spkadapt.pretrain.stack import StackConfig, check_bernoulli, train_greedily

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class DbmConfig(StackConfig):
    """How a deep Boltzmann machine's layers are initialised one by one (`StackConfig`), then trained together.

    Attributes:
        joint: how all layers are trained together.

    Raises:
        InputError: a value out of its range, or parallel tempering, which copied units do not have.
    """

    joint: DbmTrainingConfig = field(default_factory=DbmTrainingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        phases = ("contrastive", "persistent")
        self.require("negative_phase", self.negative_phase in phases, '"contrastive" or "persistent"')


class Dbm(Pretrainer):
    """A deep Boltzmann machine (Salakhutdinov & Hinton 2009).

    `hidden_layers` and `transform` are one pass up, in which an inner layer's weights count twice for want of the
    layer above. What §4 of the paper fine-tunes hears the layer above from the start: frames with the posterior of
    the second hidden layer beside them (`with_posterior`), and a network for such input whose first layers compute
    the machine's own mean-field update of it (`hidden_layers_with_posterior`).

    Args:
        hidden_dims: units of each hidden layer, bottom first.
        activation: "sigmoid", which is what Bernoulli hidden units have.
        config: how to train.

    Attributes:
        net: the machine; None before `fit`.
        history: one `PretrainProgress` per epoch of each layer, then of joint training.

    Raises:
        InputError: no layer, an empty layer, or another activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: DbmConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs * len(hidden_dims) + config.joint.num_epochs)
        check_bernoulli(activation, "dbm")
        self.config = config
        self.net: DeepBoltzmannMachine | None = None

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Initialise the layers afresh, bottom first, then train them together; see `Pretrainer.fit`."""
        source = as_frame_source(frames)
        generator = torch.Generator().manual_seed(seed)
        self.net, self.history = None, []
        noise = torch.Generator(source.take(torch.tensor([0])).device).manual_seed(draw_seed(generator))
        shared = {"generator": generator, "noise": noise}
        saved = self._open_checkpoint(checkpoint, source, seed, self.config, shared)
        rbms = build_copied_rbms([source.dim, *self.hidden_dims], self.config.visible, generator)
        history = train_greedily(rbms, frames, self.config, generator, noise, on_epoch, saved)
        net, seed = compose(rbms), draw_seed(generator)
        self.history = history + train_dbm(
            net, frames, self.config.joint, seed=seed, on_epoch=on_epoch, checkpoint=saved
        )
        self.net = net
        return self

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the layers of one pass up, bottom first; see `DeepBoltzmannMachine.hidden_layers`."""
        return self._fitted().hidden_layers()

    def posterior(self, frames: Tensor, *, num_updates: int = 10) -> list[Tensor]:
        """Means of the mean-field posterior of `frames (n, dim)`, (n, hidden_dims[k]) each, bottom first.

        Raises:
            InputError: called before `fit`, or frames of another dimension than those of `fit`.
        """
        net = self._fitted()
        if frames.ndim != 2 or frames.shape[1] != net.dims[0]:
            raise InputError(f"frames have shape {tuple(frames.shape)}; expected (n, {net.dims[0]}) as in fit")
        return net.mean_field(frames, num_updates=num_updates)

    def with_posterior(self, frames: Tensor, *, num_updates: int = 10) -> Tensor:
        """[v, μ₂], (n, dim + hidden_dims[1]), of `frames (n, dim)`: with the posterior's means of hidden layer 2.

        With one hidden layer, [v].

        Raises:
            InputError: as `posterior`.
        """
        return torch.cat([frames, *self.posterior(frames, num_updates=num_updates)[1:2]], dim=1)

    def hidden_layers_with_posterior(self) -> list[nn.Linear]:
        """The hidden layers of a network for `with_posterior`'s input, bottom first; copies.

        The first has the weights [W₁, W₂ᵀ]: h₁ = σ(a₁ + W₁v + W₂ᵀμ₂). Those above are as in `hidden_layers`: of a
        machine with two hidden layers, the network computes exactly one mean-field update of both.

        Raises:
            InputError: called before `fit`.
        """
        net = self._fitted()
        first = torch.cat([net.weights[0], *(weight.T for weight in list(net.weights)[1:2])], dim=1)
        return [linear_from(first.detach(), net.biases[1]), *net.hidden_layers()[1:]]

    def _fitted(self) -> DeepBoltzmannMachine:
        if self.net is None:
            raise self._unfitted()
        return self.net
