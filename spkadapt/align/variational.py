"""Variational domain-adversarial training: latents that tell no domain, are Gaussian, and keep what was put in.

Gaussian latents suit a PLDA backend, and a decoder keeps the adversary from wiping out what speakers differ in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.adversarial import DomainAdversarialLoss
from spkadapt.align.directions import check_batch, check_positive
from spkadapt.align.kernel_blocks import gaussian_mixture, kernel_sum
from spkadapt.align.mmd import BANDWIDTH_MULTIPLES, check_bandwidths
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError

LEAST_DEVIATION = 1e-4
"""The least standard deviation of a latent: its logarithm stays finite."""


def normal_kl(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) of each row, in nats (Kingma & Welling 2014, appendix B).

        KL = ½ Σ over dimensions of μ² + σ² − 1 − log σ²

    Shape:
        mean, deviation: μ, σ > 0, `(batch, dim)`
        returns `(batch,)`
    """
    return (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum(dim=1) / 2


def normal_mmd_loss(latents: Tensor, bandwidths: Sequence[float] | None = None) -> Tensor:
    """Squared maximum mean discrepancy between rows and the standard normal distribution itself.

        MMD² = mean k(z, z') − 2 mean (γ / (γ + 2))^(d/2) exp(−‖z‖² / (γ + 2)) + (γ / (γ + 4))^(d/2)

    averaged over γ, with k(x, y) = exp(−‖x − y‖² / γ) as in `mmd_loss`: the expectations over the normal are taken
    in closed form, where InfoVAE (Zhao et al. 2019) draws rows of it. The first mean is over all pairs, a row's
    with itself included, so that the loss is never negative but for rounding. There is no second derivative.

    Args:
        latents: z, `(batch, dim)`.
        bandwidths: the γ. None takes `mmd.BANDWIDTH_MULTIPLES` of 2 dim, the mean ‖x − y‖² of the normal.

    Raises:
        InputError: `latents` is not `(batch, dim)` or is empty, or a bandwidth is not positive.
        RuntimeError: on the way back under `create_graph`.
    """
    latents = check_batch(latents, "latents")
    check_bandwidths(bandwidths)
    num_rows, dim = latents.shape
    with torch.autocast(latents.device.type, enabled=False):
        gammas = latents.new_tensor(
            [multiple * 2 * dim for multiple in BANDWIDTH_MULTIPLES] if bandwidths is None else bandwidths
        )
        own = kernel_sum(
            "normal_mmd_loss", [latents], [gaussian_mixture(gammas)], num_rows, lambda *_: 1 / num_rows**2
        )
        norms = latents.square().sum(dim=1, keepdim=True)
        across = torch.exp(-norms / (gammas + 2) - dim / 2 * torch.log1p(2 / gammas)).mean(dtype=torch.float64)
        prior = torch.exp(-dim / 2 * torch.log1p(4 / gammas.double())).mean()
        return (own - 2 * across + prior).to(latents.dtype)


def two_layers(dim: int, hidden_dim: int, num_outputs: int) -> nn.Sequential:
    """A network of one hidden layer of rectified linear units."""
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_outputs))


