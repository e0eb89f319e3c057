"""The deep Boltzmann machine: undirected layers, each joined to its neighbours (Salakhutdinov & Hinton 2009).

With v = x₀ and hidden layers h_k = x_k, k = 1 … L, all of them Bernoulli but perhaps v:

    Bernoulli visible:  E(x) = −Σ_k a_kᵀx_k − Σ_{k≥1} x_kᵀ W_k x_{k−1}
    Gaussian visible:   E(x) = ½‖v − a₀‖² − Σ_{k≥1} a_kᵀx_k − Σ_{k≥1} x_kᵀ W_k x_{k−1}

and p(x) = exp(−E(x)) / Z. A layer depends on its two neighbours alone, P(x_k = 1 | rest) = σ(a_k + W_k x_{k−1} +
W_{k+1}ᵀ x_{k+1}): all even layers are independent given the odd ones, and all odd ones given the even.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.interface import linear_from
from spkadapt.pretrain.units import mean_and_sample, unit_mean

VISIBLE_UNITS = ("bernoulli", "gaussian")


class DbmStatistics(NamedTuple):
    """Means over rows of what the parameters multiply; a likelihood gradient is the difference of two.

    Attributes:
        weights: E[x_k x_{k−1}ᵀ], (dims[k], dims[k − 1]) each, k = 1 … L.
        biases: E[x_k], (dims[k],) each, k = 0 … L.
    """

    weights: list[Tensor]
    biases: list[Tensor]


class DeepBoltzmannMachine(nn.Module):
    """A deep Boltzmann machine.

    Args:
        dims: units of each layer, the visible one first.
        visible: "bernoulli" (values in [0, 1]) or "gaussian" (real values of variance 1 given h).
        generator: draws the weights, N(0, 0.01²) (Hinton 2010, §8); torch's global one where None.

    Attributes:
        weights: W_k (dims[k], dims[k − 1]), k = 1 … L, at place k − 1.
        biases: a_k (dims[k],), k = 0 … L.

    Raises:
        InputError: no hidden layer, an empty layer, or unknown units.
    """

    def __init__(
        self, dims: Sequence[int], visible: str = "bernoulli", *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if len(dims) < 2 or min(dims) < 1:
            raise InputError(
                f"dims is {list(dims)}; expected a visible and at least one hidden layer of at least one unit each"
            )
        if visible not in VISIBLE_UNITS:
            raise InputError(f'unknown visible units "{visible}"; {suggest(visible, VISIBLE_UNITS)}')
        self.dims, self.visible = tuple(dims), visible
        self.weights = nn.ParameterList(
            nn.Parameter(0.01 * torch.randn(upper, lower, generator=generator)) for lower, upper in pairwise(dims)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for dim in dims)

    @property
    def num_hidden_layers(self) -> int:
        """L."""
        return len(self.weights)

    def inputs(self, layers: Sequence[Tensor], k: int) -> Tensor:
        """a_k + W_k x_{k−1} + W_{k+1}ᵀ x_{k+1}, (n, dims[k]); of `layers`, only the neighbours of `k` are read."""
        from_above = self._from_above(layers, k)
        return from_above if k == 0 else from_above + F.linear(layers[k - 1], self.weights[k - 1])

    def visible_energy(self, v: Tensor) -> Tensor:
        """The energy's terms in `v (n, dims[0])` alone, shape (n,)."""
        if self.visible == "gaussian":
            return (v - self.biases[0]).square().sum(dim=1) / 2
        return -(v @ self.biases[0])

    def energy(self, layers: Sequence[Tensor]) -> Tensor:
        """E(x), (n,), of the states `layers`, (n, dims[k]) each, v first; differentiable.

        Linear in each hidden unit: of independent ones it takes the means, and gives the expected energy.
        """
        total = self.visible_energy(layers[0])
        for weight, bias, lower, upper in zip(
            self.weights, list(self.biases)[1:], layers[:-1], layers[1:], strict=True
        ):
            total = total - upper @ bias - (F.linear(lower, weight) * upper).sum(dim=1)
        return total

    @torch.no_grad()
    def mean_field(
        self, v: Tensor, *, num_updates: int = 10, tolerance: float = 1e-4, start: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """q(h | v) = Π_kj Bernoulli(μ_kj) that approximates the posterior: μ_k, (n, dims[k]) each, k = 1 … L.

        Updates μ_k = σ(a_k + W_k μ_{k−1} + W_{k+1}ᵀ μ_{k+1}), one layer after another. Each maximises the bound
        in its μ_k, as units of one layer do not interact: none lowers it, as updates of all layers at once can.

        Args:
            v: frames (n, dims[0]).
            num_updates: at most so many passes over all layers.
            tolerance: ends before that once no mean has changed by more.
            start: where to start; `bottom_up` where None.
        """
        layers = [v, *(self.bottom_up(v) if start is None else start)]
        from_below = F.linear(v, self.weights[0])
        for _ in range(num_updates):
            change = v.new_zeros(())
            for k in range(1, len(layers)):
                inputs = self._from_above(layers, 1) + from_below if k == 1 else self.inputs(layers, k)
                mean = inputs.sigmoid()
                change = torch.maximum(change, (mean - layers[k]).abs().max())
                layers[k] = mean
            if change.item() <= tolerance:
                break
        return layers[1:]

    def bottom_up(self, v: Tensor) -> list[Tensor]:
        """One pass up, (n, dims[k]) each, k = 1 … L: what is below counts twice, for want of what is above."""
        means = []
        for linear in self.hidden_layers():
            v = linear(v).sigmoid()
            means.append(v)
        return means

    def unnormalised_bound(self, v: Tensor, means: Sequence[Tensor]) -> Tensor:
        """E_q[−E(v, h)] + H(q), (n,): less log Z, a lower bound on log p(v) whatever the `means`; differentiable.

        Args:
            v: frames (n, dims[0]).
            means: of q, (n, dims[k]) each, k = 1 … L, e.g. of `mean_field`.
        """
        entropy = sum((torch.special.entr(mean) + torch.special.entr(1 - mean)).sum(dim=1) for mean in means)
        return entropy - self.energy([v, *means])

    @torch.no_grad()
    def gibbs(self, layers: Sequence[Tensor], generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """A Gibbs step of each row: the even layers given the odd ones, then the odd ones given those.

        Returns:
            The new states, and the same with the odd layers' means given the even layers: their statistics are as
            unbiased (an odd layer meets even ones only), with less noise.
        """
        states, means = list(layers), list(layers)
        for parity in (0, 1):
            for k in range(parity, len(states), 2):
                mean, sample = mean_and_sample(self._kind(k), self.inputs(states, k), generator)
                means[k], states[k] = (mean, sample) if parity else (sample, sample)
        return states, means

    @torch.no_grad()
    def sample(self, num_samples: int, *, num_gibbs_steps: int = 1000, seed: int) -> list[Tensor]:
        """Samples of all layers, (num_samples, dims[k]) each, v first: a Gibbs chain each, started at fair coins.

        Raises:
            InputError: no sample or no step.
        """
        if min(num_samples, num_gibbs_steps) < 1:
            raise InputError(
                f"found {num_samples} samples and {num_gibbs_steps} Gibbs steps; expected at least 1 of each"
            )
        bias = self.biases[0]
        generator = torch.Generator(bias.device).manual_seed(seed)
        layers = [
            mean_and_sample("bernoulli", bias.new_zeros(num_samples, dim), generator)[1] for dim in self.dims
        ]
        for _ in range(num_gibbs_steps):
            layers, _ = self.gibbs(layers, generator)
        return layers

    def visible_mean(self, first: Tensor) -> Tensor:
        """E[v | h₁], (n, dims[0]), of `first (n, dims[1])`."""
        return unit_mean(self.visible, torch.addmm(self.biases[0], first, self.weights[0]))

    def hidden_layers(self) -> list[nn.Linear]:
        """Linear layers of `bottom_up`, bottom first: 2W_k, and W_L at the top, with the biases a_k; copied."""
        top = self.num_hidden_layers - 1
        return [
            linear_from(weight.detach() * (1 if k == top else 2), self.biases[k + 1])
            for k, weight in enumerate(self.weights)
        ]

    def _from_above(self, layers: Sequence[Tensor], k: int) -> Tensor:
        if k == self.num_hidden_layers:
            return self.biases[k]
        return torch.addmm(self.biases[k], layers[k + 1], self.weights[k])

    def _kind(self, k: int) -> str:
        return self.visible if k == 0 else "bernoulli"


def statistics(layers: Sequence[Tensor]) -> DbmStatistics:
    """Of states or means, (n, dims[k]) each, v first."""
    weights = [(upper.T @ lower).div_(len(lower)) for lower, upper in pairwise(layers)]
    return DbmStatistics(weights, [layer.mean(dim=0) for layer in layers])
