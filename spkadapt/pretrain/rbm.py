"""The restricted Boltzmann machine and contrastive divergence.

Energies, with visible units v, hidden units h ∈ {0, 1}, weights W, visible biases b and hidden biases c:

    Bernoulli visible:  E(v, h) = −bᵀv − cᵀh − hᵀWv
    Gaussian visible:   E(v, h) = ½‖v − b‖² − cᵀh − hᵀWv       (unit variance, for standardised data)

and p(v, h) = exp(−E(v, h)) / Z (Smolensky 1986; Hinton & Salakhutdinov 2006 for Gaussian units).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError, suggest
from spkadapt.pretrain.interface import (
    FrameSource,
    OnEpoch,
    PretrainConfig,
    PretrainProgress,
    as_frame_source,
    draw_seed,
    run_epochs,
)

if TYPE_CHECKING:
    from typing_extensions import Self

VISIBLE_UNITS = ("bernoulli", "gaussian")


@dataclass(frozen=True)
class RbmConfig(PretrainConfig):
    """How an RBM is trained. Defaults follow Hinton's practical guide (2010) unless said otherwise.

    A parameter θ with gradient g moves by Δθ ← momentum · Δθ + learning_rate · g.

    Attributes:
        learning_rate: 0.1 suits Bernoulli visible units (Hinton & Salakhutdinov 2006). Gaussian ones need one
            or two orders of magnitude less (guide, §13.2): nothing bounds a reconstruction.
        num_epochs: passes over the frames.
        batch_size: frames per update (guide, §4: 10 to 100).
        max_frames_per_epoch: a fresh random subset of so many frames is drawn for each epoch; None for all.
        initial_momentum: momentum while the weights still find their direction (guide, §9).
        final_momentum: momentum from then on.
        num_initial_epochs: epochs at `initial_momentum`.
        weight_decay: L2 penalty's coefficient, on weights and not on biases (guide, §10).
        num_gibbs_steps: k of CD-k.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 0.1
    initial_momentum: float = 0.5
    final_momentum: float = 0.9
    num_initial_epochs: int = 5
    weight_decay: float = 2e-4
    num_gibbs_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("initial_momentum", "final_momentum"):
            self.require(field, 0 <= getattr(self, field) < 1, "a number from 0 to below 1")
        self.require("num_initial_epochs", self.num_initial_epochs >= 0, "a whole number of at least 0")
        self.require("weight_decay", self.weight_decay >= 0, "a number of at least 0")
        self.require("num_gibbs_steps", self.num_gibbs_steps >= 1, "a whole number of at least 1")

    def momentum(self, epoch: int) -> float:
        """The momentum in `epoch`, counted from 1."""
        return self.initial_momentum if epoch <= self.num_initial_epochs else self.final_momentum


class CdGradients(NamedTuple):
    """Estimated gradient of the mean log-likelihood (to ascend), and the one-step reconstruction error.

    Attributes:
        weight: (num_hidden, num_visible)
        visible_bias: (num_visible,)
        hidden_bias: (num_hidden,)
        reconstruction_error: scalar, mean over frames and dimensions of (v − E[v | h])², h sampled given v.
    """

    weight: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor
    reconstruction_error: Tensor


