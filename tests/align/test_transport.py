"""Sliced and entropic Wasserstein losses against POT, brute force, closed forms and their properties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spkadapt.align import transport
from spkadapt.align.transport import (
    MaxSlicedWassersteinLoss,
    SinkhornLoss,
    SlicedWassersteinLoss,
    draw_projections,
    max_sliced_wasserstein_loss,
    sinkhorn_loss,
    sliced_wasserstein_loss,
)
from spkadapt.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projections(dim: int, num_projections: int = 7) -> Tensor:
    return draw_projections(dim, num_projections, torch.Generator().manual_seed(5))


FUNCTIONS: dict[str, Loss] = {
    "sliced": lambda s, t: sliced_wasserstein_loss(s, t, projections(s.shape[1])),
    "max_sliced": lambda s, t: max_sliced_wasserstein_loss(s, t, projections(s.shape[1])),
    "sinkhorn": sinkhorn_loss,
}
every_loss = pytest.mark.parametrize("name", FUNCTIONS)


def quantile_distance(first: Tensor, second: Tensor) -> float:
    """W₂² of points on a line, by repeating each until both have as many, which changes no distribution."""
    common = math.lcm(len(first), len(second))
    first = first.sort().values.repeat_interleave(common // len(first))
    second = second.sort().values.repeat_interleave(common // len(second))
    return (first - second).square().mean().item()


# One dimension: sliced Wasserstein is the distance itself.


@given(seeds, sizes, sizes)
@settings(max_examples=40, deadline=None)
def test_on_a_line_it_is_the_distance(seed: int, num_source: int, num_target: int) -> None:
    source, target = normal(seed, num_source, 1), 2 * normal(seed + 1, num_target, 1) + 1
    loss = sliced_wasserstein_loss(source, target, torch.tensor([[-3.0]]))
    assert loss.item() == pytest.approx(quantile_distance(source[:, 0], target[:, 0]), rel=1e-10)


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (7, 7), (12, 30)])
def test_on_a_line_parity_with_pot(num_source: int, num_target: int) -> None:
    ot = pytest.importorskip("ot")
    source, target = normal(0, num_source, 1), 2 * normal(1, num_target, 1) + 1
    expected = ot.emd2_1d(source[:, 0].numpy(), target[:, 0].numpy(), metric="sqeuclidean")
    loss = sliced_wasserstein_loss(source, target, torch.ones(1, 1)).item()
    assert loss == pytest.approx(float(expected), rel=1e-10)


def test_closed_form_of_a_shift_and_a_scale() -> None:
    # W₂² of x and a x + v on a line: mean of ((a − 1) x + v)².
    x = normal(0, 50, 1)
    loss = sliced_wasserstein_loss(x, 1.5 * x + 2, torch.ones(1, 1))
    assert loss.item() == pytest.approx((0.5 * x + 2).square().mean().item(), rel=1e-12)


# Sliced


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (6, 6), (40, 25)])
def test_sliced_parity_with_pot(num_source: int, num_target: int) -> None:
    ot = pytest.importorskip("ot")
    source, target = normal(0, num_source, 4), 2 * normal(1, num_target, 4) + 1
    directions = projections(4, 20).double()
    expected = ot.sliced_wasserstein_distance(
        source.numpy(), target.numpy(), projections=directions.T.numpy(), p=2
    )
    loss = sliced_wasserstein_loss(source, target, directions)
    assert loss.item() == pytest.approx(expected**2, rel=1e-6)  # POT's directions are float32's, not quite unit


@given(seeds, sizes, sizes, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_sliced_equals_brute_force(seed: int, num_source: int, num_target: int, dim: int) -> None:
    source, target = normal(seed, num_source, dim), normal(seed + 1, num_target, dim) + 1
    directions = normal(seed + 2, 6, dim)
    unit = directions / directions.norm(dim=1, keepdim=True)
    expected = np.mean([quantile_distance(source @ theta, target @ theta) for theta in unit])
    assert sliced_wasserstein_loss(source, target, directions).item() == pytest.approx(expected, rel=1e-9)


def test_sliced_gradient_equals_autograd_through_the_sorted_rows() -> None:
    # The twin repeats rows to a common number, and lets autograd find its way.
    source, target = normal(0, 6, 4).requires_grad_(), (1 + 2 * normal(1, 4, 4)).requires_grad_()
    directions = projections(4, 9).double()
    ours = torch.autograd.grad(sliced_wasserstein_loss(source, target, directions), (source, target))
    lines = (
        (source @ directions.T).repeat_interleave(2, dim=0),
        (target @ directions.T).repeat_interleave(3, dim=0),
    )
    twin = (lines[0].sort(dim=0).values - lines[1].sort(dim=0).values).square().mean()
    for gradient, expected in zip(ours, torch.autograd.grad(twin, (source, target)), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_sliced_does_not_depend_on_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = normal(0, 9, 4).requires_grad_(), normal(1, 5, 4)
    expected = sliced_wasserstein_loss(source, target, projections(4))
    gradient = torch.autograd.grad(expected, source)[0]
    monkeypatch.setattr(transport, "BLOCK_NUMBERS", block)
    loss = sliced_wasserstein_loss(source, target, projections(4))
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, source)[0], gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        max_sliced_wasserstein_loss(source, target, projections(4), 0),
        max(sliced_wasserstein_loss(source, target, theta[None]) for theta in projections(4)),
    )


def test_a_shift_costs_its_square_over_dim() -> None:
    source, shift = normal(0, 30, 3), torch.tensor([3.0, 0.0, 4.0])
    loss = sliced_wasserstein_loss(source, source + shift, projections(3, 20_000))
    assert loss.item() == pytest.approx(25 / 3, rel=0.02)


def test_projections_are_uniform_on_the_sphere() -> None:
    directions = projections(3, 20_000)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(20_000))
    torch.testing.assert_close(directions.T @ directions / 20_000, torch.eye(3) / 3, atol=0.01, rtol=0)
    assert torch.equal(projections(3, 5), projections(3, 5))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (SlicedWassersteinLoss(7), sliced_wasserstein_loss),
        (MaxSlicedWassersteinLoss(7, 2), lambda *args: max_sliced_wasserstein_loss(*args, 2)),
    ],
)
def test_module_draws_anew_at_every_call(module: nn.Module, function: Callable[..., Tensor]) -> None:
    source, target = normal(0, 8, 4), 1 + normal(1, 9, 4)
    torch.manual_seed(3)
    values = [module(source, target) for _ in range(2)]
    twin = torch.Generator().manual_seed(3)
    for value in values:
        assert torch.equal(value, function(source, target, draw_projections(4, 7, twin)))
    assert not torch.equal(*values)
    assert not module.state_dict()


# Max-sliced


def test_max_sliced_finds_the_direction_of_a_shift() -> None:
    source, shift = normal(0, 40, 20), torch.eye(20)[3] * 5
    target = source + shift
    assert max_sliced_wasserstein_loss(source, target, projections(20)).item() == pytest.approx(25, rel=1e-6)
    assert sliced_wasserstein_loss(source, target, projections(20)).item() < 5
    scaled = source * (1 + torch.eye(20)[3])  # one standard deviation doubled: W₂² is its second moment
    expected = source[:, 3].square().mean().item()
    assert max_sliced_wasserstein_loss(source, scaled, projections(20), 50).item() == pytest.approx(
        expected, rel=0.05
    )


def test_max_sliced_is_the_best_of_a_fine_grid() -> None:
    source, target = normal(0, 12, 2), normal(1, 9, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]).double() + 1
    angles = torch.linspace(0, math.pi, 2000, dtype=torch.float64)
    grid = torch.stack([angles.cos(), angles.sin()], dim=1)
    best = max_sliced_wasserstein_loss(source, target, grid, 0).item()
    found = max_sliced_wasserstein_loss(source, target, projections(2), 50).item()
    assert found == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_max_sliced_never_falls_below_where_it_began(num_steps: int) -> None:
    source, target = normal(0, 12, 6), 0.8 * normal(1, 9, 6)
    values = [sliced_wasserstein_loss(source, target, theta[None]).item() for theta in projections(6)]
    found = max_sliced_wasserstein_loss(source, target, projections(6), num_steps).item()
    assert found >= max(values) * (1 - 1e-12)
    assert num_steps or found == pytest.approx(max(values), rel=1e-12)


# Sinkhorn


def entropic_optimum(first: Tensor, second: Tensor, epsilon: float) -> float:
    """Σ π C + ε KL(π ‖ product) at POT's optimal coupling."""
    ot = pytest.importorskip("ot")
    costs = torch.cdist(first, second).square().numpy()
    masses = [np.full(len(rows), 1 / len(rows)) for rows in (first, second)]
    plan = ot.bregman.sinkhorn_log(*masses, costs, epsilon, numItermax=4000, stopThr=1e-9, warn=False)
    return float((plan * costs).sum() + epsilon * (plan * np.log(plan * costs.size)).sum())


