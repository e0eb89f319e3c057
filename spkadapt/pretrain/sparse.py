"""Stacked sparse coding: dictionaries learnt online, codes by FISTA."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkadapt.errors import InputError
from spkadapt.pretrain.fista import largest_eigenvalue
from spkadapt.pretrain.sparse_stack import SparseConfig, SparseLayer, SparseStack

# Steps on the atoms for each mini-batch, all of them matrix products.
NUM_ATOM_STEPS = 3


class SparseCoding(SparseLayer):
    """One layer with a dictionary of its own: x ≈ Σ_j z_j d_j, ‖d_j‖ = 1.

    Args:
        num_visible: dimensions of x.
        num_atoms: codes, m; more than dimensions make the dictionary overcomplete.
        penalty: λ.
        num_iterations: steps of FISTA.
        nonnegative: whether z ≥ 0.

    Attributes:
        dictionary: the atoms (num_atoms, num_visible), d_j in row j.
        code_moments: A, the running mean of zzᵀ, (num_atoms, num_atoms).
        cross_moments: B, the running mean of zxᵀ, (num_atoms, num_visible).

    Raises:
        InputError: an empty dimension, a penalty that is not above 0, or no iteration.
    """

    code_moments: Tensor
    cross_moments: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_visible: int,
        num_atoms: int,
        penalty: float = SparseConfig.penalty,
        num_iterations: int = SparseConfig.num_iterations,
        *,
        nonnegative: bool = True,
    ) -> None:
        super().__init__(num_visible, num_atoms, penalty, num_iterations, nonnegative=nonnegative)
        self.dictionary = nn.Parameter(torch.eye(num_atoms, num_visible), requires_grad=False)
        self.register_buffer("code_moments", torch.zeros(num_atoms, num_atoms))
        self.register_buffer("cross_moments", torch.zeros(num_atoms, num_visible))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_hidden_layer(
        cls,
        linear: nn.Linear,
        penalty: float = SparseConfig.penalty,
        num_iterations: int = SparseConfig.num_iterations,
    ) -> SparseCoding:
        """The layer whose atoms point where the units of a frame network's `linear` do.

        d_j = w_j / ‖w_j‖. The biases are not taken over: λ is one number, and a unit's bias its own.

        Raises:
            InputError: a unit whose weights are all zero, or not finite.
        """
        norms = linear.weight.detach().norm(dim=1)
        bad = torch.nonzero(~((norms > 0) & norms.isfinite()))
        if len(bad):
            unit = int(bad[0])
            raise InputError(f"the weights of unit {unit} have norm {norms[unit]:g}; an atom needs a direction")
        layer = cls(linear.in_features, linear.out_features, penalty, num_iterations).to(linear.weight)
        layer.dictionary.copy_(linear.weight.detach() / norms[:, None])
        return layer

    @torch.no_grad()
    def start_from(self, examples: Tensor, generator: torch.Generator) -> None:
        """Set the atoms to `examples (m, num_visible)` with a tenth of noise; see `SparseLayer.start_from`."""
        atoms = torch.randn(self.num_codes, self.num_visible, generator=generator).to(self.dictionary) / 10
        atoms[: len(examples)] += examples
        self.dictionary.copy_(F.normalize(atoms, dim=1))

    def correlate(self, x: Tensor) -> Tensor:
        """Dᵀx, (n, num_atoms), of `x (n, num_visible)`."""
        return x @ self.dictionary.T

    def decode(self, codes: Tensor) -> Tensor:
        """Dz, (n, num_visible), of `codes (n, num_atoms)`."""
        return codes @ self.dictionary

    def gram(self) -> tuple[Callable[[Tensor], Tensor], float]:
        """z → DᵀDz through the matrix DᵀD, and the bound on its eigenvalues by the power method."""
        atoms = self.dictionary
        inner = atoms @ atoms.T
        # DᵀD and DDᵀ have the same eigenvalues but for zeros.
        smaller = inner if self.num_codes <= self.num_visible else atoms.T @ atoms
        return lambda codes: codes @ inner, largest_eigenvalue(smaller)

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor, weight: float) -> None:
        """Mairal et al.'s (2009) online step, with all atoms at once.

        With w = max(1/t, weight) at the t-th update, A ← (1 − w)A + w·mean zzᵀ and B likewise of zxᵀ, and then

            d_j ← normalise(d_j − (AD − B)_j / r_j),    r_j = Σ_k |A_jk|

        where row j of D is d_j. diag(r) − A is diagonally dominant and so positive semi-definite: the step
        minimises a quadratic that lies above ½ tr(DᵀAD) − tr(DᵀB) and touches it, over atoms of norm 1, and
        lowers it. Their descent of one atom after the other has 1/A_jj for 1/r_j and needs a loop over atoms.
        """
        self.num_updates += 1
        weight = max(1 / int(self.num_updates), weight)
        self.code_moments.lerp_(codes.T @ codes / len(x), weight)
        self.cross_moments.lerp_(codes.T @ x / len(x), weight)
        curvature = self.code_moments.abs().sum(dim=1, keepdim=True)
        inverse = torch.where(curvature > 0, 1 / curvature, 0)  # an atom that was never used stays where it is
        for _ in range(NUM_ATOM_STEPS):
            descent = self.cross_moments - self.code_moments @ self.dictionary
            self.dictionary.copy_(F.normalize(self.dictionary + descent * inverse, dim=1))


class StackedSparseCoding(SparseStack):
    """Layers of `SparseCoding`, whose dictionaries become the weights of a rectifier network; see `SparseStack`.

    Args:
        hidden_dims: atoms of each layer, bottom first.
        activation: "relu": that, with a bias of −λ, is the first step towards a non-negative code. A sigmoid has
            no threshold and so no code that is exactly zero; what it would hand to the next layer is nothing like
            what that was trained on.
        config: how to train.

    Raises:
        InputError: no layer, an empty layer, or another activation.
    """

    def __init__(self, hidden_dims: Sequence[int], activation: str, config: SparseConfig) -> None:
        super().__init__(tuple(hidden_dims), activation, config)
        if activation != "relu":
            raise InputError(
                f'sparse coding makes rectified units, activation "relu"; found "{activation}" '
                '(choose "dae", "dbn" or "vae" to pretrain such a network)'
            )

    def _build_layer(self, layer: int, num_visible: int) -> SparseCoding:
        config = self.config
        return SparseCoding(num_visible, self.hidden_dims[layer - 1], config.penalty, config.num_iterations)
