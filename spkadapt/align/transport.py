"""Optimal transport: how far the rows of one domain must travel to become those of the other.

All distances are squared 2-Wasserstein distances, or tend to them, and every row of a domain has the same mass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spkadapt.align.directions import check_positive, unit
from spkadapt.align.first_order import attach_gradient
from spkadapt.align.kernel_blocks import squared_distances
from spkadapt.align.mmd import centred_rows
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError

BLOCK_NUMBERS = 2**21
"""Numbers in one block, of projected rows or of costs; a handful of blocks are held at a time."""

KEPT_COSTS = 2**24
"""A cost matrix of up to this many numbers is kept between Sinkhorn's iterations, and formed anew beyond."""


def draw_projections(dim: int, num_projections: int, generator: torch.Generator | None = None) -> Tensor:
    """Directions `(num_projections, dim)`, uniform on the sphere, on the CPU.

    Raises:
        InputError: a size is less than one.
    """
    _check_sizes(dim=dim, num_projections=num_projections)
    return unit(torch.randn(num_projections, dim, generator=generator))


def sliced_wasserstein_loss(source: Tensor, target_domain: Tensor, projections: Tensor) -> Tensor:
    """Squared sliced 2-Wasserstein distance (Rabin et al. 2011; Bonneel et al. 2015; Lee et al. 2019, "SWD").

        L = mean over θ of W₂²(θ·s, θ·t),   W₂²(a, b) = ∫₀¹ (F_a⁻¹(u) − F_b⁻¹(u))² du

    On a line the optimal coupling joins equal quantiles. Quantile functions of n and m points are step functions,
    so that the integral is a sum of at most n + m − 1 terms: exact for unequal sizes, at a cost of n log n a
    direction. The length of a direction plays no part. A shift by v costs ‖v‖² / dim on average over the sphere.

    The gradient holds the couplings fixed, which is right wherever no two projections of a domain are equal. It is
    found along with the value, some directions at a time, so that memory grows as (num_source + num_target) · dim;
    there is no second derivative. Computed in at least float32 whatever the input and autocast.

    Shape:
        source: `(num_source, dim)`
        target_domain: `(num_target, dim)`
        projections: θ, `(num_projections, dim)`, for instance from `draw_projections`
        returns a scalar

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or the projections are not
            `(num_projections, dim)`.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    directions = _directions(source, projections)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        with torch.no_grad():
            slices = _Slices(rows, len(source))
            gradient = torch.zeros_like(rows) if rows.requires_grad else None
            total = torch.zeros((), dtype=torch.float64, device=rows.device)
            for block in directions.split(max(1, BLOCK_NUMBERS // len(rows))):
                costs, slopes = slices.transport(block)
                total += costs.sum()
                if gradient is not None:
                    gradient.addmm_(slopes.T, block, alpha=1 / len(directions))
            value = (total / len(directions)).to(rows.dtype)
        gradients = [] if gradient is None else [gradient]
        return attach_gradient("sliced_wasserstein_loss", value, [rows], gradients)


def max_sliced_wasserstein_loss(
    source: Tensor, target_domain: Tensor, projections: Tensor, num_steps: int = 10
) -> Tensor:
    """Squared max-sliced 2-Wasserstein distance (Deshpande et al. 2019; Kolouri et al. 2019).

        L = max over θ, ‖θ‖ = 1, of W₂²(θ·s, θ·t)

    What differs in a single direction among many is as large here as it is, where the mean over directions divides
    it by dim. The maximum is sought from the best of `projections` by steps towards M θ / ‖M θ‖, M the second
    moment of the differences that θ couples, all the way or, after a step that led down, half as far: towards a
    local maximum, a lower bound of the highest. The direction is a constant to the gradient. All else is as in
    `sliced_wasserstein_loss`.

    Shape:
        source: `(num_source, dim)`
        target_domain: `(num_target, dim)`
        projections: `(num_projections, dim)`, where to begin
        returns a scalar

    Raises:
        InputError: what `sliced_wasserstein_loss` refuses, or `num_steps` is negative.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    directions = _directions(source, projections)
    _check_steps(num_steps)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        with torch.no_grad():
            slices = _Slices(rows, len(source))
            blocks = directions.split(max(1, BLOCK_NUMBERS // len(rows)))
            first = torch.cat([slices.transport(block)[0] for block in blocks]).argmax()
            best = directions[first][None]
            highest, slopes = slices.transport(best)
            stride = torch.ones_like(highest, dtype=rows.dtype)
            for _ in range(num_steps):
                tried = unit(torch.lerp(best, unit(slopes @ rows), stride))
                cost, tried_slopes = slices.transport(tried)
                is_better = cost > highest
                highest, best = torch.where(is_better, cost, highest), torch.where(is_better, tried, best)
                slopes = torch.where(is_better, tried_slopes, slopes)
                stride = torch.where(is_better, (2 * stride).clamp_max(1), stride / 2)
            value = highest.squeeze(0).to(rows.dtype)
        return attach_gradient("max_sliced_wasserstein_loss", value, [rows], [slopes.T * best])


class _Slices:
    """One-dimensional transport between the rows of two domains along any direction.

    With levels u in units of 1 / (n m), quantiles change at the multiples of m in the source, and of n in the
    target domain; between two of them `source_places[k]` and `target_places[k]` of the sorted rows are coupled,
    with the mass `masses[k]`.
    """

    def __init__(self, rows: Tensor, num_source: int) -> None:
        self.source, self.target_domain = rows[:num_source], rows[num_source:]
        num_target = len(self.target_domain)
        ends = torch.cat(
            [torch.arange(1, num_source + 1) * num_target, torch.arange(1, num_target + 1) * num_source]
        )
        ends = ends.to(rows.device).unique()
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        self.masses = ((ends - starts).double() / (num_source * num_target)).to(rows.dtype)
        self.source_places, self.target_places = starts // num_target, starts // num_source

    def transport(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """W₂² along each of `(num, dim)` directions, `(num,)` float64, and its derivative in every projected row.

        The derivatives are `(num, num_source + num_target)`.
        """
        source, source_order = (directions @ self.source.T).sort(dim=1)
        target, target_order = (directions @ self.target_domain.T).sort(dim=1)
        gaps = source.index_select(1, self.source_places) - target.index_select(1, self.target_places)
        weighted = gaps * self.masses
        costs = (weighted * gaps).sum(dim=1, dtype=torch.float64)
        slopes = [
            torch.zeros_like(order, dtype=gaps.dtype).scatter_(
                1, order, torch.zeros_like(order, dtype=gaps.dtype).index_add_(1, places, weighted, alpha=sign)
            )
            for order, places, sign in (
                (source_order, self.source_places, 2),
                (target_order, self.target_places, -2),
            )
        ]
        return costs, torch.cat(slopes, dim=1)


def sinkhorn_loss(
    source: Tensor,
    target_domain: Tensor,
    epsilon: float = 0.2,
    num_iterations: int = 100,
    tolerance: float = 1e-3,
) -> Tensor:
    """Sinkhorn divergence: entropic optimal transport, debiased (Genevay et al. 2018; Feydy et al. 2019, eq. 3).

        S = OT(s, t) − ½ OT(s, s) − ½ OT(t, t),   OT(a, b) = min over π of Σ π_ij ‖a_i − b_j‖² + ε KL(π ‖ 1/(n m))

    over the couplings π of the two domains. Positive unless the domains are equal, and zero where they are; it is
    W₂² for ε → 0 and the squared distance of the means for ε → ∞. ε is `epsilon` times the mean of ‖s − t‖², and
    a constant to the gradient.

    The dual potentials f_i = −ε log mean_j exp((g_j − ‖a_i − b_j‖²) / ε), and g likewise, are iterated in the log
    domain, both at once and averaged with their last values, until the couplings' marginals are off by less than
    `tolerance` of their mass. The gradient is that of S at the optimal potentials (envelope theorem), without
    going back through the iterations: 2/n (the row's mean partner in its own domain − that in the other). There
    is no second derivative. Costs are formed in blocks, and memory grows as (num_source + num_target) · dim; time
    as num_source · num_target · dim an iteration. Computed in at least float32 whatever the input and autocast.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        epsilon: ε relative to the mean cost. In many dimensions rows are nearly equally far apart: with 0.05, 128
            rows in 192 dimensions travel within their own domain to themselves alone, and the sampling noise of
            the divergence is four times that with 0.2.
        num_iterations: at most, of each of the three problems.
        tolerance: of the marginals.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or `epsilon`,
            `num_iterations` or `tolerance` is not positive.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_sinkhorn(epsilon, num_iterations, tolerance)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        with torch.no_grad():
            first, second = rows[: len(source)], rows[len(source) :]
            mean_cost = _mean_cost(first, second)
            stop = (torch.where(mean_cost == 0, 1, epsilon * mean_cost), num_iterations, tolerance)
            across, across_back = _solve(_Costs(first, second), _Costs(second, first), *stop)
            within_first, _ = _solve(_Costs(first, first), None, *stop)
            within_second, _ = _solve(_Costs(second, second), None, *stop)
            value = (across[0] - within_first[0]).mean(dtype=torch.float64)
            value += (across_back[0] - within_second[0]).mean(dtype=torch.float64)
            toward_first = (within_first[1] - across[1]) * (2 / len(first))
            toward_second = (within_second[1] - across_back[1]) * (2 / len(second))
        gradient = torch.cat([toward_first, toward_second])
        return attach_gradient("sinkhorn_loss", value.to(rows.dtype), [rows], [gradient])


class _Costs:
    """‖x − y‖² of every row x of `left` and y of `right`, in blocks of rows of `left`; kept if they are few."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self._kept = squared_distances(left, right) if len(left) * len(right) <= KEPT_COSTS else None

    def blocks(self) -> Iterator[Tensor]:
        """Consecutive rows of the matrix, `(num_rows, num_right)`; not to be written to."""
        num_rows = max(1, BLOCK_NUMBERS // len(self.right))
        if self._kept is not None:
            yield from self._kept.split(num_rows)
        else:
            yield from (squared_distances(rows, self.right) for rows in self.left.split(num_rows))

    def soft_minima(self, potential: Tensor, epsilon: Tensor) -> Tensor:
        """−ε log mean_j exp((g_j − C_ij) / ε) `(num_left,)` of g `(num_right,)`."""
        minima = [-epsilon * ((potential - block) / epsilon).logsumexp(dim=1) for block in self.blocks()]
        return torch.cat(minima) + epsilon * math.log(len(self.right))

    def mean_partners(self, potential: Tensor, epsilon: Tensor) -> Tensor:
        """Σ_j softmax_j((g_j − C_ij) / ε) y_j `(num_left, dim)`."""
        return torch.cat([((potential - block) / epsilon).softmax(dim=1) @ self.right for block in self.blocks()])


def _solve(
    forth: _Costs, back: _Costs | None, epsilon: Tensor, num_iterations: int, tolerance: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The potential and the mean partner of every row, on either side; without `back`, both sides are the same."""
    f, g = forth.left.new_zeros(len(forth.left)), forth.left.new_zeros(len(forth.right))
    for _ in range(num_iterations):
        new_f = forth.soft_minima(g, epsilon)
        new_g = new_f if back is None else back.soft_minima(f, epsilon)
        # A row's mass is off by the factor exp((f − new f) / ε).
        error = torch.maximum((new_f - f).abs().mean(), (new_g - g).abs().mean()) / epsilon
        f, g = (f + new_f) / 2, (g + new_g) / 2
        if not error >= tolerance:
            break
    first = forth.soft_minima(g, epsilon), forth.mean_partners(g, epsilon)
    return first, first if back is None else (back.soft_minima(f, epsilon), back.mean_partners(f, epsilon))


def _mean_cost(first: Tensor, second: Tensor) -> Tensor:
    """The mean of ‖x − y‖² over all pairs: the two total variances, and the squared distance of the means."""
    gap = first.mean(dim=0) - second.mean(dim=0)
    variances = [(rows - rows.mean(dim=0)).square().sum(dim=1).mean() for rows in (first, second)]
    return variances[0] + variances[1] + gap.square().sum()


def _directions(rows: Tensor, projections: Tensor) -> Tensor:
    """Projections as unit vectors in the dtype and on the device of `rows`, checked."""
    if projections.ndim != 2 or not len(projections) or projections.shape[1] != rows.shape[1]:
        raise InputError(
            f"projections have shape {tuple(projections.shape)}; expected (num_projections, {rows.shape[1]}), "
            "the dim of the embeddings"
        )
    return unit(projections.detach().to(rows))


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} of the projections is {value}; expected at least 1")


def _check_steps(num_steps: int) -> None:
    if num_steps < 0:
        raise InputError(f"num_steps of the max-sliced distance is {num_steps}; expected zero or more")


def _check_sinkhorn(epsilon: float, num_iterations: int, tolerance: float) -> None:
    check_positive(epsilon, "epsilon")
    check_positive(tolerance, "tolerance")
    if num_iterations < 1:
        raise InputError(f"num_iterations of the Sinkhorn loss is {num_iterations}; expected at least 1")


class SlicedWassersteinLoss(nn.Module):
    """`sliced_wasserstein_loss` along directions drawn anew at every call.

    They come from torch's default generator on the CPU, which a training loop seeds, the same on every device.

    Raises:
        InputError: `num_projections` is less than one.
    """

    def __init__(self, num_projections: int = 128) -> None:
        super().__init__()
        _check_sizes(num_projections=num_projections)
        self.num_projections = num_projections

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        source, target_domain = check_pair(source, target_domain)
        projections = draw_projections(source.shape[1], self.num_projections)
        return sliced_wasserstein_loss(source, target_domain, projections)


class MaxSlicedWassersteinLoss(nn.Module):
    """`max_sliced_wasserstein_loss` from directions drawn as in `SlicedWassersteinLoss`.

    Raises:
        InputError: `num_projections` is less than one, or `num_steps` negative.
    """

    def __init__(self, num_projections: int = 16, num_steps: int = 10) -> None:
        super().__init__()
        _check_sizes(num_projections=num_projections)
        _check_steps(num_steps)
        self.num_projections = num_projections
        self.num_steps = num_steps

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        source, target_domain = check_pair(source, target_domain)
        projections = draw_projections(source.shape[1], self.num_projections)
        return max_sliced_wasserstein_loss(source, target_domain, projections, self.num_steps)


class SinkhornLoss(nn.Module):
    """`sinkhorn_loss` as a module; the arguments are its own.

    Raises:
        InputError: an argument is not positive.
    """

    def __init__(self, epsilon: float = 0.2, num_iterations: int = 100, tolerance: float = 1e-3) -> None:
        super().__init__()
        _check_sinkhorn(epsilon, num_iterations, tolerance)
        self.epsilon = epsilon
        self.num_iterations = num_iterations
        self.tolerance = tolerance

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return sinkhorn_loss(source, target_domain, self.epsilon, self.num_iterations, self.tolerance)
