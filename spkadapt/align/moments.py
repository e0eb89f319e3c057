"""Moment matching: bring the means, the central moments or the whole moment tensors of two domains together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spkadapt.align.mmd import polynomial_mmd_loss
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


def mean_loss(source: Tensor, target_domain: Tensor) -> Tensor:
    """Squared distance between the means of two domains: the MMD of a linear kernel.

        L = ‖mean s − mean t‖²

    What any other loss must better: a constant shift between the domains is all that it sees.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, or the two differ in `dim`.
    """
    source, target_domain = check_pair(source, target_domain)
    return (source.mean(dim=0) - target_domain.mean(dim=0)).square().sum()


def cmd_loss(
    source: Tensor,
    target_domain: Tensor,
    num_moments: int = 5,
    interval: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Central moment discrepancy (CMD, Zellinger et al. 2017, definition 2).

        L = ‖mean s − mean t‖ / |b − a| + Σ_{k=2..K} ‖c_k(s) − c_k(t)‖ / |b − a|^k,   c_k(x) = mean (x − x̄)^k

    with the central moments of each coordinate on its own, linear in rows and dimensions. [a, b] is where the
    coordinates lie: the default fits length-normalised embeddings; of sigmoid units it is (0, 1). Coordinates
    beyond it are no error, but high moments then dominate. Norms, not squares: the gradient keeps its length
    however close the domains are, and is zero where a moment agrees. Computed in at least float32 whatever the
    input and autocast.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        num_moments: K, the highest order.
        interval: a and b, the support of a coordinate.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, `num_moments` is less than
            one, or `interval` is empty.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_cmd(num_moments, interval)
    width = interval[1] - interval[0]
    with torch.autocast(source.device.type, enabled=False):
        means = [batch.mean(dim=0) for batch in (source, target_domain)]
        centred = [(batch - mean) / width for batch, mean in zip((source, target_domain), means, strict=True)]
        loss = _norm((means[0] - means[1]) / width)
        for order in range(2, num_moments + 1):
            # `pow` keeps nothing but its input for the way back; repeated products would keep a batch each.
            first, second = (batch.pow(order).mean(dim=0) for batch in centred)
            loss = loss + _norm(first - second)
        return loss.to(source.dtype)


def _norm(vector: Tensor) -> Tensor:
    """‖v‖ in float64, where the squares of high moments do not vanish; the gradient at zero is zero."""
    return torch.linalg.vector_norm(vector.double())


def _check_cmd(num_moments: int, interval: tuple[float, float]) -> None:
    if num_moments < 1:
        raise InputError(f"num_moments of the central moment discrepancy is {num_moments}; expected at least 1")
    if not 0 < interval[1] - interval[0] < math.inf:
        raise InputError(
            f"interval of the central moment discrepancy is {tuple(interval)}; "
            "expected a lower and a greater, finite bound"
        )


def homm_loss(source: Tensor, target_domain: Tensor, order: int = 3) -> Tensor:
    """Squared distance between the moment tensors of an order (HoMM, Chen et al. 2020, equation 3).

        L = ‖mean s^⊗p − mean t^⊗p‖²_F / d^p

    with x^⊗p the tensor of all products of p coordinates of x, about the origin. As ⟨x^⊗p, y^⊗p⟩ = ⟨x, y⟩^p, it is
    the MMD of a polynomial kernel, and is computed as such: exactly and in memory linear in the rows, where the
    paper samples entries of the tensor. Rounding, precision and derivatives as in `polynomial_mmd_loss`.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        order: p; 1 compares the means, 2 the second moments, and the paper uses 3 and 4.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or `order` is less than
            one.
        RuntimeError: on the way back under `create_graph`.
    """
    _check_order(order)
    return polynomial_mmd_loss(source, target_domain, degree=order, offset=0.0)


def _check_order(order: int) -> None:
    if order < 1:
        raise InputError(f"order of the moments is {order}; expected at least 1")


class MeanLoss(nn.Module):
    """`mean_loss` as a module."""

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return mean_loss(source, target_domain)


class CmdLoss(nn.Module):
    """`cmd_loss` as a module; the arguments are its own.

    Raises:
        InputError: `num_moments` is less than one, or `interval` is empty.
    """

    def __init__(self, num_moments: int = 5, interval: tuple[float, float] = (-1.0, 1.0)) -> None:
        super().__init__()
        _check_cmd(num_moments, interval)
        self.num_moments = num_moments
        self.interval = interval

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return cmd_loss(source, target_domain, self.num_moments, self.interval)


class HommLoss(nn.Module):
    """`homm_loss` as a module; the argument is its own.

    Raises:
        InputError: `order` is less than one.
    """

    def __init__(self, order: int = 3) -> None:
        super().__init__()
        _check_order(order)
        self.order = order

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return homm_loss(source, target_domain, self.order)
