"""Exact likelihood of small restricted Boltzmann machines, by enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_path import require_binary_hidden

MAX_ENUMERATED_UNITS = 25
_CHUNK = 2**14


def binary_states(start: int, end: int, num_units: int) -> Tensor:
    """States number `start` to `end` − 1 of `num_units` binary units, zeros and ones (end − start, num_units)."""
    numbers = torch.arange(start, end)
    return (numbers[:, None] >> torch.arange(num_units)) & 1


def exact_log_partition(rbm: Rbm) -> Tensor:
    """log Z, a scalar; differentiable.

    One side is enumerated and the other summed (or integrated) in closed form: the smaller side of a
    Bernoulli RBM, the hidden side of a Gaussian one, where

        Z = Π_i √(2πσ_i²) · Σ_h exp(cᵀh + Σ_i (b_i s_i + ½s_i²)/σ_i²),    s = Wᵀh

    Raises:
        InputError: more than 25 units to enumerate, or rectified units.
    """
    return torch.logsumexp(
        torch.stack([torch.logsumexp(log_mass, dim=0) for _, log_mass in _enumerate(rbm)]), dim=0
    )


def exact_log_likelihood(rbm: Rbm, v: Tensor) -> Tensor:
    """log p(v) = −F(v) − log Z in nats, shape (n,), of `v (n, num_visible)`; a density for Gaussian units.

    Raises:
        InputError: more than 25 units to enumerate, or rectified units.
    """
    return -rbm.free_energy(v) - exact_log_partition(rbm)


@torch.no_grad()
def sample_exactly(rbm: Rbm, num_samples: int, generator: torch.Generator) -> Tensor:
    """Independent samples of p(v), (num_samples, num_visible), from the enumerated distribution.

    Args:
        rbm: on the CPU.
        num_samples: how many.
        generator: on the CPU.

    Raises:
        InputError: more than 25 units to enumerate, or rectified units.
    """
    states, log_masses = zip(*_enumerate(rbm), strict=True)
    cumulative = torch.cat(log_masses).double().softmax(dim=0).cumsum(dim=0)
    uniform = torch.rand(num_samples, generator=generator, dtype=torch.float64) * cumulative[-1]
    chosen = torch.cat(states)[torch.searchsorted(cumulative, uniform, right=True)]
    return rbm.sample_visible(chosen, generator) if _enumerates_hidden(rbm) else chosen


def log_mass_of_hidden(rbm: Rbm, h: Tensor) -> Tensor:
    """log Σ_v exp(−E(v, h)), an integral for Gaussian units, shape (n,), of `h (n, num_hidden)`."""
    inputs = h @ rbm.weight
    hidden_term = h @ rbm.hidden_bias
    if rbm.visible == "bernoulli":
        return hidden_term + F.softplus(inputs + rbm.visible_bias).sum(dim=1)
    log_variance = torch.zeros_like(rbm.visible_bias) if rbm.log_variance is None else rbm.log_variance
    exponents = (inputs * rbm.visible_bias + inputs.square() / 2) * log_variance.neg().exp()
    return hidden_term + exponents.sum(dim=1) + (math.log(2 * math.pi) + log_variance).sum() / 2


def _enumerates_hidden(rbm: Rbm) -> bool:
    num_hidden, num_visible = rbm.weight.shape
    return rbm.visible == "gaussian" or num_hidden <= num_visible


def _enumerate(rbm: Rbm) -> Iterator[tuple[Tensor, Tensor]]:
    """All states of one side in chunks (n, num_units), with the log of their unnormalised probability (n,)."""
    require_binary_hidden(rbm, "enumeration")
    num_hidden, num_visible = rbm.weight.shape
    over_hidden = _enumerates_hidden(rbm)
    num_units = num_hidden if over_hidden else num_visible
    if num_units > MAX_ENUMERATED_UNITS:
        raise InputError(
            f"cannot enumerate the 2^{num_units} states of an RBM with {num_visible} visible and {num_hidden} "
            f"hidden units; expected at most {MAX_ENUMERATED_UNITS} units on the side to enumerate"
        )
    for start in range(0, 2**num_units, _CHUNK):
        states = binary_states(start, min(start + _CHUNK, 2**num_units), num_units).to(rbm.weight)
        yield states, log_mass_of_hidden(rbm, states) if over_hidden else -rbm.free_energy(states)