def precise(source: Tensor, target: Tensor, epsilon: float = 0.2) -> Tensor:
    return sinkhorn_loss(source, target, epsilon, num_iterations=5000, tolerance=1e-10)


@pytest.mark.parametrize("epsilon", [0.15, 0.5, 2.0])
@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (6, 6), (14, 9)])
def test_sinkhorn_parity_with_pot(num_source: int, num_target: int, epsilon: float) -> None:
    source, target = normal(0, num_source, 3), 2 * normal(1, num_target, 3) + 1
    absolute = epsilon * torch.cdist(source, target).square().mean().item()
    expected = entropic_optimum(source, target, absolute) - sum(
        entropic_optimum(rows, rows, absolute) / 2 for rows in (source, target)
    )
    assert precise(source, target, epsilon).item() == pytest.approx(expected, rel=1e-7)


def test_large_epsilon_parity_with_pots_divergence() -> None:
    # POT's divergence leaves the entropies out of the three costs; for ε → ∞ they are nought.
    ot = pytest.importorskip("ot")
    source, target = normal(0, 8, 3), 2 * normal(1, 6, 3) + 1
    expected = ot.bregman.empirical_sinkhorn_divergence(source.numpy(), target.numpy(), reg=1e6)
    gap = (source.mean(dim=0) - target.mean(dim=0)).square().sum().item()
    loss = precise(source, target, 1e5).item()
    assert loss == pytest.approx(float(expected), rel=1e-3)
    assert loss == pytest.approx(gap, rel=1e-3)


