"""Exact likelihood of small restricted Boltzmann machines, by enumeration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.rbm import Rbm

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
    Z = (2π)^(num_visible/2) Σ_h exp(cᵀh + bᵀWᵀh + ½‖Wᵀh‖²).

    Raises:
        InputError: more than 25 units to enumerate.
    """
    num_hidden, num_visible = rbm.weight.shape
    over_hidden = rbm.visible == "gaussian" or num_hidden <= num_visible
    num_units = num_hidden if over_hidden else num_visible
    if num_units > MAX_ENUMERATED_UNITS:
        raise InputError(
            f"cannot enumerate the 2^{num_units} states of an RBM with {num_visible} visible and {num_hidden} "
            f"hidden units; expected at most {MAX_ENUMERATED_UNITS} units on the side to enumerate"
        )
    num_states = 2**num_units
    log_terms = []
    for start in range(0, num_states, _CHUNK):
        states = binary_states(start, min(start + _CHUNK, num_states), num_units).to(rbm.weight)
        log_mass = _log_mass_of_hidden(rbm, states) if over_hidden else -rbm.free_energy(states)
        log_terms.append(torch.logsumexp(log_mass, dim=0))
    return torch.logsumexp(torch.stack(log_terms), dim=0)


def exact_log_likelihood(rbm: Rbm, v: Tensor) -> Tensor:
    """log p(v) = −F(v) − log Z in nats, shape (n,), of `v (n, num_visible)`; a density for Gaussian units.

    Raises:
        InputError: more than 25 units to enumerate.
    """
    return -rbm.free_energy(v) - exact_log_partition(rbm)


def _log_mass_of_hidden(rbm: Rbm, h: Tensor) -> Tensor:
    """log Σ_v exp(−E(v, h)), an integral for Gaussian units, shape (n,)."""
    inputs = h @ rbm.weight
    hidden_term = h @ rbm.hidden_bias
    if rbm.visible == "gaussian":
        constant = rbm.weight.shape[1] / 2 * math.log(2 * math.pi)
        return hidden_term + inputs @ rbm.visible_bias + inputs.square().sum(dim=1) / 2 + constant
    return hidden_term + F.softplus(inputs + rbm.visible_bias).sum(dim=1)
