"""Estimates of an RBM's likelihood gradient: what data say minus what the model says.

    ∂ log p(v) / ∂θ = E[∂(−E)/∂θ | v] − E_model[∂(−E)/∂θ]

The second expectation comes from a Markov chain: one that starts at the data (contrastive divergence), one that
is never restarted (persistent), or a ladder of tempered ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.pretrain.rbm_path import RbmPath
from spkadapt.pretrain.units import mean_and_sample

if TYPE_CHECKING:
    from spkadapt.pretrain.rbm import Rbm


class CdGradients(NamedTuple):
    """Estimated gradient of the mean log-likelihood (to ascend), and what else a step measures.

    Attributes:
        weight: (num_hidden, num_visible)
        visible_bias: (num_visible,)
        hidden_bias: (num_hidden,)
        reconstruction_error: scalar, mean over frames and dimensions of (v − E[v | h])², h sampled given v.
        log_variance: (num_visible,); None where the model has no variances to learn.
        hidden_activity: mean over the frames of E[h | v], (num_hidden,).
    """

    weight: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor
    reconstruction_error: Tensor
    log_variance: Tensor | None = None
    hidden_activity: Tensor | None = None


def contrast(rbm: Rbm, v: Tensor, positive: Tensor, chain: Tensor, negative: Tensor, error: Tensor) -> CdGradients:
    """The gradients from statistics of the data and of the model.

    With S = E_data[h vᵀ] − E_model[h vᵀ], and s = σ² = 1 but for Gaussian units with variances of their own
    (Cho, Ilin & Raiko 2011):

        ∂W = S/s,  ∂b = (E_data[v] − E_model[v])/s,  ∂c = E_data[h] − E_model[h],
        ∂ log s = (½E_data[(v − b)²] − ½E_model[(v − b)²] − diag(WᵀS))/s

    Args:
        rbm: the model, in the precision of the rest.
        v: data (n, num_visible).
        positive: E[h | v], (n, num_hidden).
        chain: the model's states (num_chains, num_visible).
        negative: E[h | chain], (num_chains, num_hidden).
        error: the reconstruction error.
    """
    weight = torch.mm(positive.T, v).addmm_(negative.T, chain, beta=1 / len(v), alpha=-1 / len(chain))
    visible_bias, activity = _column_means(v) - _column_means(chain), _column_means(positive)
    hidden_bias = activity - _column_means(negative)
    if rbm.log_variance is None:
        return CdGradients(weight, visible_bias, hidden_bias, error, None, activity)
    precision = rbm.log_variance.neg().exp()
    squares = _column_means((v - rbm.visible_bias).square()) - _column_means((chain - rbm.visible_bias).square())
    log_variance = (squares / 2 - (rbm.weight * weight).sum(dim=0)) * precision
    return CdGradients(weight * precision, visible_bias * precision, hidden_bias, error, log_variance, activity)


class PersistentChains:
    """Persistent CD: Gibbs chains that go on from update to update (Tieleman 2008).

    While the learning rate is small beside the chains' mixing, they sample the model of the moment.

    Args:
        rbm: the model, which may change from call to call.
        states: where the chains start (num_chains, num_visible).
    """

    def __init__(self, rbm: Rbm, states: Tensor) -> None:
        self.rbm, self.states = rbm, states

    @torch.no_grad()
    def gradients(self, v: Tensor, num_steps: int, generator: torch.Generator) -> CdGradients:
        """Advance the chains by `num_steps` Gibbs steps and contrast them with the data `v (n, num_visible)`."""
        rbm = self.rbm
        for _ in range(num_steps):
            self.advance(generator)
        positive, h = mean_and_sample(rbm.hidden, rbm.hidden_inputs(v), generator)
        error = F.mse_loss(rbm.visible_mean(h), v)
        chain = self.model_states()
        return contrast(rbm, v, positive, chain, rbm.hidden_mean(chain), error)

    @torch.no_grad()
    def advance(self, generator: torch.Generator) -> None:
        """One Gibbs step of every chain."""
        self.states = self.rbm.sample_visible(self.rbm.sample_hidden(self.states, generator), generator)

    def model_states(self) -> Tensor:
        """The states that speak for the model (num_chains, num_visible)."""
        return self.states

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"states": self.states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.states = state_dict["states"].to(self.states)


class TemperedChains(PersistentChains):
    """Parallel tempering: persistent chains on a ladder of temperatures that swap states (Desjardins et al. 2010).

    The ladder's rungs are distributions of a path, β falling evenly from 1, the model, to 0, the base, where
    nothing sticks. Neighbours i and j swap with the probability that leaves their product as it is,

        min(1, p_i(v_j) p_j(v_i) / (p_i(v_i) p_j(v_j))),

    h summed out. Even and odd pairs take turns. Where Desjardins et al. scale the whole energy, the path leads to
    the data's base rates: a base far from them would put the modes at odds on the rungs between.

    Args:
        path: of the model, e.g. `RbmPath.from_frames`.
        states: where each ladder starts, on all its rungs (num_chains, num_visible).
        num_temperatures: rungs, at least 2.
    """

    def __init__(self, path: RbmPath, states: Tensor, num_temperatures: int) -> None:
        super().__init__(path.rbm, states.repeat(num_temperatures, 1))
        self.path, self.num_temperatures = path, num_temperatures
        betas = torch.linspace(1, 0, num_temperatures, dtype=states.dtype, device=states.device)
        self.betas = betas.repeat_interleave(len(states))[:, None]
        self._first_of_pairs = 0

    @torch.no_grad()
    def advance(self, generator: torch.Generator) -> None:
        """Swap states, then one Gibbs step of every chain."""
        # The hidden inputs are all that a Gibbs step needs of v.
        inputs = self.rbm.hidden_inputs(self.states)
        inputs = inputs[self._swaps(inputs, generator)]
        self.states = self.path.gibbs(inputs, self.betas, generator)

    def model_states(self) -> Tensor:
        """The states at β = 1, (num_chains, num_visible)."""
        return self.states[: len(self.states) // self.num_temperatures]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes, and the path's base."""
        return {
            "states": self.states,
            "first_of_pairs": self._first_of_pairs,
            "base_bias": self.path.base_bias,
            "base_log_variance": self.path.base_log_variance,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state of chains on the same path."""
        super().load_state_dict(state_dict)
        self._first_of_pairs = state_dict["first_of_pairs"]

    def _swaps(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """For each chain, the number of the one whose state it takes, (num_temperatures · num_chains,)."""
        first = self._first_of_pairs
        self._first_of_pairs = 1 - first
        numbers = torch.arange(len(inputs), device=inputs.device).view(self.num_temperatures, -1)
        num_pairs = (self.num_temperatures - first) // 2
        rungs = slice(first, first + 2 * num_pairs)
        cold, warm = (numbers[rungs][rung::2].flatten() for rung in (0, 1))
        tilt = self.path.tilt(self.states)

        def log_mass(states: Tensor, rungs: Tensor) -> Tensor:
            beta = self.betas[rungs]
            return beta[:, 0] * tilt[states] + F.softplus(beta * inputs[states]).sum(dim=1, dtype=torch.float64)

        log_ratio = log_mass(warm, cold) + log_mass(cold, warm) - log_mass(cold, cold) - log_mass(warm, warm)
        uniform = torch.rand(log_ratio.shape, generator=generator, device=inputs.device, dtype=torch.float64)
        accepted = uniform.log() < log_ratio
        source = numbers.flatten()
        cold_source, warm_source = torch.where(accepted, warm, cold), torch.where(accepted, cold, warm)
        return source.index_copy(0, cold, cold_source).index_copy(0, warm, warm_source)


def _column_means(states: Tensor) -> Tensor:
    """Mean over rows in at least float32: the difference of two means is much smaller than they are."""
    return states.sum(dim=0, dtype=torch.promote_types(states.dtype, torch.float32)).div_(len(states))