def test_small_epsilon_is_the_exact_distance() -> None:
    ot = pytest.importorskip("ot")
    source, target = normal(0, 6, 3), 2 * normal(1, 4, 3) + 1
    costs = torch.cdist(source, target).square().numpy()
    assert precise(source, target, 0.002).item() == pytest.approx(float(ot.emd2([], [], costs)), rel=0.01)


def test_sinkhorn_sharp_parity_with_pots_sinkhorn2() -> None:
    # ⟨π, C⟩ of sinkhorn2 is OT less its entropy: d(ε · OT at 1/ε)/d(1/ε); here by the derivative in ε.
    ot = pytest.importorskip("ot")
    source, target = normal(0, 6, 3), 2 * normal(1, 4, 3) + 1
    mean_cost = torch.cdist(source, target).square().mean().item()

    def sharp(first: Tensor, second: Tensor) -> float:
        costs = torch.cdist(first, second).square().numpy()
        return float(ot.sinkhorn2([], [], costs, 0.3 * mean_cost, method="sinkhorn_log", stopThr=1e-12))

    divergence = sharp(source, target) - (sharp(source, source) + sharp(target, target)) / 2
    step = 1e-4
    values = [precise(source, target, 0.3 + sign * step).item() for sign in (1, -1)]
    ours = precise(source, target, 0.3).item() - 0.3 * (values[0] - values[1]) / (2 * step)
    assert ours == pytest.approx(divergence, rel=1e-5)


def test_two_points() -> None:
    # One row of each: the coupling has no choice.
    source, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, -2.0]])
    source.requires_grad_()
    loss = sinkhorn_loss(source, target)
    assert loss.item() == pytest.approx(25, rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, source)[0], 2 * (source - target))


def test_epsilon_follows_the_scale() -> None:
    source, target = normal(0, 9, 3), normal(1, 7, 3) + 1
    loss = sinkhorn_loss(source, target).item()
    assert sinkhorn_loss(30 * source + 5, 30 * target + 5).item() == pytest.approx(900 * loss, rel=1e-9)


def test_sinkhorn_gradient_equals_finite_differences_with_epsilon_held() -> None:
    # ε is a constant to the gradient: the twin rescales it so that ε · mean cost stays what it was.
    source, target = normal(0, 4, 2), 2 * normal(1, 3, 2) + 1
    mean_cost = torch.cdist(source, target).square().mean()

    def held(first: Tensor, second: Tensor) -> float:
        ratio = mean_cost / torch.cdist(first, second).square().mean()
        return precise(first, second, 0.5 * ratio.item()).item()

    first, second = source.clone().requires_grad_(), target.clone().requires_grad_()
    gradients = torch.autograd.grad(precise(first, second, 0.5), (first, second))
    step = 1e-5
    for side, rows in enumerate((source, target)):
        for place in np.ndindex(*rows.shape):
            values = []
            for sign in (1, -1):
                moved = [source.clone(), target.clone()]
                moved[side][place] += sign * step
                values.append(held(*moved))
            expected = (values[0] - values[1]) / (2 * step)
            assert gradients[side][place].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("setting", ["BLOCK_NUMBERS", "KEPT_COSTS"])
