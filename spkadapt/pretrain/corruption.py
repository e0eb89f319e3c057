"""Corruptions of a denoising autoencoder's input (Vincent et al. 2010)."""

from __future__ import annotations

import torch
from torch import Tensor

from spkadapt.pretrain.frames import FrameSource, index_batches
from spkadapt.pretrain.units import sample_bernoulli

CORRUPTIONS = ("masking", "gaussian", "salt_and_pepper")

# The extremes of so many frames, those of a shuffled epoch's beginning, stand for those of all.
NUM_FRAMES_FOR_EXTREMES = 4096


def corrupt(kind: str, x: Tensor, level: float, extremes: Tensor, generator: torch.Generator) -> Tensor:
    """x̃ ~ q(x̃ | x): each entry of `x (n, dim)` corrupted on its own.

        masking            x̃ = 0 with probability ν, else x
        gaussian           x̃ = x + ν · N(0, 1)
        salt_and_pepper    x̃ = the dimension's least or greatest value, each with probability ν/2, else x

    Args:
        kind: one of `CORRUPTIONS`.
        x: clean input (n, dim).
        level: ν, a probability, or a standard deviation where the noise is Gaussian.
        extremes: least and greatest value of each dimension (2, dim), which salt and pepper takes.
        generator: on the device of `x`.

    Returns:
        (n, dim), a new tensor.
    """
    if kind == "masking":
        kept = x.new_full((), 1 - level).expand(x.shape)
        return sample_bernoulli(kept, generator).mul_(x)
    if kind == "gaussian":
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return noise.mul_(level).add_(x)
    uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    low, high = extremes
    return torch.where(uniform < level / 2, low, torch.where(uniform >= 1 - level / 2, high, x))


def measure_extremes(source: FrameSource, generator: torch.Generator) -> Tensor:
    """Least and greatest value of each dimension (2, dim) of at most `NUM_FRAMES_FOR_EXTREMES` frames."""
    chosen = next(index_batches(source, NUM_FRAMES_FOR_EXTREMES, NUM_FRAMES_FOR_EXTREMES, generator))
    return torch.stack(torch.aminmax(source.take(chosen), dim=0))
