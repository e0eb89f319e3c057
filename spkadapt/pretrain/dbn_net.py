"""The deep belief network as a model: directed layers below an associative memory, and a recogniser beside them.

    p(v, h₁, …, h_{L−1}) = p(v | h₁) p(h₁ | h₂) ⋯ p_top(h_{L−1})
    q(h₁, …, h_{L−1} | v) = q(h₁ | v) q(h₂ | h₁) ⋯ q(h_{L−1} | h_{L−2})

p_top is the marginal of the top RBM, whose hidden units h_L are summed in closed form (Hinton, Osindero & Teh
2006). Greedy training leaves the weights of p and q tied; up-down training unties them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.interface import linear_from
from spkadapt.pretrain.rbm import Rbm
from spkadapt.pretrain.rbm_path import require_binary_hidden
from spkadapt.pretrain.units import mean_and_sample, unit_mean


class DirectedLayer(nn.Module):
    """p(y | x) of units y that are independent given x, with the mean σ(a + Ux) or, Gaussian, a + Ux.

    Args:
        weight: U (num_outputs, num_inputs), copied.
        bias: a (num_outputs,), copied.
        kind: "bernoulli" or "gaussian".
        log_variance: log σ² of Gaussian units (num_outputs,), copied; variances that stay 1 where None.
    """

    def __init__(self, weight: Tensor, bias: Tensor, kind: str, log_variance: Tensor | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.log_variance = None if log_variance is None else nn.Parameter(log_variance.detach().clone())

    def mean(self, x: Tensor) -> Tensor:
        """E[y | x], (n, num_outputs), of `x (n, num_inputs)`."""
        return unit_mean(self.kind, self._inputs(x))

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """y ~ p(y | x), (n, num_outputs), drawn for each row of `x` on its own."""
        deviation = None if self.log_variance is None else (self.log_variance / 2).exp()
        return mean_and_sample(self.kind, self._inputs(x), generator, deviation)[1]

    def log_probability(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x), (n,), of `y (n, num_outputs)` and `x (n, num_inputs)`; differentiable."""
        natural, normaliser = self._natural(x)
        return (y * natural).sum(dim=1) - normaliser + self._base_measure(y)

    def log_probabilities(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y_i | x_j) of all pairs, (n, m), of `y (n, num_outputs)`, `x (m, num_inputs)`; differentiable."""
        natural, normaliser = self._natural(x)
        return y @ natural.T - normaliser + self._base_measure(y)[:, None]

    def gradients(self, y: Tensor, x: Tensor) -> list[Tensor]:
        """Of the mean over rows of log p(y | x), to ascend, in the order of `parameters()`: the delta rule.

        With e = (y − E[y | x])/σ²: ∂U = mean(e xᵀ), ∂a = mean(e), ∂ log σ² = ½ mean(σ²e² − 1).
        """
        error = y - self.mean(x)
        if self.log_variance is None:
            return [(error.T @ x).div_(len(x)), error.mean(dim=0)]
        scaled = error * self.log_variance.neg().exp()
        return [(scaled.T @ x).div_(len(x)), scaled.mean(dim=0), ((error * scaled).mean(dim=0) - 1) / 2]

    def _inputs(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _natural(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of log p(y | x) = yᵀη(x) − A(x) + base(y): η (n, num_outputs) and A (n,)."""
        inputs = self._inputs(x)
        if self.kind == "bernoulli":
            return inputs, F.softplus(inputs).sum(dim=1)
        natural = inputs if self.log_variance is None else inputs * self.log_variance.neg().exp()
        return natural, (inputs * natural).sum(dim=1) / 2

    def _base_measure(self, y: Tensor) -> Tensor:
        if self.kind == "bernoulli":
            return y.new_zeros(len(y))
        log_variance = torch.zeros_like(self.bias) if self.log_variance is None else self.log_variance
        return -(y.square() * log_variance.neg().exp() + log_variance + math.log(2 * math.pi)).sum(dim=1) / 2