def test_sinkhorn_does_not_depend_on_the_blocks(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = normal(0, 9, 4).requires_grad_(), normal(1, 5, 4)
    expected = sinkhorn_loss(source, target)
    gradient = torch.autograd.grad(expected, source)[0]
    monkeypatch.setattr(transport, setting, 11)
    loss = sinkhorn_loss(source, target)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, source)[0], gradient, rtol=1e-10, atol=1e-12)


def test_iterations_stop_at_the_tolerance() -> None:
    source, target = normal(0, 20, 3), normal(1, 15, 3) + 1
    exact, coarse = precise(source, target), sinkhorn_loss(source, target, tolerance=0.1)
    fine = sinkhorn_loss(source, target, tolerance=1e-6, num_iterations=1000)
    assert abs(fine - exact) < 1e-6 * exact
    assert abs(fine - exact) < abs(coarse - exact)
    assert torch.equal(
        sinkhorn_loss(source, target, tolerance=1e9), sinkhorn_loss(source, target, num_iterations=1)
    )


# All of them


@given(seeds, sizes, sizes)
@settings(max_examples=30, deadline=None)
@every_loss
def test_properties(name: str, seed: int, num_source: int, num_target: int) -> None:
    loss_of = FUNCTIONS[name]
    source, target = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = loss_of(source, target).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert loss > 0
    assert loss_of(source, source.clone()).item() == pytest.approx(0, abs=1e-12)
    assert loss_of(source, source[order]).item() == pytest.approx(0, abs=1e-12)
    assert loss_of(target, source).item() == pytest.approx(loss, rel=1e-9)
    assert loss_of(source[order], target).item() == pytest.approx(loss, rel=1e-9)
    assert loss_of(source + 7, target + 7).item() == pytest.approx(loss, rel=1e-8)
    assert loss_of(3 * source, 3 * target).item() == pytest.approx(9 * loss, rel=1e-8)
    assert loss_of(source, target + 50).item() > 100 * max(loss, 1)


@given(seeds, sizes)
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", ["sliced", "max_sliced"])
def test_repeated_rows_change_nothing(name: str, seed: int, num_source: int) -> None:
    source, target = normal(seed, num_source, 3), normal(seed + 1, 4, 3)
    loss = FUNCTIONS[name](source, target).item()
    assert FUNCTIONS[name](source.repeat(3, 1), target).item() == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize(("num_source", "num_target"), [(6, 5), (1, 4), (4, 1), (3, 3)])
@pytest.mark.parametrize("name", ["sliced", "max_sliced"])
def test_gradcheck(name: str, num_source: int, num_target: int) -> None:
    inputs = normal(0, num_source, 4).requires_grad_(), (1 + 2 * normal(1, num_target, 4)).requires_grad_()
    loss = FUNCTIONS[name]
    if name == "max_sliced":  # at a direction that is a maximum in no way, but held
        loss = lambda s, t: max_sliced_wasserstein_loss(s, t, projections(4), 0)  # noqa: E731
    assert torch.autograd.gradcheck(loss, inputs)


def test_max_sliced_gradient_at_the_maximum() -> None:
    # At a maximum with a derivative, the direction's own movement is of second order.
    inputs = normal(0, 6, 3).requires_grad_(), (5 + normal(1, 5, 3)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, t: max_sliced_wasserstein_loss(s, t, projections(3), 60), inputs, atol=1e-5
    )


@every_loss
def test_there_is_no_second_derivative(name: str) -> None:
    source = normal(0, 6, 4).requires_grad_()
    loss = FUNCTIONS[name](source, normal(1, 5, 4))
    with pytest.raises(RuntimeError, match=r"_loss has no second derivative; call without create_graph"):
        torch.autograd.grad(loss, source, create_graph=True)


CORNERS = ["single", "single source", "identical", "constant", "two constants", "zero", "one constant",
           "duplicates", "small", "large"]  # fmt: skip


def corner_batches(corner: str) -> tuple[Tensor, Tensor]:
    rows = normal(0, 6, 4)
    return {
        "single": (rows[:1], rows[1:2]),
        "single source": (rows[:1], rows[1:]),
        "identical": (rows, rows.clone()),
        "constant": (torch.full((3, 4), 0.1), torch.full((5, 4), 0.1)),
        "two constants": (torch.full((3, 4), 0.1), torch.full((5, 4), 0.7)),
        "zero": (torch.zeros(3, 4), torch.zeros(4, 4)),
        "one constant": (torch.full((3, 4), 0.1), rows),
        "duplicates": (rows[:2].repeat(3, 1), rows[:2].repeat(2, 1)),
        "small": (1e-3 * rows, 2e-3 * rows[:4]),
        "large": (200 * rows, 200 * rows.flip(0) + 300),
    }[corner]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", CORNERS)