class GaussianEncoder(nn.Module):
    """Rows `(batch, dim)` → mean and standard deviation `(batch, latent_dim)` of a diagonal Gaussian."""

    def __init__(self, dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = two_layers(dim, hidden_dim, 2 * latent_dim)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, dim)` → two of `(batch, latent_dim)`."""
        mean, raw = self.layers(rows).chunk(2, dim=1)
        return mean, F.softplus(raw) + LEAST_DEVIATION

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `(batch, latent_dim)`, drawn in training, else the means; and their `normal_kl` `(batch,)`."""
        mean, deviation = self(rows)
        latents = mean
        if self.training:
            latents = mean + deviation * torch.randn(mean.shape).to(mean)
        return latents, normal_kl(mean, deviation)


def balanced_mean(values: Tensor, num_source: int) -> Tensor:
    """The mean of both domains' means of one value a row, `(num_source + num_target,)` → scalar."""
    return (values[:num_source].mean() + values[num_source:].mean()) / 2


class VdannLoss(nn.Module):
    """Domain-adversarial loss on the latents of a variational autoencoder (VDANN, Tu, Mak & Chien 2019).

        L = L_domain(z) + elbo_weight / dim · mean of [‖x − decoder(z)‖² / (2 noise²) + KL(q(z | x) ‖ N(0, I))]

    with z drawn from the encoder's Gaussian q(z | x) (its mean outside training) and L_domain DANN's loss with its
    gradient reversal. Each domain weighs half. The paper's third part, a speaker loss on the latents, is the
    caller's (`encode`). The embeddings that the decoder is to give are constants to the gradient, as the paper's
    x-vectors are: else shrinking them would do. Draws are torch's default generator's, on the CPU. Computed in the
    networks' own precision whatever the input and autocast.

    Args:
        dim: dimension of the embeddings.
        latent_dim: dimension of the latents.
        hidden_dim: hidden units of encoder, decoder and domain classifier.
        scale: strength of the reversed gradient that the encoder receives, relative to the classifier's own.
        elbo_weight: of the autoencoder; nats a dimension of the embeddings are what it multiplies.
        noise: standard deviation of an embedding's dimension given the latents, in the embeddings' unit.

    Raises:
        InputError: a dimension is less than one, `scale` is negative, or `elbo_weight` or `noise` is not positive.
    """

    def __init__(
        self,
        dim: int,
        latent_dim: int = 128,
        hidden_dim: int = 256,
        scale: float = 1.0,
        elbo_weight: float = 1.0,
        noise: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(elbo_weight, "elbo_weight")
        check_positive(noise, "noise")
        check_sizes("variational domain adversary", dim=dim, latent_dim=latent_dim, hidden_dim=hidden_dim)
        self.dim = dim
        self.elbo_weight = elbo_weight
        self.noise = noise
        self.encoder = GaussianEncoder(dim, hidden_dim, latent_dim)
        self.decoder = two_layers(latent_dim, hidden_dim, dim)
        self.adversary = DomainAdversarialLoss(latent_dim, hidden_dim, scale)

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss.

        Raises:
            InputError: a batch is not `(batch, dim)` or is empty, or its `dim` is not the encoder's.
        """
        source, target_domain = check_pair(source, target_domain)
        num_source = len(source)
        with torch.autocast(source.device.type, enabled=False):
            rows = self._check(torch.cat([source, target_domain]))
            latents, divergences = self.encoder.draw(rows)
            errors = (rows.detach() - self.decoder(latents)).square().sum(dim=1) / (2 * self.noise**2)
            regulariser = self._regulariser(latents, divergences, num_source)
            elbo = balanced_mean(errors, num_source) + regulariser
            domain = self.adversary(latents[:num_source], latents[num_source:])
            return domain + self.elbo_weight / self.dim * elbo

    def encode(self, embeddings: Tensor) -> Tensor:
        """Means of the latents `(batch, latent_dim)` of `(batch, dim)`: for a speaker loss and a backend."""
        embeddings = check_batch(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.encoder(self._check(embeddings))[0]

    def _regulariser(self, latents: Tensor, divergences: Tensor, num_source: int) -> Tensor:
        return balanced_mean(divergences, num_source)

    def _check(self, rows: Tensor) -> Tensor:
        """Rows in the networks' precision, if they are of the right dimension."""
        if rows.shape[1] != self.dim:
            raise InputError(
                f"embeddings have dim {rows.shape[1]}; the variational domain adversary has {self.dim}"
            )
        return rows.to(next(self.parameters()).dtype)


class InfoVdannLoss(VdannLoss):
    """`VdannLoss` that keeps mutual information of latents and embeddings (InfoVDANN, Tu, Mak & Chien 2020).

    The KL divergence of every row's Gaussian, which is least where the latents say nothing of the row, gives way
    to a discrepancy between all latents and the prior (InfoVAE, Zhao et al. 2019):

        (1 − information) · KL(q(z | x) ‖ N(0, I)) + (information + prior_weight − 1) · MMD²(q(z), N(0, I))

    with `normal_mmd_loss` of each domain's latents, the mean of both. VDANN is `information` 0, `prior_weight` 1.

    Args:
        dim, latent_dim, hidden_dim, scale, elbo_weight, noise: as in `VdannLoss`.
        information: α, from 0 to 1; 1 leaves the MMD alone.
        prior_weight: λ, at least 1 − α.

    Raises:
        InputError: what `VdannLoss` refuses, or `information` or `prior_weight` is out of range.
    """

    def __init__(
        self,
        dim: int,
        latent_dim: int = 128,
        hidden_dim: int = 256,
        scale: float = 1.0,
        elbo_weight: float = 1.0,
        noise: float = 1.0,
        information: float = 0.5,
        prior_weight: float = 1000.0,
    ) -> None:
        super().__init__(dim, latent_dim, hidden_dim, scale, elbo_weight, noise)
        if not 0 <= information <= 1:
            raise InputError(f"information of InfoVDANN is {information}; expected 0 to 1")
        if not 1 - information <= prior_weight < math.inf:
            raise InputError(
                f"prior_weight of InfoVDANN is {prior_weight}; expected at least {1 - information}, and finite"
            )
        self.information = information
        self.prior_weight = prior_weight

    def _regulariser(self, latents: Tensor, divergences: Tensor, num_source: int) -> Tensor:
        discrepancy = (normal_mmd_loss(latents[:num_source]) + normal_mmd_loss(latents[num_source:])) / 2
        divergence = balanced_mean(divergences, num_source)
        return (1 - self.information) * divergence + (self.information + self.prior_weight - 1) * discrepancy


def check_sizes(name: str, **sizes: int) -> None:
    """Raise `InputError` unless every size of the module called `name` is at least one."""
    for size, value in sizes.items():
        if value < 1:
            raise InputError(f"{size} of the {name} is {value}; expected at least 1")
