"""Joint training of a deep Boltzmann machine (Salakhutdinov & Hinton 2009, §2.2).

    ∂ log p(v)/∂W_k = E[x_k x_{k−1}ᵀ | v] − E_model[x_k x_{k−1}ᵀ]

The first expectation is that of the mean-field posterior, which makes it the gradient of the bound; the second is
that of Gibbs chains that go on from update to update, under a rate that falls towards 0 (Younes 1999; Tieleman
2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import DivergenceError
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.dbm_net import DbmStatistics, DeepBoltzmannMachine, statistics
from spkadapt.pretrain.interface import (
    FrameSource,
    OnEpoch,
    PretrainConfig,
    PretrainProgress,
    as_frame_source,
    draw_seed,
    run_epochs,
)
from spkadapt.pretrain.rbm_training import LARGEST_WEIGHT
from spkadapt.pretrain.units import sample_bernoulli


@dataclass(frozen=True)
class DbmTrainingConfig(PretrainConfig):
    """How the layers of a deep Boltzmann machine are trained together.

    A parameter θ with gradient g moves by learning_rate · g; the rate falls evenly from epoch to epoch, to
    learning_rate/num_epochs in the last one.

    Attributes:
        learning_rate: in the first epoch. 0.005 in Salakhutdinov & Hinton (2009), for Bernoulli visible units; the
            default is that of Gaussian units in greedy training (`StackConfig`).
        num_epochs: passes over the frames.
        batch_size: frames per update.
        weight_decay: L2 penalty's coefficient, on weights and not on biases (Hinton 2010, §10).
        num_mean_field_updates: at most so many passes over all layers in the positive phase.
        num_gibbs_steps: per update, of every chain; 5 in Salakhutdinov & Hinton (2009).
        num_chains: persistent chains; 100 in Salakhutdinov & Hinton (2009).

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.002
    weight_decay: float = 2e-4
    num_mean_field_updates: int = 10
    num_gibbs_steps: int = 5
    num_chains: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("weight_decay", 0 <= self.weight_decay < float("inf"), "a number of at least 0")
        for field in ("num_mean_field_updates", "num_gibbs_steps", "num_chains"):
            self.require(field, getattr(self, field) >= 1, "a whole number of at least 1")

    def scheduled_learning_rate(self, epoch: int) -> float:
        """The learning rate in `epoch`, counted from 1."""
        return self.learning_rate * (1 - (epoch - 1) / self.num_epochs)


def contrast(positive: DbmStatistics, negative: DbmStatistics) -> DbmStatistics:
    """The likelihood's gradient from the statistics of data and model."""
    return DbmStatistics(
        *(
            [data - model for data, model in zip(*pair, strict=True)]
            for pair in zip(positive, negative, strict=True)
        )
    )


class DbmChains:
    """Persistent Gibbs chains over all layers.

    Args:
        dbm: the machine, which may change from call to call.
        layers: where the chains start, (num_chains, dims[k]) each, v first.
    """

    def __init__(self, dbm: DeepBoltzmannMachine, layers: Sequence[Tensor]) -> None:
        self.dbm, self.layers = dbm, list(layers)

    @classmethod
    def from_frames(
        cls, dbm: DeepBoltzmannMachine, v: Tensor, num_chains: int, generator: torch.Generator
    ) -> DbmChains:
        """Chains that start at frames, repeated as need be, and samples of the pass up from them."""
        v = v[torch.arange(num_chains, device=v.device) % len(v)]
        return cls(dbm, [v, *(sample_bernoulli(mean, generator) for mean in dbm.bottom_up(v))])

    def statistics(self, num_steps: int, generator: torch.Generator) -> DbmStatistics:
        """Of the chains, after `num_steps` Gibbs steps, the odd layers averaged over given the even ones."""
        means = self.layers
        for _ in range(num_steps):
            self.layers, means = self.dbm.gibbs(self.layers, generator)
        return statistics(means)


def train_dbm(
    dbm: DeepBoltzmannMachine,
    frames: Tensor | FrameSource,
    config: DbmTrainingConfig,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[PretrainProgress]:
    """Train `dbm` on from its present weights; its progress names no layer.

    Args:
        dbm: on the frames' device and in their precision.
        frames: (n, dims[0]); in [0, 1] for Bernoulli visible units, standardised for Gaussian ones.
        config: how to train.
        seed: of the order of the frames and of the sampling.
        on_epoch: called after each epoch.
        checkpoint: this training is its next phase.

    Raises:
        InputError: frames that are not finite.
        DivergenceError: the training diverged.
    """
    order = torch.Generator().manual_seed(seed)
    trainer = _Trainer(dbm, config, torch.Generator(dbm.biases[0].device).manual_seed(draw_seed(order)))
    return run_epochs(
        as_frame_source(frames),
        trainer.step,
        config,
        order,
        layer=None,
        on_epoch=on_epoch,
        state={"dbm": dbm, "trainer": trainer, "noise": trainer.noise},
        checkpoint=checkpoint,
    )


class _Trainer:
    def __init__(self, dbm: DeepBoltzmannMachine, config: DbmTrainingConfig, noise: torch.Generator) -> None:
        self.dbm, self.config, self.noise = dbm, config, noise
        self.chains: DbmChains | None = None

    @torch.no_grad()
    def step(self, v: Tensor, epoch: int) -> dict[str, Tensor]:
        """One update; the loss before it: the squared error of E[v | μ₁]."""
        dbm, config, rate = self.dbm, self.config, self.config.scheduled_learning_rate(epoch)
        if self.chains is None:
            self.chains = DbmChains.from_frames(dbm, v, config.num_chains, self.noise)
        means = dbm.mean_field(v, num_updates=config.num_mean_field_updates)
        negative = self.chains.statistics(config.num_gibbs_steps, self.noise)
        gradients = contrast(statistics([v, *means]), negative)
        error = F.mse_loss(dbm.visible_mean(means[0]), v)
        for weight, gradient in zip(dbm.weights, gradients.weights, strict=True):
            weight.add_(gradient - config.weight_decay * weight, alpha=rate)
        for bias, gradient in zip(dbm.biases, gradients.biases, strict=True):
            bias.add_(gradient, alpha=rate)
        self._check_weights(epoch)
        return {"reconstruction_error": error}

    def _check_weights(self, epoch: int) -> None:
        """Bernoulli units hide divergence, as in an RBM."""
        for layer, weight in enumerate(self.dbm.weights, start=1):
            largest = weight.abs().max().item()
            if not largest <= LARGEST_WEIGHT:  # also where it is NaN
                raise DivergenceError(
                    f"pretraining diverged at all layers, epoch {epoch}: a weight of layer {layer} has "
                    f"reached {largest:.3g}, where its units no longer change; use a learning rate below "
                    f"{self.config.learning_rate:g}, and standardise the frames"
                )

    def state_dict(self) -> dict[str, Any]:
        """The persistent chains."""
        return {"chains": None if self.chains is None else self.chains.layers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such chains."""
        layers = state_dict["chains"]
        self.chains = None
        if layers is not None:
            self.chains = DbmChains(self.dbm, [layer.to(self.dbm.biases[0]) for layer in layers])
