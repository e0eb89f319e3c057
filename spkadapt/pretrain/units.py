"""The units of restricted Boltzmann machines: what each kind's mean, sample and log-normaliser are.

A unit that receives the total input x (its bias and what the other side sends) has

    bernoulli   values {0, 1},  mean σ(x)
    gaussian    real values,    mean x, and a variance of its own
    rectified   values ≥ 0,     max(0, x + N(0, σ(x)))                          (NReLU; Nair & Hinton 2010)

A rectified unit stands for infinitely many binary copies with biases x − ½, x − 3/2, …, which together are on
about softplus(x) times with variance σ(x).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

VISIBLE_UNITS = ("bernoulli", "gaussian", "rectified")
HIDDEN_UNITS = ("bernoulli", "rectified")

# B_n / (n + 1)! of n = 14, 12, …, 2.
_DEBYE_COEFFICIENTS = (
    1 / 1_120_863_744_000,
    -691 / 16_999_766_784_000,
    1 / 526_901_760,
    -1 / 10_886_400,
    1 / 211_680,
    -1 / 3600,
    1 / 36,
)


def unit_mean(kind: str, inputs: Tensor) -> Tensor:
    """E[unit | inputs], in the shape of `inputs`, which is consumed: σ(x), x, or `rectified_moments`'s mean."""
    if kind == "bernoulli":
        return inputs.sigmoid_()
    return inputs if kind == "gaussian" else rectified_moments(inputs)[0]


def mean_and_sample(
    kind: str, inputs: Tensor, generator: torch.Generator, deviation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`unit_mean` and a sample with noise of its own for each element; `inputs` is consumed.

    Args:
        kind: of the units.
        inputs: (..., num_units)
        generator: on the device of `inputs`.
        deviation: standard deviations of Gaussian units (num_units,); 1 where None.
    """
    if kind == "bernoulli":
        mean = inputs.sigmoid_()
        return mean, sample_bernoulli(mean, generator)
    noise = _normal_like(inputs, generator)
    if kind == "gaussian":
        return inputs, (noise if deviation is None else noise.mul_(deviation)).add_(inputs)
    return rectified_moments(inputs)[0], noise.mul_(inputs.sigmoid().sqrt_()).add_(inputs).clamp_(min=0)


def sample_bernoulli(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Zeros and ones with P(1) = `probabilities (..., num_units)`, independent for each element.

    On CPU, where numbers come out of the generator one by one and cost a third of training, float32 needs
    16 of its random bits for each element. They are the high bits of uniform numbers on the grid of
    `torch.rand`, the multiples of 2⁻²⁴; the low 8 are drawn once for each row, which keeps every P(1) as exact
    as `torch.rand` has it and couples units of one row by a covariance below 2⁻³².
    """
    if probabilities.device.type == "cpu" and probabilities.dtype in (torch.float32, torch.bfloat16):
        uniform = _uniform_of_16_bits(probabilities.shape, generator)
        return uniform.lt_(probabilities.float()).to(probabilities.dtype)  # mixed types compare slowly
    uniform = torch.rand(
        probabilities.shape, generator=generator, device=probabilities.device, dtype=probabilities.dtype
    )
    return uniform.lt_(probabilities)


def rectified_moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of max(0, x + √σ(x) · N(0, 1)), in the shape of `inputs`.

    With s = √σ(x) and r = x/s: mean = xΦ(r) + sφ(r), second moment = (x² + s²)Φ(r) + xsφ(r).
    """
    deviation = inputs.sigmoid().sqrt_()
    ratio = inputs / deviation.clamp(min=torch.finfo(inputs.dtype).tiny ** 0.5)
    above = torch.special.ndtr(ratio)
    density = (ratio.square() / -2).exp_() * (deviation / math.sqrt(2 * math.pi))
    mean = (inputs * above + density).clamp_(min=0)
    second = (inputs.square() + deviation.square()) * above + inputs * density
    return mean, (second - mean.square()).clamp_(min=0)


def log_normaliser(kind: str, inputs: Tensor) -> Tensor:
    """log Σ_h exp(hx) of hidden units, elementwise; its derivative in x is the units' expected value.

    Bernoulli: softplus(x). Rectified: the copies' Σ_k softplus(x − k + ½), by the midpoint rule the integral
    ∫₀^∞ softplus(x − t) dt = −Li₂(−eˣ), whose derivative is softplus(x).
    """
    if kind == "bernoulli":
        return F.softplus(inputs)
    # −Li₂(−eˣ) = π²/6 + x²/2 + Li₂(−e⁻ˣ) brings positive inputs to the other side.
    positive = inputs > 0
    tail = _minus_dilogarithm(torch.where(positive, -inputs, inputs))
    return torch.where(positive, math.pi**2 / 6 + inputs.square() / 2 - tail, tail)


def _minus_dilogarithm(exponents: Tensor) -> Tensor:
    """−Li₂(−eˣ) of x ≤ 0, by Debye's series in u = log(1 + eˣ): −Σ_n B_n (−u)^(n+1) / (n + 1)!.

    u ≤ log 2 lies far within the radius 2π: the first term left out is below 1e-16 of the sum.
    """
    u = F.softplus(exponents)
    square = u.square()
    series = torch.zeros_like(u)
    for coefficient in _DEBYE_COEFFICIENTS:
        series = (series + coefficient) * square
    return u + square / 4 + u * series


def _uniform_of_16_bits(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """float32 numbers in [0, 1) of `shape`, on the CPU; see `sample_bernoulli`."""
    num_elements = shape.numel()
    words = torch.empty((num_elements + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    high = words.view(torch.int16)[:num_elements].view(shape)
    low = torch.randint(256, (*shape[:-1], 1), generator=generator).float()
    # (high + 2¹⁵)/2¹⁶ + low/2²⁴: every term and sum is exact in float32.
    return torch.empty(shape).copy_(high).mul_(2**-16).add_(low.mul_(2**-24).add_(0.5))


def _normal_like(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
