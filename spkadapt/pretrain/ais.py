"""Annealed importance sampling: the partition function of a model too large to enumerate, from both sides.

A path of distributions p_0 … p_K ∝ p*_k leads from a base whose partition function Z_0 is known to the model. A
state is carried along it, by transitions that leave each p_k as it is, and collects the log-weight

    log w = Σ_k log p*_{k+1}(x_k) − log p*_k(x_k).

Run from the base to the model, E[w] = Z/Z_0 (Neal 2001; Salakhutdinov & Murray 2008): the log of the mean
weight is below log(Z/Z_0) on average. Run back from samples of the model, E[w] = Z_0/Z, and the estimate
of log Z is above (Grosse, Ghahramani & Adams 2015). Run back from a frame v, it bounds log p(v) from below
(RAISE; Burda, Grosse & Salakhutdinov 2015), where the forward estimate of log Z errs upwards. Together: a
bracket that closes as the path is refined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.rbm_path import RbmPath


class AnnealingPath(Protocol):
    """Distributions p_β from a base at β = 0 to a model at β = 1, over states (n, dim)."""

    @property
    def log_base_partition(self) -> Tensor:
        """log Z_0, a scalar."""

    def sample_base(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Independent samples of p_0, (num_samples, dim)."""

    def move(
        self, states: Tensor, beta: float, next_beta: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """From one distribution to the next.

        Returns:
            log p*_next_beta(x) − log p*_beta(x) of the `states`, float64 (n,), and then the states (n, dim) after
            a reversible transition that leaves p_next_beta as it is.
        """


@dataclass(frozen=True)
class AisEstimate:
    """An estimate of log Z from the weights of independent runs.

    Attributes:
        log_partition: log Ẑ in nats.
        low: lower end of its confidence interval; −inf (or `high` inf) where the weights say nothing.
        high: upper end.
        log_partitions: of the runs (num_chains,), float64: each by itself an estimate of log Z, of which a forward
            run's lies below log Z on average and a reverse run's above.
        effective_sample_size: runs that would say as much if all weights were equal: (Σw)²/Σw².
    """

    log_partition: float
    low: float
    high: float
    log_partitions: Tensor
    effective_sample_size: float


@torch.no_grad()
def ais_log_partition(
    path: AnnealingPath,
    *,
    num_chains: int = 100,
    num_temperatures: int = 1000,
    confidence: float = 0.95,
    seed: int,
    device: torch.device | str = "cpu",
) -> AisEstimate:
    """log Z by annealed importance sampling from the base; too low rather than too high.

    E[Ẑ] = Z, and so P(log Ẑ > log Z + a) ≤ e^(−a) by Markov's inequality. The interval is that of the mean
    weight's standard error on the log scale, log(Ẑ ± z·se) (Salakhutdinov & Murray 2008, with z = 3). It
    supposes many weights of moderate spread: look at `effective_sample_size`.

    Args:
        path: e.g. `RbmPath.from_frames`.
        num_chains: independent runs, at least 2.
        num_temperatures: intermediate distributions K, evenly spaced in β.
        confidence: of the interval.
        seed: of the sampling.
        device: the path's.

    Raises:
        InputError: fewer than 2 runs, no temperature, or a confidence outside (0, 1).
    """
    _check_arguments(num_chains, num_temperatures, confidence)
    generator = torch.Generator(device).manual_seed(seed)
    states = path.sample_base(num_chains, generator)
    betas = [step / num_temperatures for step in range(num_temperatures + 1)]
    log_weights = _anneal(path, states, betas, generator)
    return _estimate(log_weights, confidence, path.log_base_partition.item(), sign=1)


@torch.no_grad()
def reverse_ais_log_partition(
    path: AnnealingPath,
    samples: Tensor,
    *,
    num_temperatures: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> AisEstimate:
    """log Z by annealing back from samples of the model; too high rather than too low.

    E[1/Ẑ] = 1/Z, and so P(log Ẑ < log Z − a) ≤ e^(−a). That holds of exact samples (`likelihood.sample_exactly`);
    of those of a Markov chain as far as it has forgotten its start.

    Args:
        path: e.g. `RbmPath.from_frames`.
        samples: of the model, independent (num_chains, dim).
        num_temperatures, confidence, seed: as in `ais_log_partition`.

    Raises:
        InputError: as `ais_log_partition`.
    """
    _check_arguments(len(samples), num_temperatures, confidence)
    log_weights = _anneal_back(path, samples, num_temperatures, seed)
    return _estimate(log_weights, confidence, path.log_base_partition.item(), sign=-1)


@torch.no_grad()
def raise_log_likelihood(
    path: RbmPath, v: Tensor, *, num_chains: int = 100, num_temperatures: int = 1000, seed: int
) -> Tensor:
    """A lower bound on log p(v), float64 (n,), by annealing back from each frame (RAISE).

    The mean over chains of p*(v)/Z_0 · w is an unbiased estimate of the probability of v under the forward
    annealing run, which tends to the RBM as the path is refined. So the estimate lies below log p(v) (Burda,
    Grosse & Salakhutdinov 2015: but for that difference), while −F(v) − log Ẑ of the forward run lies above.

    Args:
        path: of the RBM.
        v: frames (n, num_visible).
        num_chains: runs for each frame.
        num_temperatures, seed: as in `ais_log_partition`.

    Raises:
        InputError: no run or no temperature.
    """
    _check_arguments(num_chains + 1, num_temperatures, 0.5)
    v = v.to(path.bias)
    log_weights = _anneal_back(path, v.repeat_interleave(num_chains, dim=0), num_temperatures, seed)
    log_means = torch.logsumexp(log_weights.view(len(v), num_chains), dim=1) - math.log(num_chains)
    return log_means - path.rbm.free_energy(v).double() - path.log_base_partition


def _anneal_back(path: AnnealingPath, states: Tensor, num_temperatures: int, seed: int) -> Tensor:
    """log w of runs from β = 1 to 0, float64 (n,): the forward run reversed, its last transition (β = 1) first."""
    betas = [1.0] + [step / num_temperatures for step in range(num_temperatures, -1, -1)]
    return _anneal(path, states, betas, torch.Generator(states.device).manual_seed(seed))


def _anneal(path: AnnealingPath, states: Tensor, betas: Sequence[float], generator: torch.Generator) -> Tensor:
    log_weights = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for beta, next_beta in pairwise(betas):
        log_ratio, states = path.move(states, beta, next_beta, generator)
        log_weights += log_ratio
    return log_weights


def _estimate(log_weights: Tensor, confidence: float, log_base_partition: float, *, sign: int) -> AisEstimate:
    """log Z = log Z₀ + sign · log E[w], the sign that of the direction, with its interval."""
    num_chains = len(log_weights)
    log_mean = (torch.logsumexp(log_weights, dim=0) - math.log(num_chains)).item()
    relative = (log_weights - log_mean).exp()
    half_width = NormalDist().inv_cdf((1 + confidence) / 2) * relative.std().item() / math.sqrt(num_chains)
    lower = log_mean + math.log1p(-half_width) if half_width < 1 else -math.inf
    low, high = sorted(log_base_partition + sign * end for end in (lower, log_mean + math.log1p(half_width)))
    return AisEstimate(
        log_base_partition + sign * log_mean,
        low,
        high,
        log_base_partition + sign * log_weights,
        (relative.sum().square() / relative.square().sum()).item(),
    )


def _check_arguments(num_chains: int, num_temperatures: int, confidence: float) -> None:
    if num_chains < 2:
        raise InputError(f"annealed importance sampling has {num_chains} chains; expected at least 2")
    if num_temperatures < 1:
        raise InputError(f"num_temperatures is {num_temperatures}; expected at least 1")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a number between 0 and 1")
