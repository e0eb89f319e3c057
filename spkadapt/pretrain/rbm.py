"""The restricted Boltzmann machine.

Energies, with visible units v, hidden units h, weights W, visible biases b and hidden biases c:

    Bernoulli visible:  E(v, h) = −bᵀv − cᵀh − hᵀWv
    Gaussian visible:   E(v, h) = Σ_i (v_i − b_i)²/(2σ_i²) − cᵀh − hᵀW(v/σ²)
    rectified visible:  E(v, h) = ½‖v‖² − bᵀv − cᵀh − hᵀWv,  v ≥ 0

and p(v, h) = exp(−E(v, h)) / Z (Smolensky 1986; Hinton & Salakhutdinov 2006 for Gaussian units with σ = 1, for
standardised data; Cho, Ilin & Raiko 2011 for learned variances; Nair & Hinton 2010 for rectified units, whose
sampling approximates a model of infinitely many binary copies).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.checkpoint import Checkpoint
from spkadapt.pretrain.interface import FrameSource, OnEpoch, PretrainProgress, linear_from
from spkadapt.pretrain.rbm_gradients import CdGradients, contrast
from spkadapt.pretrain.rbm_training import RbmConfig, train_rbm
from spkadapt.pretrain.units import HIDDEN_UNITS, VISIBLE_UNITS, log_normaliser, mean_and_sample, unit_mean

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CdGradients", "Rbm", "RbmConfig"]


class Rbm(nn.Module):
    """A restricted Boltzmann machine.

    Args:
        num_visible: visible units.
        num_hidden: hidden units.
        visible: "bernoulli" (values in [0, 1]), "gaussian" (real values) or "rectified" (values ≥ 0).
        hidden: "bernoulli" or "rectified".
        learn_variances: Gaussian visible units have variances of their own, 1 at first; else all stay 1, which
            suits standardised frames.
        generator: draws the weights, N(0, 0.01²) (Hinton 2010, §8); torch's global one where None.

    Attributes:
        weight: (num_hidden, num_visible)
        visible_bias: (num_visible,)
        hidden_bias: (num_hidden,)
        log_variance: log σ², (num_visible,); None unless variances are learned.
        history: one `PretrainProgress` per epoch of `fit`.

    Raises:
        InputError: no units, unknown units, or variances of units that have none.
    """

    def __init__(
        self,
        num_visible: int,
        num_hidden: int,
        visible: str = "bernoulli",
        hidden: str = "bernoulli",
        *,
        learn_variances: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(num_visible, num_hidden) < 1:
            raise InputError(f"an RBM needs units on both sides; found {num_visible} visible, {num_hidden} hidden")
        if visible not in VISIBLE_UNITS:
            raise InputError(f'unknown visible units "{visible}"; {suggest(visible, VISIBLE_UNITS)}')
        if hidden not in HIDDEN_UNITS:
            raise InputError(f'unknown hidden units "{hidden}"; {suggest(hidden, HIDDEN_UNITS)}')
        if learn_variances and visible != "gaussian":
            raise InputError(f'learn_variances needs visible="gaussian"; {visible} units have no variances')
        self.visible, self.hidden = visible, hidden
        self.weight = nn.Parameter(0.01 * torch.randn(num_hidden, num_visible, generator=generator))
        self.visible_bias = nn.Parameter(torch.zeros(num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))
        self.log_variance = nn.Parameter(torch.zeros(num_visible)) if learn_variances else None
        self.history: list[PretrainProgress] = []

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = −log Σ_h exp(−E(v, h)), shape (n,), of `v (n, num_visible)`; differentiable.

        The energy's terms in v alone, less Σ_j A(c_j + W_j(v/σ²)): A = softplus for Bernoulli hidden units; for
        rectified ones that of the binary copies they stand for (`units.log_normaliser`).
        """
        return self.visible_energy(v) - log_normaliser(self.hidden, self.hidden_inputs(v)).sum(dim=1)

    def visible_energy(self, v: Tensor) -> Tensor:
        """The energy's terms in `v (n, num_visible)` alone, shape (n,); differentiable."""
        if self.visible == "gaussian":
            squares = (v - self.visible_bias).square()
            return (squares if self.log_variance is None else squares * self.log_variance.neg().exp()).sum(
                dim=1
            ) / 2
        own = v.square().sum(dim=1) / 2 if self.visible == "rectified" else 0
        return own - v @ self.visible_bias

    def hidden_inputs(self, v: Tensor) -> Tensor:
        """c + W(v/σ²), shape (n, num_hidden), of `v (n, num_visible)`."""
        if self.log_variance is not None:
            v = v * self.log_variance.neg().exp()
        return F.linear(v, self.weight, self.hidden_bias)

    def hidden_mean(self, v: Tensor) -> Tensor:
        """E[h | v], shape (n, num_hidden), of `v (n, num_visible)`."""
        return unit_mean(self.hidden, self.hidden_inputs(v))

    def hidden_probabilities(self, v: Tensor) -> Tensor:
        """P(h_j = 1 | v) = σ(c_j + W_j(v/σ²)) of Bernoulli hidden units: `hidden_mean` by its usual name."""
        return self.hidden_mean(v)

    def sample_hidden(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """A sample h ~ P(h | v), (n, num_hidden), drawn for each row of `v` on its own."""
        return self._hidden_mean_and_sample(v, generator)[1]

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[v | h], (n, num_visible), of `h (n, num_hidden)`: σ(b + Wᵀh) if Bernoulli, b + Wᵀh if Gaussian."""
        return unit_mean(self.visible, torch.addmm(self.visible_bias, h, self.weight))

    def sample_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """A sample v ~ p(v | h), (n, num_visible), drawn for each row of `h` on its own."""
        return self._visible_mean_and_sample(h, generator)[1]

    @torch.no_grad()
    def contrastive_divergence(self, v: Tensor, num_steps: int, generator: torch.Generator) -> CdGradients:
        """CD-k: the gradient estimated from `num_steps` of Gibbs sampling started at the data (Hinton 2002).

        The mean over the batch of ∂(−E)/∂θ at the data minus that after k steps. Both hidden statistics are
        means, whose expectation is that of samples with less noise; the chain itself is sampled on both sides,
        each row with noise of its own, so that the estimate tends to the gradient of the log-likelihood as k
        grows.

        Args:
            v: data (n, num_visible).
            num_steps: k, at least 1.
            generator: on the device of `v`.

        Raises:
            InputError: no step.
        """
        if num_steps < 1:
            raise InputError(f"num_steps is {num_steps}; contrastive divergence takes at least 1")
        positive, h = self._hidden_mean_and_sample(v, generator)
        mean, chain = self._visible_mean_and_sample(h, generator)
        error = F.mse_loss(mean, v)
        for _ in range(num_steps - 1):
            chain = self.sample_visible(self.sample_hidden(chain, generator), generator)
        return contrast(self, v, positive, chain, self.hidden_mean(chain), error)

    def fit(
        self,
        frames: Tensor | FrameSource,
        config: RbmConfig,
        *,
        seed: int,
        layer: int = 1,
        held_out: Tensor | None = None,
        on_epoch: OnEpoch | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Train on from the present weights; moves to the frames' device and precision.

        Args:
            frames: (n, num_visible); in [0, 1] for Bernoulli units, standardised for Gaussian ones.
            config: how to train.
            seed: of the order of the frames and of the sampling.
            layer: the number that progress and errors name.
            held_out: frames that are not trained on (n', num_visible). Each epoch then reports
                "free_energy_gap", from which `overfitting_since` tells overfitting. They change no weight.
            on_epoch: called after each epoch.
            checkpoint: this training is its next phase.

        Raises:
            InputError: frames that are not finite, of another dimension, or (a tensor's) outside the units' range;
                a configuration that these units cannot have.
            DivergenceError: the training diverged.
        """
        self.history = train_rbm(
            self,
            frames,
            config,
            seed=seed,
            layer=layer,
            held_out=held_out,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        return self

    def hidden_layer(self) -> nn.Linear:
        """A linear layer of `hidden_inputs`: weights W/σ² and biases c, copied."""
        weight = self.weight.detach()
        if self.log_variance is not None:
            weight = weight * self.log_variance.detach().neg().exp()
        return linear_from(weight, self.hidden_bias)

    def _hidden_mean_and_sample(self, v: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return mean_and_sample(self.hidden, self.hidden_inputs(v), generator)

    def _visible_mean_and_sample(self, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs = torch.addmm(self.visible_bias, h, self.weight)
        deviation = None if self.log_variance is None else (self.log_variance / 2).exp()
        return mean_and_sample(self.visible, inputs, generator, deviation)