@every_loss
def test_gradient_is_finite_in_corners(name: str, corner: str, dtype: torch.dtype) -> None:
    batches = [batch.to(dtype).requires_grad_() for batch in corner_batches(corner)]
    loss = FUNCTIONS[name](*batches)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.isfinite()
    for batch in batches:
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        assert batch.grad.isfinite().all()
    if corner in ("identical", "constant", "zero", "duplicates"):
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert max(batch.grad.abs().max().item() for batch in batches if batch.grad is not None) < 1e-3
    else:
        assert loss.item() > 0


@every_loss
def test_gradient_of_one_domain_alone(name: str) -> None:
    source, target = normal(0, 9, 4).requires_grad_(), 1 + 2 * normal(1, 6, 4)
    (alone,) = torch.autograd.grad(FUNCTIONS[name](source, target), source)
    both = torch.autograd.grad(FUNCTIONS[name](source, target.requires_grad_()), (source, target))
    assert torch.equal(alone, both[0])
    assert both[1].abs().max() > 1e-3
    with torch.no_grad():
        assert not FUNCTIONS[name](source, target).requires_grad


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    source, target = normal(0, 8, 6).float().requires_grad_(), normal(1, 9, 6).float()
    outside = FUNCTIONS[name](source, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = FUNCTIONS[name](source, target)
    assert torch.equal(inside, outside)
    assert torch.equal(torch.autograd.grad(inside, source)[0], torch.autograd.grad(outside, source)[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@every_loss
def test_a_diverged_batch_shows(name: str, value: float) -> None:
    source = normal(0, 4, 3)
    source[1, 1] = value
    assert not FUNCTIONS[name](source, normal(1, 5, 3)).isfinite()


def test_sinkhorn_module_is_the_function() -> None:
    source, target = normal(0, 8, 4), 1 + normal(1, 9, 4)
    module, function = SinkhornLoss(0.1, 3, 0.01), sinkhorn_loss(source, target, 0.1, 3, 0.01)
    assert torch.equal(module(source, target), function)
    assert torch.equal(SinkhornLoss()(source, target), sinkhorn_loss(source, target))
    assert not torch.equal(function, sinkhorn_loss(source, target))


@pytest.mark.parametrize("loss", [SlicedWassersteinLoss(), MaxSlicedWassersteinLoss(), SinkhornLoss()])
def test_bad_batches(loss: Loss) -> None:
    with pytest.raises(InputError, match="source has dim 5 and target_domain has dim 6; expected the same dim"):
        loss(torch.ones(3, 5), torch.ones(3, 6))
    with pytest.raises(InputError, match=r"source has shape \(3, 0\); expected at least one row and one column"):
        loss(torch.ones(3, 0), torch.ones(3, 0))
    with pytest.raises(InputError, match=r"source has shape \(3,\); expected two dimensions"):
        loss(torch.ones(3), torch.ones(3, 6))


def test_bad_arguments() -> None:
    rows = torch.ones(3, 4)
    for shape in ((4,), (0, 4), (5, 3)):
        for function in (sliced_wasserstein_loss, max_sliced_wasserstein_loss):
            with pytest.raises(
                InputError, match=r"projections have shape .*; expected \(num_projections, 4\), the dim"
            ):
                function(rows, rows, torch.ones(shape))
    with pytest.raises(InputError, match="dim of the projections is 0; expected at least 1"):
        draw_projections(0, 3)
    for build in (SlicedWassersteinLoss, MaxSlicedWassersteinLoss):
        with pytest.raises(InputError, match="num_projections of the projections is 0; expected at least 1"):
            build(0)
    for bad in (lambda: MaxSlicedWassersteinLoss(num_steps=-1),
                lambda: max_sliced_wasserstein_loss(rows, rows, rows, -1)):  # fmt: skip
        with pytest.raises(InputError, match="num_steps of the max-sliced distance is -1; expected zero or more"):
            bad()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; expected a positive, finite number"),
        ({"epsilon": math.nan}, "epsilon is nan; expected a positive, finite number"),
        ({"tolerance": -1.0}, r"tolerance is -1.0; expected a positive, finite number"),
        ({"num_iterations": 0}, "num_iterations of the Sinkhorn loss is 0; expected at least 1"),
    ],
)
def test_bad_sinkhorn_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SinkhornLoss(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        sinkhorn_loss(torch.ones(2, 2), torch.ones(2, 2), **arguments)  # type: ignore[arg-type]
