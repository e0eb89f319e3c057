"""The variational autoencoder (Kingma & Welling 2014) as a pretrainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.frames import FrameSource, as_frame_source, check_unit_interval
from spkadapt.pretrain.interface import (
    ACTIVATIONS,
    OnEpoch,
    PretrainConfig,
    Pretrainer,
    draw_seed,
    linear_from,
    run_epochs,
)
from spkadapt.pretrain.vae_estimators import (
    ESTIMATORS,
    expected_log_likelihood,
    importance_weighted_bound,
    weighted_bound,
)
from spkadapt.pretrain.vae_network import VariationalAutoencoder, check_decoder, divergence, draw_noise

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Vae", "VaeConfig", "VariationalAutoencoder"]


@dataclass(frozen=True)
class VaeConfig(PretrainConfig):
    """How a variational autoencoder is built and trained, with Adam (Kingma & Ba 2015).

    Attributes:
        learning_rate: Adam's; its paper's default.
        num_epochs: passes over the frames; all layers are trained together.
        batch_size: frames per update (Kingma & Welling 2014 take 100, and one noise sample a frame).
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        num_latent: dimensions of the latent variable.
        decoder: "gaussian", for standardised frames, or "bernoulli", for frames in [0, 1].
        decoder_variance: of a Gaussian decoder: "learned", one σ² shared by all dimensions (Rybkin et al. 2021),
            or "unit", σ² = 1.
        estimator: of the gradient: "reparameterised"; "score_function" or "score_function_baseline", to see what
            they cost. See `vae_estimators.expected_log_likelihood`.
        num_samples: of the latent variable for each frame (Kingma & Welling 2014: 1); a baseline takes 2 or more.
        beta: weight of the divergence; 1 is the bound (Higgins et al. 2017 take more, to disentangle).
        beta_warmup_epochs: epochs in which the weight rises to `beta` in a straight line from 0 in the first
            (Bowman et al. 2016; Sønderby et al. 2016); 0 for `beta` from the start.
        free_bits: nats of divergence that each latent dimension has for nothing (Kingma et al. 2016).
        free_bits_decay_epochs: epochs in which they fall to 0 in a straight line from `free_bits` in the first,
            so that training ends on the bound; 0 for `free_bits` throughout, as in the paper.

    Raises:
        InputError: a value out of its range, or a baseline with one sample.
    """

    num_latent: int = 32
    decoder: Literal["gaussian", "bernoulli"] = "gaussian"
    decoder_variance: str = "learned"
    estimator: Literal["reparameterised", "score_function", "score_function_baseline"] = "reparameterised"
    num_samples: int = 1
    beta: float = 1.0
    beta_warmup_epochs: int = 0
    free_bits: float = 0.0
    free_bits_decay_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("num_latent", self.num_latent >= 1, "a whole number of at least 1")
        check_decoder(self.decoder, self.decoder_variance, "VaeConfig.")
        if self.estimator not in ESTIMATORS:
            hint = suggest(self.estimator, ESTIMATORS)
            raise InputError(f'unknown VaeConfig.estimator "{self.estimator}"; {hint}')
        fewest = 2 if self.estimator == "score_function_baseline" else 1
        needed = f"a whole number of at least {fewest} with the {self.estimator} estimator"
        self.require("num_samples", self.num_samples >= fewest, needed)
        for field in ("beta", "free_bits"):
            self.require(field, 0 <= getattr(self, field) < math.inf, "a number of at least 0")
        for field in ("beta_warmup_epochs", "free_bits_decay_epochs"):
            self.require(field, getattr(self, field) >= 0, "a whole number of at least 0")

    def scheduled_beta(self, epoch: int) -> float:
        """The divergence's weight in `epoch`, counted from 1."""
        return self.beta * _ramp(epoch, self.beta_warmup_epochs)

    def scheduled_free_bits(self, epoch: int) -> float:
        """The nats that are free in `epoch`, counted from 1."""
        if self.free_bits_decay_epochs == 0:
            return self.free_bits
        return self.free_bits * (1 - _ramp(epoch, self.free_bits_decay_epochs))


