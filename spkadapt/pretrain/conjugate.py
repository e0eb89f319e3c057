"""Mean-field coordinate ascent where everything is conjugate: what the variational autoencoder is held to.

A factorised q(z) = Π_j q_j(z_j) is improved one factor at a time, q_j ∝ exp E_{k≠j}[log p(x, z)], each time to the
very best (Bishop 2006, §10.1): the bound never falls and needs no gradient, no samples and no step size. It takes
expectations in closed form, which conjugate models have and neural decoders have not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spkadapt.errors import InputError


@dataclass(frozen=True)
class LinearGaussianPosterior:
    """The factorised Gaussian that `linear_gaussian_mean_field` finds.

    Attributes:
        mean: (n, num_latent)
        variance: (num_latent,), the same for every frame.
        bounds: on log p(x) in nats, before the first sweep and after each, (num_sweeps + 1, n).
    """

    mean: Tensor
    variance: Tensor
    bounds: Tensor


def linear_gaussian_mean_field(
    x: Tensor, weight: Tensor, offset: Tensor, noise_variance: float, num_sweeps: int
) -> LinearGaussianPosterior:
    """Coordinate ascent for z ~ N(0, I), x | z ~ N(Wz + μ, σ²I): a variational autoencoder with linear decoder.

    With Λ = I + WᵀW/σ², the precision of the exact posterior, and r = Wᵀ(x − μ)/σ²,

        q_j = N(m_j, 1/Λ_jj),    m_j ← (r_j − Σ_{k≠j} Λ_jk m_k) / Λ_jj

    which is Gauss-Seidel's solution of Λm = r: the means tend to the exact ones, while the variances fall short of
    them, (Λ⁻¹)_jj ≥ 1/Λ_jj, unless W's columns are orthogonal.

    Args:
        x: (n, dim)
        weight: W, (dim, num_latent)
        offset: μ, (dim,)
        noise_variance: σ².
        num_sweeps: passes over the latent dimensions, from means of zero.

    Raises:
        InputError: a variance that is not above 0.
    """
    if not 0 < noise_variance < math.inf:
        raise InputError(f"noise_variance is {noise_variance}; expected a number above 0")
    centred = x - offset
    precision = weight.T @ weight / noise_variance
    precision.diagonal().add_(1)
    linear = centred @ weight / noise_variance
    variance = precision.diagonal().reciprocal()
    mean = torch.zeros_like(linear)

    def bound() -> Tensor:
        # E log p(x, z) is quadratic in z: −½ zᵀΛz + rᵀz and constants.
        quadratic = (mean @ precision * mean).sum(dim=1) / 2 - (mean * linear).sum(dim=1)
        spread = (variance * precision.diagonal() - 1 - variance.log()).sum() / 2
        alone = centred.square().sum(dim=1) / noise_variance + x.shape[1] * math.log(2 * math.pi * noise_variance)
        return -quadratic - spread - alone / 2

    bounds = [bound()]
    for _ in range(num_sweeps):
        for j in range(len(variance)):
            others = mean @ precision[:, j] - mean[:, j] * precision[j, j]
            mean[:, j] = (linear[:, j] - others) * variance[j]
        bounds.append(bound())
    return LinearGaussianPosterior(mean, variance, torch.stack(bounds))


@dataclass(frozen=True)
class NormalGamma:
    """p(μ, τ) = N(μ; m, 1/(λτ)) Gamma(τ; a, rate b): conjugate to x ~ N(μ, 1/τ), for each dimension on its own.

    Attributes:
        mean: m, (dim,)
        strength: λ, how many observations the mean is worth.
        shape: a.
        rate: b, (dim,)
    """

    mean: Tensor
    strength: float
    shape: float
    rate: Tensor

    def __post_init__(self) -> None:
        values = (self.strength, self.shape, self.rate.min().item())
        for name, value in zip(("strength", "shape", "rate"), values, strict=True):
            if not 0 < value < math.inf:
                raise InputError(f"NormalGamma.{name} is {value:.4g}; expected a number above 0")

    def posterior(self, x: Tensor) -> NormalGamma:
        """The exact posterior given `x (n, dim)` (Bishop 2006, §2.3.6)."""
        num, average = len(x), x.mean(dim=0)
        strength = self.strength + num
        between = (average - self.mean).square() * (self.strength * num / strength)
        rate = self.rate + ((x - average).square().sum(dim=0) + between) / 2
        mean = (self.strength * self.mean + num * average) / strength
        return NormalGamma(mean, strength, self.shape + num / 2, rate)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of all of `x (n, dim)` together, in nats, (dim,)."""
        after = self.posterior(x)
        gammas = math.lgamma(after.shape) - math.lgamma(self.shape)
        rates = self.shape * self.rate.log() - after.shape * after.rate.log()
        return gammas + rates + (math.log(self.strength / after.strength) - len(x) * math.log(2 * math.pi)) / 2


@dataclass(frozen=True)
class NormalGammaPosterior:
    """q(μ) q(τ) = N(μ; m, v) Gamma(τ; a, rate b), which `normal_gamma_mean_field` finds.

    Attributes:
        mean: m, (dim,)
        variance: v, (dim,)
        shape: a.
        rate: b, (dim,)
        bounds: on log p(x) in nats after each sweep, (num_sweeps, dim).
    """

    mean: Tensor
    variance: Tensor
    shape: float
    rate: Tensor
    bounds: Tensor


def normal_gamma_mean_field(prior: NormalGamma, x: Tensor, num_sweeps: int) -> NormalGammaPosterior:
    """Coordinate ascent for unknown mean and precision (Bishop 2006, §10.1.3).

    With the exact posterior's m_n, λ_n, a_n, b_n, and a = a_n + ½,

        q(μ) = N(m_n, 1/(λ_n E[τ])),    q(τ) = Gamma(a, b ← b_n + 1/(2E[τ])),    E[τ] = a/b

    which ends where E[τ] = a_n/b_n. Both means are then exact, and Var[μ] is too small, by (a_n − 1)/a_n.

    Args:
        prior: of mean and precision.
        x: (n, dim)
        num_sweeps: passes over both factors, at least 1, from the prior's E[τ].

    Raises:
        InputError: no sweep.
    """
    if num_sweeps < 1:
        raise InputError(f"num_sweeps is {num_sweeps}; expected at least 1")
    exact = prior.posterior(x)
    shape, precision = exact.shape + 0.5, prior.shape / prior.rate
    constant = (math.log(prior.strength) - (len(x) + 1) * math.log(2 * math.pi)) / 2 - math.lgamma(prior.shape)
    bounds = []
    for _ in range(num_sweeps):
        variance = 1 / (exact.strength * precision)
        rate = exact.rate + exact.strength * variance / 2
        precision = shape / rate
        # With q(τ) at its best, E log p(x, μ, τ) + H(q(τ)) is the log normaliser of q(τ).
        normaliser = math.lgamma(shape) - shape * rate.log()
        entropy = (math.log(2 * math.pi * math.e) + variance.log()) / 2
        bounds.append(constant + prior.shape * prior.rate.log() + normaliser + entropy)
    return NormalGammaPosterior(exact.mean, variance, shape, rate, torch.stack(bounds))
