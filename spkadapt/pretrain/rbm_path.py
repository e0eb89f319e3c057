"""The annealing path of an RBM: tempered between a base of independent units and the model itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from spkadapt.errors import InputError
from spkadapt.pretrain.interface import check_frames
from spkadapt.pretrain.units import sample_bernoulli

if TYPE_CHECKING:
    from spkadapt.pretrain.rbm import Rbm


def require_binary_hidden(rbm: Rbm, what: str) -> None:
    """Raise `InputError` where `rbm` has rectified units, which have no probability mass that could be summed."""
    if "rectified" in (rbm.visible, rbm.hidden):
        raise InputError(
            f"{what} is for Bernoulli hidden and Bernoulli or Gaussian visible units; "
            f"found {rbm.hidden} hidden and {rbm.visible} visible units"
        )


class RbmPath:
    """The path of an RBM: base-rate visible units at β = 0, the RBM at β = 1 (Salakhutdinov & Murray 2008).

        log p*_β(v) = (1 − β) φ_base(v) + β φ(v) + Σ_j softplus(β(c_j + W_j(v/σ²)))

    φ the energy's terms in v alone, negated: b·v, or −½Σ(v − b)²/σ² for Gaussian units. At β = 0 the hidden units
    are fair coins. A base close to the data's own moments makes for a short way (`from_frames`).

    Args:
        rbm: Bernoulli hidden units, Bernoulli or Gaussian visible ones.
        base_bias: b of the base (num_visible,); the RBM's own where None.
        base_log_variance: log σ² of the base (num_visible,), for Gaussian units; the RBM's own where None.

    Raises:
        InputError: rectified units.
    """

    def __init__(self, rbm: Rbm, base_bias: Tensor | None = None, base_log_variance: Tensor | None = None) -> None:
        require_binary_hidden(rbm, "annealing")
        self.rbm = rbm
        self.bias = rbm.visible_bias.detach()
        zeros = torch.zeros_like(self.bias)
        self.log_variance = zeros if rbm.log_variance is None else rbm.log_variance.detach()
        self.base_bias = self.bias if base_bias is None else base_bias.to(self.bias)
        self.base_log_variance = (
            self.log_variance if base_log_variance is None else base_log_variance.to(self.bias)
        )

    @classmethod
    def from_frames(cls, rbm: Rbm, frames: Tensor) -> RbmPath:
        """A base with the means (and variances) of `frames (n, num_visible)`.

        Means of Bernoulli units are smoothed by one frame of ½ each, which keeps the base off 0 and 1; variances
        by one of 1.

        Raises:
            InputError: frames that are not finite, or of another dimension.
        """
        check_frames(frames)
        if frames.shape[1] != rbm.weight.shape[1]:
            raise InputError(
                f"frames have {frames.shape[1]} dimensions; this RBM has {rbm.weight.shape[1]} visible units"
            )
        frames, count = frames.double(), len(frames)
        if rbm.visible == "bernoulli":
            return cls(rbm, torch.logit((frames.sum(dim=0) + 0.5) / (count + 1)))
        variance = (frames.var(dim=0, correction=0) * count + 1) / (count + 1)
        return cls(rbm, frames.mean(dim=0), variance.log())

    @property
    def log_base_partition(self) -> Tensor:
        """log Z_0 = num_hidden log 2 + Σ_i softplus(b_i), or ½Σ_i log(2πσ_i²) for its second term; float64."""
        hidden_term = len(self.rbm.hidden_bias) * math.log(2)
        if self.rbm.visible == "bernoulli":
            return hidden_term + F.softplus(self.base_bias.double()).sum()
        return hidden_term + (math.log(2 * math.pi) + self.base_log_variance.double()).sum() / 2

    def sample_base(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Independent samples of the base, (num_samples, num_visible)."""
        fair = self.rbm.hidden_bias.new_full((num_samples, len(self.rbm.hidden_bias)), 0.5)
        return self._sample_visible(fair, 0.0, generator)

    def move(
        self, states: Tensor, beta: float, next_beta: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `ais.AnnealingPath.move`; the transition is v → h → v, each given the other."""
        inputs = self.rbm.hidden_inputs(states)
        log_ratio = (F.softplus(next_beta * inputs) - F.softplus(beta * inputs)).sum(dim=1, dtype=torch.float64)
        log_ratio += (next_beta - beta) * self.tilt(states)
        return log_ratio, self.gibbs(inputs, next_beta, generator)

    def tilt(self, v: Tensor) -> Tensor:
        """φ(v) − φ_base(v), float64 (n,): what β multiplies of the terms in v alone."""
        if self.rbm.visible == "bernoulli":
            return (v * (self.bias - self.base_bias)).sum(dim=1, dtype=torch.float64)
        own = (v - self.bias).square() / self.log_variance.exp()
        base = (v - self.base_bias).square() / self.base_log_variance.exp()
        return (base - own).sum(dim=1, dtype=torch.float64) / 2

    def gibbs(self, inputs: Tensor, beta: float | Tensor, generator: torch.Generator) -> Tensor:
        """New v (n, num_visible) by way of h, under p_β, of states whose `hidden_inputs` are `inputs`.

        Args:
            inputs: (n, num_hidden)
            beta: a number, or one for each state (n, 1).
            generator: on the device of `inputs`.
        """
        h = sample_bernoulli((inputs * beta).sigmoid_(), generator)
        return self._sample_visible(h, beta, generator)

    def _sample_visible(self, h: Tensor, beta: float | Tensor, generator: torch.Generator) -> Tensor:
        inputs = beta * torch.addmm(self.bias, h, self.rbm.weight)
        if self.rbm.visible == "bernoulli":
            return sample_bernoulli((inputs + (1 - beta) * self.base_bias).sigmoid(), generator)
        # Precisions and precision-weighted means mix along the path.
        own, base = beta * self.log_variance.neg().exp(), (1 - beta) * self.base_log_variance.neg().exp()
        weighted = inputs * self.log_variance.neg().exp() + base * self.base_bias
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
        return weighted / (own + base) + noise * (own + base).rsqrt()
