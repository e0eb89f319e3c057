"""The likelihood of a deep Boltzmann machine: exact for small ones, else bounded, with log Z by annealing.

Given the odd layers, all even ones (the visible one too) are independent and so summed in closed form:

    log p*(x₁, x₃, …) = Σ_{k odd} a_kᵀx_k + Σ_{k even} Σ_i softplus(a_ki + (W_k x_{k−1} + W_{k+1}ᵀ x_{k+1})_i)

(of a Gaussian visible layer, ½Σ_i log 2π + a_i t_i + ½t_i² with t = W₁ᵀx₁). Exact values enumerate the odd layers;
annealed importance sampling walks in them (Salakhutdinov & Hinton 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.dbm_net import DeepBoltzmannMachine
from spkadapt.pretrain.interface import check_frames
from spkadapt.pretrain.likelihood import MAX_ENUMERATED_UNITS, binary_states
from spkadapt.pretrain.units import mean_and_sample, sample_bernoulli

_MOST_ELEMENTS = 2**22


class DbmPath:
    """The annealing path of a deep Boltzmann machine (an `ais.AnnealingPath`), in the odd layers' states.

    p_β is the machine with weights βW_k, hidden biases βa_k and visible bias (1 − β)b + βa₀: independent units at
    β = 0, the hidden ones fair coins. States are the odd layers side by side, (n, sum(odd_dims)).

    Args:
        dbm: the machine.
        base_bias: b (dims[0],); the machine's own where None. Close to the data's means, it makes for a short way.

    Attributes:
        odd_dims: units of the odd layers.
    """

    def __init__(self, dbm: DeepBoltzmannMachine, base_bias: Tensor | None = None) -> None:
        self.dbm = dbm
        self.odd_dims = list(dbm.dims[1::2])
        self.base_bias = dbm.biases[0].detach() if base_bias is None else base_bias.to(dbm.biases[0])

    @classmethod
    def from_frames(cls, dbm: DeepBoltzmannMachine, frames: Tensor) -> DbmPath:
        """A base with the means of `frames (n, dims[0])`; Bernoulli units' as smoothed by `RbmPath.from_frames`.

        Raises:
            InputError: frames that are not finite, or of another dimension.
        """
        check_frames(frames)
        if frames.shape[1] != dbm.dims[0]:
            raise InputError(
                f"frames have {frames.shape[1]} dimensions; this machine has {dbm.dims[0]} visible units"
            )
        if dbm.visible == "gaussian":
            return cls(dbm, frames.double().mean(dim=0))
        return cls(dbm, torch.logit((frames.double().sum(dim=0) + 0.5) / (len(frames) + 1)))

    @property
    def log_base_partition(self) -> Tensor:
        """log Z₀ = log 2 · (number of hidden units) + Σ_i softplus(b_i), or ½Σ_i log 2π; float64."""
        hidden_term = sum(self.dbm.dims[1:]) * math.log(2)
        if self.dbm.visible == "bernoulli":
            return hidden_term + F.softplus(self.base_bias.double()).sum()
        return self.base_bias.new_tensor(
            hidden_term + self.dbm.dims[0] * math.log(2 * math.pi) / 2, dtype=torch.float64
        )

    def sample_base(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Fair coins (num_samples, sum(odd_dims))."""
        return sample_bernoulli(self.base_bias.new_full((num_samples, sum(self.odd_dims)), 0.5), generator)

    def move(
        self, states: Tensor, beta: float, next_beta: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `ais.AnnealingPath.move`; the transition is odd → even → odd layers, each given the others."""
        odd, received = self._odd_and_received(states)
        log_ratio = self._log_mass(odd, received, next_beta) - self._log_mass(odd, received, beta)
        layers: list[Tensor] = [states] * len(self.dbm.dims)
        for k, inputs in received.items():
            kind = self.dbm.visible if k == 0 else "bernoulli"
            layers[k] = mean_and_sample(kind, self._even_inputs(k, inputs, next_beta), generator)[1]
        samples = [
            sample_bernoulli((next_beta * self.dbm.inputs(layers, k)).sigmoid(), generator)
            for k in range(1, len(layers), 2)
        ]
        return log_ratio, torch.cat(samples, dim=1)

    def log_mass(self, states: Tensor, beta: float = 1.0) -> Tensor:
        """log p*_β, float64 (n,), of the odd layers' `states`; differentiable."""
        return self._log_mass(*self._odd_and_received(states), beta)

    def log_joint_mass(self, v: Tensor, states: Tensor) -> Tensor:
        """log p*(v_i, states_j) at β = 1, (n, m), the even layers above v summed out; differentiable."""
        odd, received = self._odd_and_received(states)
        from_visible = v @ received.pop(0).T - self.dbm.visible_energy(v)[:, None]
        return from_visible + self._log_mass(odd, received, 1.0)

    def _odd_and_received(self, states: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The odd layers; what each even layer k receives of them, (n, dims[k]), its bias left out."""
        odd = list(states.split(self.odd_dims, dim=1))
        received = {}
        for k in range(0, len(self.dbm.dims), 2):
            parts = [F.linear(odd[k // 2 - 1], self.dbm.weights[k - 1])] if k > 0 else []
            if k < self.dbm.num_hidden_layers:
                parts.append(odd[k // 2] @ self.dbm.weights[k])
            received[k] = sum(parts[1:], parts[0])
        return odd, received

    def _even_inputs(self, k: int, received: Tensor, beta: float) -> Tensor:
        inputs = beta * (received + self.dbm.biases[k])
        return inputs + (1 - beta) * self.base_bias if k == 0 else inputs

    def _log_mass(self, odd: list[Tensor], received: dict[int, Tensor], beta: float) -> Tensor:
        wide = torch.float64
        total = beta * sum((x @ self.dbm.biases[2 * i + 1]).to(wide) for i, x in enumerate(odd))
        for k, part in received.items():
            inputs = self._even_inputs(k, part, beta)
            if k > 0 or self.dbm.visible == "bernoulli":
                total = total + F.softplus(inputs).sum(dim=1, dtype=wide)
                continue
            centre = (1 - beta) * self.base_bias.square() + beta * self.dbm.biases[0].square()
            total = total + (inputs.square() - centre + math.log(2 * math.pi)).sum(dim=1, dtype=wide) / 2
        return total


def dbm_log_partition(dbm: DeepBoltzmannMachine) -> Tensor:
    """log Z, a float64 scalar, by enumeration of the odd layers; differentiable.

    Raises:
        InputError: more than 25 units in the odd layers.
    """
    path = DbmPath(dbm)
    parts = [torch.logsumexp(path.log_mass(states), dim=0) for states in _odd_states(path, 1)]
    return torch.logsumexp(torch.stack(parts), dim=0)


def dbm_log_likelihood(dbm: DeepBoltzmannMachine, v: Tensor) -> Tensor:
    """log p(v), float64 (n,), of `v (n, dims[0])`; a density for Gaussian units; differentiable.

    Raises:
        InputError: as `dbm_log_partition`.
    """
    path = DbmPath(dbm)
    parts = [torch.logsumexp(path.log_joint_mass(v, states), dim=1) for states in _odd_states(path, len(v))]
    return torch.logsumexp(torch.stack(parts), dim=0) - dbm_log_partition(dbm)


def dbm_bound(
    dbm: DeepBoltzmannMachine,
    v: Tensor,
    log_partition: float,
    *,
    num_updates: int = 100,
    tolerance: float = 1e-6,
) -> Tensor:
    """A lower bound on log p(v), (n,), by mean field: E_q[−E(v, h)] + H(q) − log Z; tight where q is exact.

    Args:
        dbm: the machine.
        v: frames (n, dims[0]).
        log_partition: `dbm_log_partition`, or that of `ais_log_partition(DbmPath.from_frames(dbm, v), …)`, whose
            error shifts all frames alike. One that is too high (`reverse_ais_log_partition`) leaves this a bound.
        num_updates, tolerance: as in `DeepBoltzmannMachine.mean_field`.
    """
    means = dbm.mean_field(v, num_updates=num_updates, tolerance=tolerance)
    return dbm.unnormalised_bound(v, means) - log_partition


@torch.no_grad()
def sample_dbm_exactly(
    dbm: DeepBoltzmannMachine, num_samples: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Independent samples from the enumerated distribution.

    Args:
        dbm: on the CPU.
        num_samples: how many.
        generator: on the CPU.

    Returns:
        All layers, (num_samples, dims[k]) each, v first; and the odd ones side by side, as `DbmPath` has states.

    Raises:
        InputError: as `dbm_log_partition`.
    """
    path = DbmPath(dbm)
    states = torch.cat(list(_odd_states(path, 1)))
    cumulative = path.log_mass(states).softmax(dim=0).cumsum(dim=0)
    uniform = torch.rand(num_samples, generator=generator, dtype=torch.float64) * cumulative[-1]
    chosen = states[torch.searchsorted(cumulative, uniform, right=True)]
    layers: list[Tensor] = [chosen] * len(dbm.dims)
    layers[1::2] = chosen.split(path.odd_dims, dim=1)
    for k in range(0, len(layers), 2):
        kind = dbm.visible if k == 0 else "bernoulli"
        layers[k] = mean_and_sample(kind, dbm.inputs(layers, k), generator)[1]
    return layers, chosen


def _odd_states(path: DbmPath, num_rows: int) -> Iterator[Tensor]:
    """All states of the odd layers, in chunks that `num_rows` frames can be paired with."""
    num_units = sum(path.odd_dims)
    if num_units > MAX_ENUMERATED_UNITS:
        raise InputError(
            f"cannot enumerate the 2^{num_units} states of the odd hidden layers, of {path.odd_dims} units; "
            f"expected at most {MAX_ENUMERATED_UNITS} units in all"
        )
    chunk = max(1, min(2**14, _MOST_ELEMENTS // num_rows))
    for start in range(0, 2**num_units, chunk):
        yield binary_states(start, min(start + chunk, 2**num_units), num_units).to(path.base_bias)
