"""The likelihood of a deep belief network: exact for small ones, and its variational bound.

    log p(v) ≥ E_q[log p(v, h₁, …, h_{L−1}) − log q(h₁, …, h_{L−1} | v)]

with equality where q is the posterior (Hinton, Osindero & Teh 2006). The same log-ratios, averaged before the
logarithm is taken, give a tighter bound that tends to log p(v) with the number of samples (Salakhutdinov & Murray
2008; Burda, Grosse & Salakhutdinov 2016). Both need log Z of the top RBM alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.dbn_net import DeepBeliefNet
from spkadapt.pretrain.likelihood import binary_states, exact_log_partition

MAX_UNITS_OF_A_LAYER = 14
_MOST_ROWS = 2**15
_MOST_PAIRS = 2**22

# log p(y, x) and log q(x | y), both (n, m), to what is said of log p(y), (n,).
_Reduce = Callable[[Tensor, Tensor], Tensor]


class DbnBound(NamedTuple):
    """What samples say of log p(v), nats, float64, each (n,).

    Attributes:
        bound: the variational bound; an unbiased estimate of it.
        error: its standard error over the samples.
        importance_weighted: log of the mean ratio p/q; on average between the bound and log p(v).
    """

    bound: Tensor
    error: Tensor
    importance_weighted: Tensor


def dbn_log_likelihood(net: DeepBeliefNet, v: Tensor) -> Tensor:
    """log p(v), (n,), of `v (n, dim)` by enumeration; a density for Gaussian units; differentiable.

    Layer by layer from the top, p(h_{k−1}) = Σ p(h_{k−1} | h_k) p(h_k) over all h_k.

    Raises:
        InputError: more than 14 units in a hidden layer below the top one, or a top RBM too large to enumerate.
    """
    return _about(net, 0, v, lambda log_joint, _: torch.logsumexp(log_joint, dim=1))


def dbn_bound(net: DeepBeliefNet, v: Tensor) -> Tensor:
    """The variational bound on log p(v), (n,), its expectation by enumeration; differentiable.

    Raises:
        InputError: as `dbn_log_likelihood`.
    """
    return _about(net, 0, v, lambda log_joint, log_q: (log_q.exp() * (log_joint - log_q)).sum(dim=1))


@torch.no_grad()
def estimate_dbn_bound(
    net: DeepBeliefNet, v: Tensor, log_partition: float, *, num_samples: int = 100, seed: int
) -> DbnBound:
    """The bound from samples of q, for networks of any size.

    Args:
        net: the network.
        v: frames (n, dim).
        log_partition: log Z of `net.top`: exact, or that of `ais_log_partition(RbmPath(net.top), …)`, whose error
            shifts all frames alike. One that is too high (`reverse_ais_log_partition`) leaves this a lower bound.
        num_samples: of q for each frame, at least 2.
        seed: of the sampling.

    Raises:
        InputError: fewer than 2 samples.
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; the bound's error needs at least 2")
    generator = torch.Generator(v.device).manual_seed(seed)
    parts = []
    for frames in v.split(max(1, _MOST_ROWS // num_samples)):
        states = net.recognise(frames.repeat_interleave(num_samples, dim=0), generator)
        log_ratio = -net.top.free_energy(states[-1]).double() - log_partition
        for number, (recognition, generative) in enumerate(zip(net.recognition, net.generative, strict=True)):
            lower, upper = states[number : number + 2]
            log_ratio += generative.log_probability(lower, upper) - recognition.log_probability(upper, lower)
        parts.append(log_ratio.view(len(frames), num_samples))
    log_ratios = torch.cat(parts)
    return DbnBound(
        log_ratios.mean(dim=1),
        log_ratios.std(dim=1) / math.sqrt(num_samples),
        torch.logsumexp(log_ratios, dim=1) - math.log(num_samples),
    )


def _about(net: DeepBeliefNet, number: int, states: Tensor, reduce: _Reduce) -> Tensor:
    """What `reduce` makes of log p(h), (n,), of the `states (n, units)` of layer `number`, 0 for the visible one.

    It is given log p(h, all states above) with its own value for those above.
    """
    if number == len(net.generative):
        return -net.top.free_energy(states) - exact_log_partition(net.top)
    above = _all_states(net, number)
    values = _about(net, number + 1, above, reduce)
    generative, recognition = net.generative[number], net.recognition[number]
    parts = states.split(max(1, _MOST_PAIRS // len(above)))
    return torch.cat(
        [
            reduce(
                generative.log_probabilities(part, above) + values, recognition.log_probabilities(above, part).T
            )
            for part in parts
        ]
    )


def _all_states(net: DeepBeliefNet, number: int) -> Tensor:
    weight = net.recognition[number].weight
    num_units = len(weight)
    if num_units > MAX_UNITS_OF_A_LAYER:
        raise InputError(
            f"cannot enumerate hidden layer {number + 1} of {num_units} units; expected at most "
            f"{MAX_UNITS_OF_A_LAYER} (estimate_dbn_bound takes any size)"
        )
    return binary_states(0, 2**num_units, num_units).to(weight)
