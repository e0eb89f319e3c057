"""Layer-wise initialisation of a deep Boltzmann machine: RBMs that make up for the neighbour each lacks.

Within the machine an inner layer hears both neighbours, in its RBM only one. So each RBM is trained with two
copies, tied to the same weights, of the side that an inner layer hears: the bottom one with two of v, the top one
with two of h_L, those between with two of both (Salakhutdinov & Hinton 2009, §3.1):

    bottom:   P(h₁ = 1 | v, v) = σ(c₁ + 2W₁v),            E[v | h₁] = σ(b₁ + W₁ᵀh₁)
    between:  P(h_k = 1 | h_{k−1}) = σ(c_k + 2W_k h_{k−1}), E[h_{k−1} | h_k] = σ(b_k + 2W_kᵀh_k)
    top:      P(h_L = 1 | h_{L−1}) = σ(c_L + W_L h_{L−1}),  E[h_{L−1} | h_L, h_L] = σ(b_L + 2W_Lᵀh_L)

The machine takes the weights as they are. Of an inner layer it hears ½(c_k + 2W_k h_{k−1}) + ½(b_{k+1} +
2W_{k+1}ᵀh_{k+1}): its bias is the mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from spkadapt.pretrain.dbm_net import DeepBoltzmannMachine
from spkadapt.pretrain.rbm import Rbm


class CopiedRbm(Rbm):
    """An RBM with several copies of a side, tied to the same weights and biases.

    A side's state is the mean over its copies, which is all that the other side hears of them. The gradients are
    those of one copy: of the likelihood's, the weights' over both numbers of copies, a bias's over its own.

    Args:
        num_visible: units of one copy.
        num_hidden: units of one copy.
        visible: "bernoulli" or "gaussian".
        visible_copies: of the visible side.
        hidden_copies: of the hidden side, of Bernoulli units.
        generator: draws the weights, as in `Rbm`.
    """

    def __init__(
        self,
        num_visible: int,
        num_hidden: int,
        visible: str = "bernoulli",
        *,
        visible_copies: int = 1,
        hidden_copies: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_visible, num_hidden, visible, generator=generator)
        self.visible_copies, self.hidden_copies = visible_copies, hidden_copies

    def free_energy(self, v: Tensor) -> Tensor:
        """F of frames whose copies are all `v (n, num_visible)`; differentiable."""
        energy = self.visible_energy(v)
        return self.visible_copies * energy + self.hidden_copies * (super().free_energy(v) - energy)

    def hidden_inputs(self, v: Tensor) -> Tensor:
        """c + visible_copies · Wv, shape (n, num_hidden)."""
        return super().hidden_inputs(self.visible_copies * v)

    def hidden_layer(self) -> nn.Linear:
        """A linear layer of `hidden_inputs`, copied."""
        linear = super().hidden_layer()
        with torch.no_grad():
            linear.weight.mul_(self.visible_copies)
        return linear

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[v | h], (n, num_visible), of `h (n, num_hidden)`; the units hear b + hidden_copies · Wᵀh."""
        return super().visible_mean(self.hidden_copies * h)

    def _hidden_mean_and_sample(self, v: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, sample = super()._hidden_mean_and_sample(v.repeat(self.hidden_copies, 1), generator)
        return mean[: len(v)], sample.view(self.hidden_copies, *mean[: len(v)].shape).mean(dim=0)

    def _visible_mean_and_sample(self, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        copies = (self.hidden_copies * h).repeat(self.visible_copies, 1)
        mean, sample = super()._visible_mean_and_sample(copies, generator)
        return mean[: len(h)], sample.view(self.visible_copies, *mean[: len(h)].shape).mean(dim=0)


def build_copied_rbms(
    dims: Sequence[int], visible: str, generator: torch.Generator | None = None
) -> list[CopiedRbm]:
    """An untrained RBM for each pair of neighbours in `dims` (the visible layer first), bottom first.

    The only RBM of a machine with one hidden layer lacks nothing: it is an ordinary one.
    """
    top = len(dims) - 2
    return [
        CopiedRbm(
            lower,
            upper,
            visible if k == 0 else "bernoulli",
            visible_copies=1 if k == top else 2,
            hidden_copies=1 if k == 0 else 2,
            generator=generator,
        )
        for k, (lower, upper) in enumerate(pairwise(dims))
    ]


@torch.no_grad()
def compose(rbms: Sequence[CopiedRbm]) -> DeepBoltzmannMachine:
    """The deep Boltzmann machine that `rbms`, as `build_copied_rbms` has them, initialise; all copied."""
    dims = [len(rbms[0].visible_bias), *(len(rbm.hidden_bias) for rbm in rbms)]
    dbm = DeepBoltzmannMachine(dims, rbms[0].visible, generator=torch.Generator()).to(rbms[0].weight)
    inner = [(lower.hidden_bias + upper.visible_bias) / 2 for lower, upper in pairwise(rbms)]
    for bias, value in zip(dbm.biases, [rbms[0].visible_bias, *inner, rbms[-1].hidden_bias], strict=True):
        bias.copy_(value)
    for weight, rbm in zip(dbm.weights, rbms, strict=True):
        weight.copy_(rbm.weight)
    return dbm
