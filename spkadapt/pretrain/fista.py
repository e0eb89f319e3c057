"""Sparse codes of a linear model, by proximal gradient steps with momentum (FISTA, Beck & Teboulle 2009).

    z* = argmin F(z),    F(z) = ½‖x − Dz‖² + λ‖z‖₁ = ½ zᵀAz − bᵀz + λ‖z‖₁ + const,    A = DᵀD, b = Dᵀx,

with z ≥ 0 if so asked. All that is known of D is how A is applied, so that a matrix and a convolution are one
problem; every sample of a batch is one of its own, and they are solved together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The power method from 16 random starts of 64 steps falls short of the norm of a 1024 × 1024 matrix by more than
# that factor with a probability below 1e-8, whatever its spectrum (Kuczyński & Woźniakowski 1992).
NUM_STARTS, NUM_POWER_STEPS, SAFETY = 16, 64, 1.05

# To look at the optimality conditions costs as much as the shrinking of a step, and waits for a GPU.
CHECK_EVERY = 10


def shrink(values: Tensor, threshold: float, *, nonnegative: bool) -> Tensor:
    """The proximal map of `threshold`·‖·‖₁, elementwise.

    sign(v) max(|v| − threshold, 0),    or max(v − threshold, 0) = relu(v − threshold) if z ≥ 0
    """
    return torch.relu(values - threshold) if nonnegative else F.softshrink(values, threshold)


def kkt_violation(gradient: Tensor, codes: Tensor, penalty: float, *, nonnegative: bool) -> Tensor:
    """How far each sample is from the optimality conditions: 0 at the minimum and nowhere else.

    With g = Az − b, the greatest over the codes of |g_j + λ sign z_j| where z_j ≠ 0 and max(|g_j| − λ, 0) where
    z_j = 0; if z ≥ 0, of max(−g_j − λ, 0) there.

    Shape: g and codes (n, …) → (n,).
    """
    active = (gradient + penalty * codes.sign()).abs()
    idle = (-gradient if nonnegative else gradient.abs()) - penalty
    return torch.where(codes == 0, idle.clamp(min=0), active).flatten(1).amax(dim=1)


def largest_eigenvalue(matrix: Tensor) -> float:
    """An upper bound on the largest eigenvalue of a positive semi-definite `matrix (k, k)`, at most 5 % above it.

    The power method from random starts, the same at each call. It comes from below, so its outcome is raised by
    `SAFETY`: a step of 1/L is safe only if L is no less than the eigenvalue.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(matrix), NUM_STARTS, generator=generator, dtype=torch.float32)
    vectors = start.to(matrix)
    for _ in range(NUM_POWER_STEPS):
        vectors = matrix @ F.normalize(vectors, dim=0)
    return SAFETY * vectors.norm(dim=0).max().item()


def fista(
    apply: Callable[[Tensor], Tensor],
    correlation: Tensor,
    penalty: float,
    lipschitz: float,
    *,
    nonnegative: bool,
    num_iterations: int,
    tolerance: float = 0.0,
    restart: bool = True,
) -> Tensor:
    """Minimise F from z = 0, for all samples at once.

        z_k = shrink(y_k − (Ay_k − b) / L, λ / L)
        t_{k+1} = (1 + √(1 + 4t_k²)) / 2,    y_{k+1} = z_k + (t_k − 1) / t_{k+1} · (z_k − z_{k−1})

    Without restarts F(z_k) − F(z*) ≤ 2L‖z*‖² / (k + 1)² (Beck & Teboulle 2009, theorem 4.4). With them, a sample
    whose momentum points uphill, (y_k − z_k)ᵀ(z_k − z_{k−1}) > 0, begins again with t = 1, which ends the ripples
    about the minimum and converges linearly there (O'Donoghue & Candès 2015). A is linear, so that Ay is had
    from Az, and a step applies A once.

    Args:
        apply: z → Az, on codes of the shape of `correlation`.
        correlation: b, (n, …).
        penalty: λ ≥ 0.
        lipschitz: L, at least the largest eigenvalue of A.
        nonnegative: whether z ≥ 0.
        num_iterations: the most steps.
        tolerance: stop once `kkt_violation` is no more than that in every sample.
        restart: whether the momentum restarts.

    Returns:
        Codes (n, …).
    """
    codes = image = point = point_image = torch.zeros_like(correlation)
    momentum = correlation.new_ones(len(correlation), *(1,) * (correlation.ndim - 1))
    for iteration in range(num_iterations):
        if tolerance > 0 and iteration % CHECK_EVERY == 0:
            violation = kkt_violation(image - correlation, codes, penalty, nonnegative=nonnegative)
            if (violation <= tolerance).all():
                break
        downhill = torch.add(point, point_image - correlation, alpha=-1 / lipschitz)
        new_codes = shrink(downhill, penalty / lipschitz, nonnegative=nonnegative)
        new_image = apply(new_codes)
        moved = new_codes - codes
        if restart:
            uphill = ((point - new_codes) * moved).flatten(1).sum(dim=1) > 0
            momentum = torch.where(uphill.view_as(momentum), 1.0, momentum)
        next_momentum = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        weight = (momentum - 1) / next_momentum
        point = torch.addcmul(new_codes, weight, moved)
        point_image = torch.addcmul(new_image, weight, new_image - image)
        codes, image, momentum = new_codes, new_image, next_momentum
    return codes