def _ramp(epoch: int, num_epochs: int) -> float:
    """0 in the first epoch, 1 once `num_epochs` have passed, and a straight line between."""
    return 1.0 if num_epochs == 0 else min(1.0, (epoch - 1) / num_epochs)


class Vae(Pretrainer):
    """A variational autoencoder whose encoder's hidden layers become those of the frame network.

    All layers are trained together, by stochastic gradient ascent on the variational bound (Kingma & Welling
    2014). The latent variable sits above the hidden layers and is not handed on.

    Args:
        hidden_dims: units of each hidden layer of the encoder, bottom first; the decoder mirrors them.
        activation: "sigmoid" or "relu".
        config: how to build and train.

    Attributes:
        network: the `VariationalAutoencoder`; None before `fit`.
        history: one `PretrainProgress` per epoch, with layer None. Whatever β and the free bits are, it holds the
            bound itself.

    Raises:
        InputError: no layer, an empty layer, or an unknown activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: VaeConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs)
        self.config = config
        self.network: VariationalAutoencoder | None = None

    def fit(
        self,
        frames: Tensor | FrameSource,
        *,
        seed: int,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the network afresh; see `Pretrainer.fit`.

        With a Bernoulli decoder, frames outside [0, 1] are an `InputError`.
        """
        source = as_frame_source(frames)
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        network = VariationalAutoencoder(
            source.dim,
            self.hidden_dims,
            config.num_latent,
            ACTIVATIONS[self.activation],
            config.decoder_variance,
            config.decoder,
            generator=generator,
        ).to(source.take(torch.tensor([0])))
        noise = torch.Generator(network.mean.weight.device).manual_seed(draw_seed(generator))
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            if config.decoder == "bernoulli":
                check_unit_interval(batch, "a Bernoulli decoder")
            optimizer.zero_grad()
            objective, bound = _objective_and_bound(network, batch, config, epoch, noise)
            (-objective / source.dim).backward()
            optimizer.step()
            return {"negative_elbo": -bound / source.dim}

        self.network = network
        self.history = run_epochs(
            source,
            step,
            config,
            generator,
            layer=None,
            on_epoch=on_epoch,
            state={"network": network, "optimizer": optimizer, "noise": noise},
            checkpoint=self._open_checkpoint(checkpoint, source, seed, config, {}),
        )
        return self

    def elbo(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """A one-sample estimate of the bound on log p(x) in nats, shape (n,), of `frames (n, dim)`.

        Raises:
            InputError: called before `fit`.
        """
        return self._fitted().elbo(frames, generator)

    def importance_weighted_bound(self, frames: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        """A tighter bound on log p(x) in nats, (n,), of `frames (n, dim)`; see `vae_estimators`.

        Raises:
            InputError: called before `fit`, or no sample.
        """
        return importance_weighted_bound(self._fitted(), frames, num_samples, generator)

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the encoder's hidden layers, bottom first; see `Pretrainer.hidden_layers`."""
        encoder = self._fitted().encoder
        return [linear_from(layer.weight, layer.bias) for layer in encoder if isinstance(layer, nn.Linear)]

    def _fitted(self) -> VariationalAutoencoder:
        if self.network is None:
            raise self._unfitted()
        return self.network


def _objective_and_bound(
    network: VariationalAutoencoder, batch: Tensor, config: VaeConfig, epoch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What training ascends, and an estimate of the bound, both means over the batch in nats."""
    mean, log_variance = network.encode(batch)
    noise = draw_noise(mean, generator, config.num_samples)
    expected = expected_log_likelihood(network, batch, mean, log_variance, noise, config.estimator)
    divergences = divergence(mean, log_variance)
    beta, free_bits = config.scheduled_beta(epoch), config.scheduled_free_bits(epoch)
    bound = (expected - divergences.sum(dim=1)).detach().mean()
    return weighted_bound(expected, divergences, beta, free_bits), bound