class DeepBeliefNet(nn.Module):
    """A deep belief network of L hidden layers with its recognition network.

    Args:
        rbms: a greedy stack, bottom first, from which all weights are copied. Its L-th is the top RBM; each below
            becomes a generative layer with its weights and a recognition layer with their transpose.

    Attributes:
        recognition: q(h_k | h_{k−1}), k = 1 … L − 1.
        generative: p(h_{k−1} | h_k), k = 1 … L − 1, h₀ = v.
        top: the RBM between h_{L−1} and h_L; the whole model where L = 1.

    Raises:
        InputError: no RBM, rectified units, real-valued units above the bottom, or layers that do not fit.
    """

    def __init__(self, rbms: Sequence[Rbm]) -> None:
        super().__init__()
        _check_stack(rbms)
        *lower, top = rbms
        self.recognition = [_recogniser(rbm) for rbm in lower]
        self.generative = [
            DirectedLayer(rbm.weight.T, rbm.visible_bias, rbm.visible, rbm.log_variance) for rbm in lower
        ]
        self._layers = nn.ModuleList([*self.recognition, *self.generative])
        self.top = copy.deepcopy(top)

    @torch.no_grad()
    def recognise(self, v: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The up-pass: v and samples of q(h₁, …, h_{L−1} | v), each (n, units), bottom first."""
        states = [v]
        for layer in self.recognition:
            states.append(layer.sample(states[-1], generator))
        return states

    @torch.no_grad()
    def generate(self, top_states: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The down-pass: samples of p(v, h₁, …, h_{L−2} | h_{L−1}) and `top_states` h_{L−1}, bottom first."""
        states = [top_states]
        for layer in reversed(self.generative):
            states.insert(0, layer.sample(states[0], generator))
        return states

    @torch.no_grad()
    def sample(self, num_samples: int, *, num_gibbs_steps: int = 1000, seed: int) -> Tensor:
        """Samples v (num_samples, dim): a Gibbs chain each in the top RBM, then one pass down.

        Args:
            num_samples: independent chains, which start from the top RBM's visible biases alone.
            num_gibbs_steps: after which the chains stand for the RBM; 1000 in Hinton, Osindero & Teh (2006).
            seed: of the sampling.

        Raises:
            InputError: no sample or no step.
        """
        if min(num_samples, num_gibbs_steps) < 1:
            raise InputError(
                f"found {num_samples} samples and {num_gibbs_steps} Gibbs steps; expected at least 1 of each"
            )
        generator = torch.Generator(self.top.weight.device).manual_seed(seed)
        nothing = self.top.hidden_bias.new_zeros(num_samples, len(self.top.hidden_bias))
        states = self.top.sample_visible(nothing, generator)
        for _ in range(num_gibbs_steps):
            states = self.top.sample_visible(self.top.sample_hidden(states, generator), generator)
        return self.generate(states, generator)[0]

    def hidden_layers(self) -> list[nn.Linear]:
        """Copies of the recognition network's layers and the top RBM's, bottom first."""
        return [linear_from(layer.weight, layer.bias) for layer in self.recognition] + [self.top.hidden_layer()]


def _recogniser(rbm: Rbm) -> DirectedLayer:
    linear = rbm.hidden_layer()
    return DirectedLayer(linear.weight, linear.bias, "bernoulli")


def _check_stack(rbms: Sequence[Rbm]) -> None:
    if not rbms:
        raise InputError("a deep belief network needs at least one RBM; found none")
    for number, rbm in enumerate(rbms, start=1):
        require_binary_hidden(rbm, f"layer {number} of a deep belief network")
        if number == 1:
            continue
        below = len(rbms[number - 2].hidden_bias)
        if rbm.visible != "bernoulli" or len(rbm.visible_bias) != below:
            raise InputError(
                f"the RBM of layer {number} has {len(rbm.visible_bias)} {rbm.visible} visible units; expected "
                f"{below} bernoulli ones, as the hidden units below"
            )
