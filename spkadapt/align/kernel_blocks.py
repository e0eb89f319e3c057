"""Weighted sums of a kernel over all pairs of rows, and their gradient, in blocks: memory linear in the rows.

What MMD, the energy distance, moment matching and the class-conditional and joint discrepancies have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from spkadapt.align.first_order import attach_gradient, needs_gradient

BLOCK_ROWS = 1024
"""Rows of one block of the kernel matrix; at most a few blocks of this size squared are held at a time."""

PairWeights = Callable[[slice, slice], float | Tensor]
"""Two blocks of rows → the weight of each of their pairs, a number or `(num_first, num_second)`; symmetric."""


@dataclass(frozen=True)
class PairKernel:
    """A kernel of pairs of rows that depends on one number of each pair.

    Attributes:
        function: that number `(num_left, num_right)` → the kernel and its derivative in it, of the same shape.
        of_products: the number is ⟨x, y⟩; otherwise ‖x − y‖².
    """

    function: Callable[[Tensor], tuple[Tensor, Tensor]]
    of_products: bool = False

    def of_blocks(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Kernel and derivative of every row of `left` with every row of `right`."""
        return self.function(left @ right.T if self.of_products else squared_distances(left, right))

    def add_gradient(self, gradient: Tensor, first: slice, left: Tensor, right: Tensor, slope: Tensor) -> None:
        """Add Σ_j w_ij ∂k(x_i, x_j)/∂x_i, twice for the mirrored pair, to rows `first`; `slope` is w · k'."""
        if self.of_products:
            gradient[first].addmm_(slope, right, alpha=2)
        else:
            gradient[first] += 4 * (slope.sum(dim=1, keepdim=True) * left - slope @ right)


def gaussian_mixture(bandwidths: Tensor) -> PairKernel:
    """k(x, y) = mean over γ of exp(−‖x − y‖² / γ), of bandwidths `(num_kernels,)`."""

    def function(distances: Tensor) -> tuple[Tensor, Tensor]:
        kernel, slope = torch.zeros_like(distances), torch.zeros_like(distances)
        term = torch.empty_like(distances)
        for rate in (-1 / bandwidths).unbind():
            torch.mul(distances, rate, out=term).exp_()
            kernel += term
            slope.addcmul_(term, rate)
        return kernel.div_(len(bandwidths)), slope.div_(len(bandwidths))

    return PairKernel(function)


def polynomial(degree: int, scale: float, offset: float) -> PairKernel:
    """k(x, y) = (scale · ⟨x, y⟩ + offset)^degree."""

    def function(products: Tensor) -> tuple[Tensor, Tensor]:
        base = products.mul_(scale).add_(offset)
        power = base.pow(degree - 1)
        return power * base, power.mul_(degree * scale)

    return PairKernel(function, of_products=True)


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖x − y‖² `(num_left, num_right)` of every row x of `left` and y of `right`, by one matrix product.

    What lies beneath the rounding error of that product is zero, so that equal rows are at distance zero.
    """
    norms = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
    distances = torch.addmm(norms, left, right.T, alpha=-2)
    rounding = 16 * torch.finfo(left.dtype).eps
    return distances.masked_fill_(distances <= norms.mul_(rounding), 0)


def two_sample_weights(num_source: int, num_target: int, unbiased: bool = False) -> PairWeights:
    """The weights of mean k(s, s') + mean k(t, t') − 2 mean k(s, t); `unbiased` leaves room for no own pairs."""
    within_source = 1 / (num_source * (num_source - 1 if unbiased else num_source))
    within_target = 1 / (num_target * (num_target - 1 if unbiased else num_target))

    def weights(first: slice, second: slice) -> float:
        if (first.start < num_source) != (second.start < num_source):
            return -1 / (num_source * num_target)
        return within_source if first.start < num_source else within_target

    return weights


def kernel_sum(
    name: str,
    layers: Sequence[Tensor],
    kernels: Sequence[PairKernel],
    num_source: int,
    weights: PairWeights,
    own_pairs: bool = True,
) -> Tensor:
    """Σ_ij w_ij Π_l k_l(x_i^l, x_j^l) over all pairs of rows, differentiable once in each layer.

    The gradient is found along with the value, since forming the pairs a second time would cost as much again.

    Args:
        name: of the loss, for the error of a second derivative.
        layers: each `(num_rows, dim_l)`, the source's rows first.
        kernels: one for each layer.
        num_source: rows of the source; no block holds rows of both domains.
        weights: of the pairs of two blocks.
        own_pairs: whether a row's pair with itself counts.

    Returns:
        A scalar in the layers' dtype, summed in float64: means of nearly the same size are subtracted.
    """
    gradients = [torch.zeros_like(rows) for rows in layers] if needs_gradient(*layers) else []
    with torch.no_grad():
        total = torch.zeros((), dtype=torch.float64, device=layers[0].device)
        blocks = _blocks(0, num_source) + _blocks(num_source, len(layers[0]))
        for pair in combinations_with_replacement(blocks, 2):
            total += _add_block(layers, kernels, pair, weights(*pair), own_pairs, gradients)
    return attach_gradient(name, total.to(layers[0].dtype), layers, gradients)


def _blocks(start: int, stop: int) -> list[slice]:
    """Consecutive slices of at most `BLOCK_ROWS` from `start` to `stop`."""
    return [slice(at, min(at + BLOCK_ROWS, stop)) for at in range(start, stop, BLOCK_ROWS)]


def _add_block(
    layers: Sequence[Tensor],
    kernels: Sequence[PairKernel],
    pair: tuple[slice, slice],
    weight: float | Tensor,
    own_pairs: bool,
    gradients: Sequence[Tensor],
) -> Tensor:
    """What the pairs between two blocks contribute to the sum, in float64; adds to the layers' gradients.

    A pair of different blocks stands for its mirror image too.
    """
    first, second = pair
    same = first == second
    sides = [(rows[first], rows[second]) for rows in layers]
    terms = [kernel.of_blocks(left, right) for kernel, (left, right) in zip(kernels, sides, strict=True)]
    values = [value for value, _ in terms]
    for index, gradient in enumerate(gradients):
        others = values[:index] + values[index + 1 :]
        slope = reduce(torch.mul, others, terms[index][1]) * weight
        if same and not own_pairs:
            slope.fill_diagonal_(0)
        left, right = sides[index]
        kernels[index].add_gradient(gradient, first, left, right, slope)
        if not same:
            kernels[index].add_gradient(gradient, second, right, left, slope.T)
    value = reduce(torch.mul, values)
    if same and not own_pairs:
        value.fill_diagonal_(0)
    mirrored = 1 if same else 2
    if isinstance(weight, Tensor):
        return (value * weight).sum(dtype=torch.float64) * mirrored
    return value.sum(dtype=torch.float64) * (mirrored * weight)
