"""The networks of a variational autoencoder (Kingma & Welling 2014): encoder, decoder and densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.interface import linear_from, xavier_linear

DECODERS = ("gaussian", "bernoulli")
DECODER_VARIANCES = ("learned", "unit")


class VariationalAutoencoder(nn.Module):
    """z ~ N(0, I), x | z ~ N(μ(z), σ²I) or Bernoulli(σ(μ(z))), and the encoder q(z | x) = N(m(x), diag s²(x)).

    Args:
        num_visible: dimensions of x.
        hidden_dims: hidden layers of the encoder, bottom first; the decoder mirrors them. May be empty, which
            makes both linear and the Gaussian model that of probabilistic PCA.
        num_latent: dimensions of z.
        activation: of the hidden layers.
        decoder_variance: of a Gaussian decoder, "learned" (one σ²) or "unit".
        decoder: "gaussian", or "bernoulli" for x in [0, 1].
        generator: draws the weights (Glorot & Bengio 2010); those of `log_variance` start at zero.

    Attributes:
        encoder: the hidden linear layers, bottom first.
        mean: m, a linear layer on the last hidden one.
        log_variance: log s², likewise.
        decoder: linear layers from z to μ.
        decoder_log_variance: log σ², a scalar; None if the decoder is Bernoulli.

    Raises:
        InputError: an unknown decoder or variance.
    """

    def __init__(
        self,
        num_visible: int,
        hidden_dims: Sequence[int],
        num_latent: int,
        activation: Callable[[Tensor], Tensor],
        decoder_variance: str = "learned",
        decoder: str = "gaussian",
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_decoder(decoder, decoder_variance, "")
        dims = (num_visible, *hidden_dims)
        mirrored = (num_latent, *reversed(dims))
        self.activation = activation
        self.encoder = nn.ModuleList(xavier_linear(a, b, generator) for a, b in pairwise(dims))
        self.mean = xavier_linear(dims[-1], num_latent, generator)
        # q starts with unit variance everywhere: random weights would start far out in exp and not come back.
        self.log_variance = linear_from(torch.zeros(num_latent, dims[-1]), torch.zeros(num_latent))
        self.decoder = nn.ModuleList(xavier_linear(a, b, generator) for a, b in pairwise(mirrored))
        self.decoder_log_variance = (
            nn.Parameter(torch.zeros(()), requires_grad=decoder_variance == "learned")
            if decoder == "gaussian"
            else None
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), each (n, num_latent), of `x (n, num_visible)`."""
        for linear in self.encoder:
            x = self.activation(linear(x))
        return self.mean(x), self.log_variance(x)

    def decode(self, z: Tensor) -> Tensor:
        """μ(z), (..., num_visible), of `z (..., num_latent)`: a Gaussian's mean or Bernoulli logits."""
        for linear in self.decoder[:-1]:
            z = self.activation(linear(z))
        return self.decoder[-1](z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, shape (..., n), of `x (n, num_visible)` and `z (..., n, num_latent)`."""
        decoded, log_variance = self.decode(z), self.decoder_log_variance
        if log_variance is None:
            # log σ(a)ˣ(1 − σ(a))¹⁻ˣ = xa − softplus(a)
            return (x * decoded - F.softplus(decoded)).sum(dim=-1)
        squared = (x - decoded).square().sum(dim=-1)
        return -(squared * (-log_variance).exp() + x.shape[-1] * (math.log(2 * math.pi) + log_variance)) / 2

    def elbo(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A one-sample estimate of the bound on log p(x) in nats, shape (n,), of `x (n, num_visible)`.

        log p(x | z) − KL(q(z | x) ‖ N(0, I)) with z = m + s ⊙ ε, ε ~ N(0, I) drawn for each frame on its own: the
        estimator SGVB-B with the closed-form divergence (Kingma & Welling 2014, eq. 7 and 10).
        """
        mean, log_variance = self.encode(x)
        z = reparameterise(mean, log_variance, draw_noise(mean, generator))
        return self.log_likelihood(x, z) - divergence(mean, log_variance).sum(dim=1)


def draw_noise(like: Tensor, generator: torch.Generator, *leading: int) -> Tensor:
    """ε ~ N(0, I), (*leading, *like.shape), in the precision and on the device of `like`, as is `generator`."""
    shape = (*leading, *like.shape)
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = m + s ⊙ ε, in the shape of `noise (..., n, num_latent)`; `mean` and `log_variance` (n, num_latent)."""
    return mean + (log_variance / 2).exp() * noise


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, s²) ‖ N(0, 1)) = (m² + s² − 1 − log s²)/2 in nats, elementwise: of each latent dimension."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def check_decoder(decoder: str, decoder_variance: str, where: str) -> None:
    """Raise `InputError`, naming the field after `where`, unless both choices exist."""
    for field, value, choices in (
        ("decoder", decoder, DECODERS),
        ("decoder_variance", decoder_variance, DECODER_VARIANCES),
    ):
        if value not in choices:
            raise InputError(f'unknown {where}{field} "{value}"; {suggest(value, choices)}')
