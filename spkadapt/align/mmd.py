"""Maximum mean discrepancy: bring two distributions together in a kernel's feature space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spkadapt.align.kernel_blocks import (
    gaussian_mixture,
    kernel_sum,
    polynomial,
    squared_distances,
    two_sample_weights,
)
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError

BANDWIDTH_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The kernels' bandwidths as multiples of the median squared distance."""

MEDIAN_ROWS = 1024
"""The median is exact up to this many rows of both domains together, and taken on evenly spaced rows beyond."""


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
    check_bandwidths(bandwidths)
    _check_unbiased("unbiased MMD", unbiased, source, target_domain)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        kernel = gaussian_mixture(choose_bandwidths(rows, bandwidths))
        weights = two_sample_weights(len(source), len(target_domain), unbiased)
        return kernel_sum("mmd_loss", [rows], [kernel], len(source), weights, own_pairs=not unbiased)


def polynomial_mmd_loss(
    source: Tensor,
    target_domain: Tensor,
    degree: int = 3,
    scale: float | None = None,
    offset: float = 1.0,
    unbiased: bool = False,
) -> Tensor:
    """Squared maximum mean discrepancy with a polynomial kernel (Gretton et al. 2012).

        MMD² = mean k(s, s') + mean k(t, t') − 2 mean k(s, t),   k(x, y) = (scale · ⟨x, y⟩ + offset)^degree

    It compares the moments up to `degree`; `unbiased` with the defaults is the "kernel inception distance"
    (Bińkowski et al. 2018). Unlike the Gaussian kernel's it depends on the origin. Blocks, precision and
    derivatives are as in `mmd_loss`. A difference of large means is off by their rounding error: the V-statistic
    of equal batches may lie a trifle below zero.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        degree: of the polynomial; 1 compares the means alone.
        scale: of the inner product. None takes 1 / dim.
        offset: zero leaves the moments of order `degree` alone.
        unbiased: the U-statistic instead of the V-statistic.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, `degree`, `scale` or
            `offset` is out of range, or `unbiased` is asked of a domain with a single row.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_polynomial(degree, scale, offset)
    _check_unbiased("unbiased MMD", unbiased, source, target_domain)
    with torch.autocast(source.device.type, enabled=False):
        kernel = polynomial(degree, 1 / source.shape[1] if scale is None else scale, offset)
        weights = two_sample_weights(len(source), len(target_domain), unbiased)
        rows = torch.cat([source, target_domain])
        return kernel_sum("polynomial_mmd_loss", [rows], [kernel], len(source), weights, own_pairs=not unbiased)


def linear_mmd_loss(source: Tensor, target_domain: Tensor, bandwidths: Sequence[float] | None = None) -> Tensor:
    """The linear-time estimate of the squared maximum mean discrepancy (Gretton et al. 2012, lemma 14).

        MMD² = mean over i of k(s, s') + k(t, t') − k(s, t') − k(s', t),   s, s' = s_2i−1, s_2i, likewise t, t'

    with the kernel of `mmd_loss`. Unbiased like the U-statistic, at a cost of n · dim and with a far larger
    variance; it depends on the order of the rows, which should be random. The larger batch's rows without a
    partner, and the last of an odd number, are left out. It can be differentiated any number of times.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        bandwidths: as in `mmd_loss`.

    Returns:
        The loss, a scalar; may be negative.

    Raises:
        InputError: a batch is not `(batch, dim)`, the two differ in `dim`, a bandwidth is not positive, or a
            domain has a single row.
    """
    source, target_domain = check_pair(source, target_domain)
    check_bandwidths(bandwidths)
    _check_unbiased("linear-time MMD", True, source, target_domain)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        gammas = choose_bandwidths(rows, bandwidths)
        num_rows = min(len(source), len(target_domain)) // 2 * 2
        first_s, second_s = rows[0:num_rows:2], rows[1:num_rows:2]
        first_t, second_t = rows[len(source) :][0:num_rows:2], rows[len(source) :][1:num_rows:2]

        def mean_kernel(left: Tensor, right: Tensor) -> Tensor:
            distances = (left - right).square().sum(dim=1, keepdim=True)
            return torch.exp(-distances / gammas).mean(dtype=torch.float64)

        within = mean_kernel(first_s, second_s) + mean_kernel(first_t, second_t)
        across = mean_kernel(first_s, second_t) + mean_kernel(second_s, first_t)
        return (within - across).to(source.dtype)


def centred_rows(source: Tensor, target_domain: Tensor) -> Tensor:
    """Both domains' rows about their common mean.

    Distances do not change with the origin, but their rounding error grows with the distance from it.
    """
    rows = torch.cat([source, target_domain])
    return rows - rows.detach().mean(dim=0)


def choose_bandwidths(rows: Tensor, bandwidths: Sequence[float] | None) -> Tensor:
    """The γ of each kernel `(num_kernels,)`: those given, or by default multiples of the median of `rows`."""
    if bandwidths is not None:
        return rows.new_tensor(bandwidths)
    return median_squared_distance(rows.detach()) * rows.new_tensor(BANDWIDTH_MULTIPLES)


def median_squared_distance(rows: Tensor) -> Tensor:
    """The (lower) median of the non-zero ‖x − y‖² between rows `(batch, dim)`, a scalar; 1 where all are equal.

    Beyond `MEDIAN_ROWS` rows it is taken on evenly spaced ones.
    """
    rows = rows[:: -(-len(rows) // MEDIAN_ROWS)]
    distances = squared_distances(rows, rows).fill_diagonal_(0)
    return distances.masked_fill_(distances == 0, torch.nan).nanmedian().nan_to_num(1.0)


def check_bandwidths(bandwidths: Sequence[float] | None) -> None:
    """Raises InputError unless None or one or more positive, finite numbers."""
    if bandwidths is None:
        return
    if not bandwidths or not all(0 < bandwidth < math.inf for bandwidth in bandwidths):
        raise InputError(f"MMD bandwidths are {list(bandwidths)}; expected one or more positive, finite numbers")


def _check_unbiased(name: str, unbiased: bool, source: Tensor, target_domain: Tensor) -> None:
    if unbiased and min(len(source), len(target_domain)) < 2:
        raise InputError(
            f"{name} of {len(source)} source and {len(target_domain)} target_domain rows; "
            "expected at least two of each"
        )


def _check_polynomial(degree: int, scale: float | None, offset: float) -> None:
    if degree < 1:
        raise InputError(f"degree of the polynomial kernel is {degree}; expected at least 1")
    if scale is not None and not 0 < scale < math.inf:
        raise InputError(f"scale of the polynomial kernel is {scale}; expected a positive, finite number")
    if not 0 <= offset < math.inf:
        raise InputError(f"offset of the polynomial kernel is {offset}; expected zero or more")


class MmdLoss(nn.Module):
    """`mmd_loss` as a module; the arguments are its own.

    Raises:
        InputError: a bandwidth is not positive.
    """

    def __init__(self, bandwidths: Sequence[float] | None = None, unbiased: bool = False) -> None:
        super().__init__()
        check_bandwidths(bandwidths)
        self.bandwidths = bandwidths
        self.unbiased = unbiased

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return mmd_loss(source, target_domain, self.bandwidths, self.unbiased)


class PolynomialMmdLoss(nn.Module):
    """`polynomial_mmd_loss` as a module; the arguments are its own.

    Raises:
        InputError: `degree`, `scale` or `offset` is out of range.
    """

    def __init__(
        self, degree: int = 3, scale: float | None = None, offset: float = 1.0, unbiased: bool = False
    ) -> None:
        super().__init__()
        _check_polynomial(degree, scale, offset)
        self.degree = degree
        self.scale = scale
        self.offset = offset
        self.unbiased = unbiased

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return polynomial_mmd_loss(source, target_domain, self.degree, self.scale, self.offset, self.unbiased)


class LinearMmdLoss(nn.Module):
    """`linear_mmd_loss` as a module; the argument is its own.

    Raises:
        InputError: a bandwidth is not positive.
    """

    def __init__(self, bandwidths: Sequence[float] | None = None) -> None:
        super().__init__()
        check_bandwidths(bandwidths)
        self.bandwidths = bandwidths

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return linear_mmd_loss(source, target_domain, self.bandwidths)