class Rbm(nn.Module):
    """A restricted Boltzmann machine with Bernoulli hidden units.

    Args:
        num_visible: visible units.
        num_hidden: hidden units.
        visible: "bernoulli" (values in [0, 1]) or "gaussian" (real values, unit variance: standardise them).
        generator: draws the weights, N(0, 0.01²) (Hinton 2010, §8); torch's global one where None.

    Attributes:
        weight: (num_hidden, num_visible)
        visible_bias: (num_visible,)
        hidden_bias: (num_hidden,)
        history: one `PretrainProgress` per epoch of `fit`.

    Raises:
        InputError: no units, or unknown visible units.
    """

    def __init__(
        self,
        num_visible: int,
        num_hidden: int,
        visible: str = "bernoulli",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(num_visible, num_hidden) < 1:
            raise InputError(f"an RBM needs units on both sides; found {num_visible} visible, {num_hidden} hidden")
        if visible not in VISIBLE_UNITS:
            raise InputError(f'unknown visible units "{visible}"; {suggest(visible, VISIBLE_UNITS)}')
        self.visible = visible
        self.weight = nn.Parameter(0.01 * torch.randn(num_hidden, num_visible, generator=generator))
        self.visible_bias = nn.Parameter(torch.zeros(num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))
        self.history: list[PretrainProgress] = []

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = −log Σ_h exp(−E(v, h)), shape (n,), of `v (n, num_visible)`; differentiable.

        Bernoulli: −bᵀv − Σ_j softplus(c_j + W_j v); Gaussian: ½‖v − b‖² − Σ_j softplus(c_j + W_j v).
        """
        hidden_term = F.softplus(F.linear(v, self.weight, self.hidden_bias)).sum(dim=1)
        if self.visible == "gaussian":
            return (v - self.visible_bias).square().sum(dim=1) / 2 - hidden_term
        return -(v @ self.visible_bias) - hidden_term

    def hidden_probabilities(self, v: Tensor) -> Tensor:
        """P(h_j = 1 | v) = σ(c_j + W_j v), shape (n, num_hidden), of `v (n, num_visible)`."""
        return F.linear(v, self.weight, self.hidden_bias).sigmoid_()

    def sample_hidden(self, v: Tensor, generator: torch.Generator) -> Tensor:
        """A sample h ~ P(h | v), zeros and ones (n, num_hidden), drawn for each row of `v` on its own."""
        return _bernoulli(self.hidden_probabilities(v), generator)

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[v | h], (n, num_visible), of `h (n, num_hidden)`: σ(b + Wᵀh) if Bernoulli, b + Wᵀh if Gaussian."""
        mean = torch.addmm(self.visible_bias, h, self.weight)
        return mean.sigmoid_() if self.visible == "bernoulli" else mean

    def sample_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """A sample v ~ p(v | h), (n, num_visible), drawn for each row of `h` on its own."""
        return self._sample_around(self.visible_mean(h), generator)

    @torch.no_grad()
    def contrastive_divergence(self, v: Tensor, num_steps: int, generator: torch.Generator) -> CdGradients:
        """CD-k: the gradient estimated from `num_steps` of Gibbs sampling started at the data (Hinton 2002).

        The mean over the batch of ∂(−E)/∂θ at the data minus that after k steps. Both hidden statistics are
        probabilities, whose expectation is that of samples with less noise; the chain itself is sampled on
        both sides, each row with noise of its own, so that the estimate tends to the gradient of the
        log-likelihood as k grows.

        Args:
            v: data (n, num_visible).
            num_steps: k, at least 1.
            generator: on the device of `v`.

        Raises:
            InputError: no step.
        """
        if num_steps < 1:
            raise InputError(f"num_steps is {num_steps}; contrastive divergence takes at least 1")
        positive = self.hidden_probabilities(v)
        h = _bernoulli(positive, generator)
        chain = self.visible_mean(h)
        error = F.mse_loss(chain, v)
        chain = self._sample_around(chain, generator)
        negative = self.hidden_probabilities(chain)
        for _ in range(num_steps - 1):
            chain = self.sample_visible(_bernoulli(negative, generator), generator)
            negative = self.hidden_probabilities(chain)
        scale = 1 / len(v)
        weight = torch.mm(positive.T, v).addmm_(negative.T, chain, beta=scale, alpha=-scale)
        visible_bias = (v.sum(dim=0) - chain.sum(dim=0)).mul_(scale)
        hidden_bias = (positive.sum(dim=0) - negative.sum(dim=0)).mul_(scale)
        return CdGradients(weight, visible_bias, hidden_bias, error)

    def fit(
        self,
        frames: Tensor | FrameSource,
        config: RbmConfig,
        *,
        seed: int,
        layer: int = 1,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Train on from the present weights with CD-k; moves to the frames' device and precision.

        Args:
            frames: (n, num_visible); in [0, 1] for Bernoulli units, standardised for Gaussian ones.
            config: how to train.
            seed: of the order of the frames and of the sampling.
            layer: the number that progress and errors name.
            on_epoch: called after each epoch.

        Raises:
            InputError: frames that are not finite, of another dimension, or (a tensor's) outside the units' range.
            DivergenceError: the training diverged.
        """
        source = as_frame_source(frames)
        if source.dim != self.weight.shape[1]:
            raise InputError(
                f"frames have {source.dim} dimensions; this RBM has {self.weight.shape[1]} visible units"
            )
        if self.visible == "bernoulli" and isinstance(frames, Tensor):
            _check_unit_interval(frames)
        self.to(source.take(torch.tensor([0])))
        order = torch.Generator().manual_seed(seed)
        noise = torch.Generator(self.weight.device).manual_seed(draw_seed(order))
        ascent = self._ascent(config)

        def step(v: Tensor, epoch: int) -> dict[str, Tensor]:
            gradients = self.contrastive_divergence(v, config.num_gibbs_steps, noise)
            self.weight.grad, self.visible_bias.grad, self.hidden_bias.grad = gradients[:3]
            for group in ascent.param_groups:
                group["momentum"] = config.momentum(epoch)
            ascent.step()
            return {"reconstruction_error": gradients.reconstruction_error}

        self.history = run_epochs(source, step, config, order, layer=layer, on_epoch=on_epoch)
        self.zero_grad()
        return self

    def _ascent(self, config: RbmConfig) -> torch.optim.SGD:
        """Gradient ascent with momentum; only the weights decay."""
        groups: list[dict[str, Any]] = [
            {"params": [self.weight], "weight_decay": config.weight_decay},
            {"params": [self.visible_bias, self.hidden_bias]},
        ]
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum(1), maximize=True, fused=True
        )

    def _sample_around(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        if self.visible == "bernoulli":
            return _bernoulli(mean, generator)
        return torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype).add_(mean)


def _bernoulli(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Zeros and ones with P(1) = `probabilities`; on CPU four times as fast as `torch.bernoulli`."""
    uniform = torch.rand(
        probabilities.shape, generator=generator, device=probabilities.device, dtype=probabilities.dtype
    )
    return uniform.lt_(probabilities)


def _check_unit_interval(frames: Tensor) -> None:
    low, high = (extreme.item() for extreme in frames.aminmax())
    if low < 0 or high > 1:
        raise InputError(
            f"Bernoulli visible units take values in [0, 1]; found {low:.4g} to {high:.4g} "
            '(for standardised real frames choose visible="gaussian")'
        )
