"""Maximum mean discrepancy: bring two distributions together in a kernel's feature space."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn

from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError

BANDWIDTH_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The kernels' bandwidths as multiples of the median squared distance."""

MEDIAN_ROWS = 1024
"""The median is exact up to this many rows of both domains together, and taken on evenly spaced rows beyond."""

BLOCK_ROWS = 1024
"""Rows of one block of the kernel matrix; at most a few blocks of this size squared are held at a time."""


def mmd_loss(
    source: Tensor,
    target_domain: Tensor,
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = False,
) -> Tensor:
    """Squared multi-kernel maximum mean discrepancy (Gretton et al. 2012; Long et al. 2015, "DAN").

        MMD² = mean k(s, s') + mean k(t, t') − 2 mean k(s, t),   k(x, y) = mean over γ of exp(−‖x − y‖² / γ)

    The default is the V-statistic, whose means run over all pairs: never negative, and zero when the batches are
    equal. With `unbiased`, the U-statistic (Gretton et al. 2012, equation 3): the first two means leave out the
    pairs of a row with itself, so that the expectation is zero when both domains have one distribution; it may be
    negative.

    The kernel matrix is formed in blocks from matrix products, never all at once, and the gradient with it; memory
    grows as (num_source + num_target) · dim. There is no second derivative. The gradient treats the
    bandwidths as constants. Computed in at least float32 whatever the input and autocast.

    pytorch-adapt's "quadratic" `MMDLoss` is the case `unbiased=True` with a γ of the (lower) median of ‖s − s'‖²
    over all source pairs, a row with itself included, divided by each of its `kernel_scales`.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        bandwidths: the γ of each kernel, in units of squared distance. None takes `BANDWIDTH_MULTIPLES` of the
            median squared distance between different rows of both domains together (`median_squared_distance`).
        unbiased: the U-statistic instead of the V-statistic.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, a bandwidth is not
            positive, or `unbiased` is asked of a domain with a single row.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_bandwidths(bandwidths)
    if unbiased and min(len(source), len(target_domain)) < 2:
        raise InputError(
            f"unbiased MMD of {len(source)} source and {len(target_domain)} target_domain rows; "
            "expected at least two of each"
        )
    with torch.autocast(source.device.type, enabled=False):
        rows = torch.cat([source, target_domain])
        # Distances do not change with the origin, but their rounding error grows with the distance from it.
        rows = rows - rows.detach().mean(dim=0)
        if bandwidths is None:
            gammas = median_squared_distance(rows.detach()) * rows.new_tensor(BANDWIDTH_MULTIPLES)
        else:
            gammas = rows.new_tensor(bandwidths)
        return _BlockwiseMmd.apply(rows, len(source), gammas, unbiased)


def median_squared_distance(rows: Tensor) -> Tensor:
    """The (lower) median of the non-zero ‖x − y‖² between rows `(batch, dim)`, a scalar; 1 where all are equal.

    Beyond `MEDIAN_ROWS` rows it is taken on evenly spaced ones.
    """
    rows = rows[:: -(-len(rows) // MEDIAN_ROWS)]
    distances = _squared_distances(rows, rows).fill_diagonal_(0)
    return distances.masked_fill_(distances == 0, torch.nan).nanmedian().nan_to_num(1.0)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖x − y‖² `(num_left, num_right)` of every row x of `left` and y of `right`, by one matrix product.

    What lies beneath the rounding error of that product is zero, so that equal rows are at distance zero.
    """
    norms = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
    distances = torch.addmm(norms, left, right.T, alpha=-2)
    rounding = 16 * torch.finfo(left.dtype).eps
    return distances.masked_fill_(distances <= norms.mul_(rounding), 0)


class _BlockwiseMmd(torch.autograd.Function):
    """MMD² of the first `num_source` rows against the others, and its gradient, block by block.

    With w the weight of a pair and k' = dk/d‖x − y‖², the gradient for row i is Σ_j 4 w_ij k'_ij (x_i − x_j).
    It is found along with the value, since forming the distances a second time would cost as much again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, num_source: int, gammas: Tensor, unbiased: bool) -> Tensor:
        num_target = len(rows) - num_source
        within = {
            True: 1 / (num_source * (num_source - 1 if unbiased else num_source)),
            False: 1 / (num_target * (num_target - 1 if unbiased else num_target)),
        }
        # A row's pair with itself has k = 1 and no gradient: it is added here and left out of the blocks.
        own_pairs = 0.0 if unbiased else 1 / num_source + 1 / num_target
        # Three means of nearly the same size are subtracted, hence the wider sum.
        loss = torch.tensor(own_pairs, dtype=torch.float64, device=rows.device)
        gradient = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        blocks = _blocks(0, num_source) + _blocks(num_source, len(rows))
        for first, second in combinations_with_replacement(blocks, 2):
            first_is_source, second_is_source = first.start < num_source, second.start < num_source
            same_domain = first_is_source == second_is_source
            weight = within[first_is_source] if same_domain else -1 / (num_source * num_target)
            loss += _add_block(rows, first, second, gammas, weight, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():  # or the second derivative would silently be zero
            raise RuntimeError("mmd_loss has no second derivative; call without create_graph")
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None, None


def _blocks(start: int, stop: int) -> list[slice]:
    """Consecutive slices of at most `BLOCK_ROWS` from `start` to `stop`."""
    return [slice(at, min(at + BLOCK_ROWS, stop)) for at in range(start, stop, BLOCK_ROWS)]


def _add_block(
    rows: Tensor, first: slice, second: slice, gammas: Tensor, weight: float, gradient: Tensor | None
) -> Tensor:
    """The part of MMD² that the pairs between two blocks of rows contribute, in float64.

    Adds those pairs' part of the gradient to `gradient`. A pair of different blocks stands for its mirror image
    too.
    """
    left, right = rows[first], rows[second]
    distances = _squared_distances(left, right)
    kernel, slope = torch.zeros_like(distances), torch.zeros_like(distances)
    term = torch.empty_like(distances)
    for rate in (-1 / gammas).unbind():
        torch.mul(distances, rate, out=term).exp_()
        kernel += term
        slope.addcmul_(term, rate)
    if first == second:
        kernel.fill_diagonal_(0)
    if gradient is not None:
        slope *= 4 * weight / len(gammas)
        gradient[first] += slope.sum(dim=1, keepdim=True) * left - slope @ right
        if first != second:
            gradient[second] += slope.sum(dim=0)[:, None] * right - slope.T @ left
    mirrored = 1 if first == second else 2
    return kernel.sum(dtype=torch.float64) * (mirrored * weight / len(gammas))


def _check_bandwidths(bandwidths: Sequence[float] | None) -> None:
    if bandwidths is None:
        return
    if not bandwidths or not all(0 < bandwidth < float("inf") for bandwidth in bandwidths):
        raise InputError(f"MMD bandwidths are {list(bandwidths)}; expected one or more positive, finite numbers")


class MmdLoss(nn.Module):
    """`mmd_loss` as a module; the arguments are its own.

    Raises:
        InputError: a bandwidth is not positive.
    """

    def __init__(self, bandwidths: Sequence[float] | None = None, unbiased: bool = False) -> None:
        super().__init__()
        _check_bandwidths(bandwidths)
        self.bandwidths = bandwidths
        self.unbiased = unbiased

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return mmd_loss(source, target_domain, self.bandwidths, self.unbiased)
