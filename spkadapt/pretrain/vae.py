"""The variational autoencoder (Kingma & Welling 2014) over real-valued frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.interface import (
    ACTIVATIONS,
    FrameSource,
    OnEpoch,
    PretrainConfig,
    Pretrainer,
    as_frame_source,
    draw_seed,
    linear_from,
    run_epochs,
    xavier_linear,
)

if TYPE_CHECKING:
    from typing_extensions import Self

DECODER_VARIANCES = ("learned", "unit")


@dataclass(frozen=True)
class VaeConfig(PretrainConfig):
    """How a variational autoencoder is built and trained, with Adam (Kingma & Ba 2015).

    Attributes:
        learning_rate: Adam's; its paper's default.
        num_epochs: passes over the frames; all layers are trained together.
        batch_size: frames per update (Kingma & Welling 2014 take 100, and one noise sample a frame).
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        num_latent: dimensions of the latent variable.
        decoder_variance: "learned", one σ² shared by all dimensions (Rybkin et al. 2021), or "unit", σ² = 1.

    Raises:
        InputError: a value out of its range.
    """

    num_latent: int = 32
    decoder_variance: str = "learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("num_latent", self.num_latent >= 1, "a whole number of at least 1")
        if self.decoder_variance not in DECODER_VARIANCES:
            hint = suggest(self.decoder_variance, DECODER_VARIANCES)
            raise InputError(f'unknown VaeConfig.decoder_variance "{self.decoder_variance}"; {hint}')


class VariationalAutoencoder(nn.Module):
    """z ~ N(0, I), x | z ~ N(μ(z), σ²I), and the encoder q(z | x) = N(m(x), diag s²(x)).

    Args:
        num_visible: dimensions of x.
        hidden_dims: hidden layers of the encoder, bottom first; the decoder mirrors them. May be empty, which
            makes both linear and the model that of probabilistic PCA.
        num_latent: dimensions of z.
        activation: of the hidden layers.
        decoder_variance: "learned" (one σ²) or "unit".
        generator: draws the weights (Glorot & Bengio 2010); those of `log_variance` start at zero.

    Attributes:
        encoder: the hidden linear layers, bottom first.
        mean: m, a linear layer on the last hidden one.
        log_variance: log s², likewise.
        decoder: linear layers from z to μ.
        decoder_log_variance: log σ², a scalar.
    """

    def __init__(
        self,
        num_visible: int,
        hidden_dims: Sequence[int],
        num_latent: int,
        activation: Callable[[Tensor], Tensor],
        decoder_variance: str,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        dims = (num_visible, *hidden_dims)
        mirrored = (num_latent, *reversed(dims))
        self.activation = activation
        self.encoder = nn.ModuleList(xavier_linear(a, b, generator) for a, b in pairwise(dims))
        self.mean = xavier_linear(dims[-1], num_latent, generator)
        # q starts with unit variance everywhere: random weights would start far out in exp and not come back.
        self.log_variance = linear_from(torch.zeros(num_latent, dims[-1]), torch.zeros(num_latent))
        self.decoder = nn.ModuleList(xavier_linear(a, b, generator) for a, b in pairwise(mirrored))
        self.decoder_log_variance = nn.Parameter(torch.zeros(()), requires_grad=decoder_variance == "learned")

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), each (n, num_latent), of `x (n, num_visible)`."""
        for linear in self.encoder:
            x = self.activation(linear(x))
        return self.mean(x), self.log_variance(x)

    def decode(self, z: Tensor) -> Tensor:
        """μ(z), (n, num_visible), of `z (n, num_latent)`."""
        for linear in self.decoder[:-1]:
            z = self.activation(linear(z))
        return self.decoder[-1](z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, shape (n,)."""
        squared = (x - self.decode(z)).square().sum(dim=1)
        log_variance = self.decoder_log_variance
        return -(squared * (-log_variance).exp() + x.shape[1] * (math.log(2 * math.pi) + log_variance)) / 2

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A one-sample estimate of the bound on log p(x) in nats, shape (n,), of `x (n, num_visible)`.

        log p(x | z) − KL(q(z | x) ‖ N(0, I)) with z = m + s ⊙ ε, ε ~ N(0, I) drawn for each frame on its own: the
        estimator SGVB-B with the closed-form divergence (Kingma & Welling 2014, eq. 7 and 10).
        """
        mean, log_variance = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        z = mean + (log_variance / 2).exp() * noise
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return self.log_likelihood(x, z) - divergence


class Vae(Pretrainer):
    """A variational autoencoder whose encoder's hidden layers become those of the frame network.

    All layers are trained together, by stochastic gradient ascent on the variational bound with reparameterised
    noise (Kingma & Welling 2014). The latent variable sits above the hidden layers and is not handed on.

    Args:
        hidden_dims: units of each hidden layer of the encoder, bottom first; the decoder mirrors them.
        activation: "sigmoid" or "relu".
        config: how to build and train.

    Attributes:
        network: the `VariationalAutoencoder`; None before `fit`.
        history: one `PretrainProgress` per epoch, with layer None.

    Raises:
        InputError: no layer, an empty layer, or an unknown activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: VaeConfig) -> None:
        super().__init__(hidden_dims, activation, config.num_epochs)
        self.config = config
        self.network: VariationalAutoencoder | None = None

    def fit(self, frames: Tensor | FrameSource, *, seed: int, on_epoch: OnEpoch | None = None) -> Self:
        """Train the network afresh; see `Pretrainer.fit`."""
        source = as_frame_source(frames)
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        network = VariationalAutoencoder(
            source.dim,
            self.hidden_dims,
            config.num_latent,
            ACTIVATIONS[self.activation],
            config.decoder_variance,
            generator=generator,
        ).to(source.take(torch.tensor([0])))
        noise = torch.Generator(network.mean.weight.device).manual_seed(draw_seed(generator))
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)

        def step(batch: Tensor, epoch: int) -> dict[str, Tensor]:
            optimizer.zero_grad()
            loss = -network.elbo(batch, noise).mean() / source.dim
            loss.backward()
            optimizer.step()
            return {"negative_elbo": loss.detach()}

        self.network = network
        self.history = run_epochs(source, step, config, generator, layer=None, on_epoch=on_epoch)
        return self

    def elbo(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """A one-sample estimate of the bound on log p(x) in nats, shape (n,), of `frames (n, dim)`.

        Raises:
            InputError: called before `fit`.
        """
        return self._fitted().elbo(frames, generator)

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the encoder's hidden layers, bottom first; see `Pretrainer.hidden_layers`."""
        encoder = self._fitted().encoder
        return [linear_from(layer.weight, layer.bias) for layer in encoder if isinstance(layer, nn.Linear)]

    def _fitted(self) -> VariationalAutoencoder:
        if self.network is None:
            raise self._unfitted()
        return self.network
