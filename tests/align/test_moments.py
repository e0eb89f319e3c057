"""Moment matching against loops over moments and whole moment tensors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align import kernel_blocks
from spkadapt.align.moments import CmdLoss, HommLoss, cmd_loss, homm_loss, mean_loss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_gradients(loss: Tensor, twin: Tensor, pairs: list[Tensor], twins: list[Tensor]) -> None:
    assert loss.item() == pytest.approx(twin.item(), rel=1e-10)
    for ours, theirs in zip(torch.autograd.grad(loss, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def leaves(num_source: int, num_target: int, dim: int) -> list[Tensor]:
    return [
        (normal(0, num_source, dim) + 0.5).requires_grad_(),
        (2 * normal(1, num_target, dim)).requires_grad_(),
    ]


def direct_cmd(source: Tensor, target_domain: Tensor, num_moments: int, a: float, b: float) -> Tensor:
    """Definition 2 of Zellinger et al., coordinate by coordinate."""

    def moment(batch: Tensor, column: int, order: int) -> Tensor:
        values = [row[column] for row in batch]
        mean = sum(values) / len(values)
        return mean if order == 1 else sum((value - mean) ** order for value in values) / len(values)

    loss = source.new_zeros(())
    for order in range(1, num_moments + 1):
        squares = [
            (moment(source, column, order) - moment(target_domain, column, order)) ** 2
            for column in range(source.shape[1])
        ]
        loss = loss + sum(squares).sqrt() / abs(b - a) ** order
    return loss


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize(("num_moments", "interval"), [(1, (-1.0, 1.0)), (5, (-1.0, 1.0)), (4, (0.0, 3.0))])
def test_cmd_equals_the_definition(
    num_source: int, num_target: int, num_moments: int, interval: tuple[float, float]
) -> None:
    pairs, twins = leaves(num_source, num_target, 3), leaves(num_source, num_target, 3)
    loss = cmd_loss(*pairs, num_moments, interval)
    assert_same_gradients(loss, direct_cmd(*twins, num_moments, *interval), pairs, twins)


def test_cmd_in_closed_form() -> None:
    # Coordinates ±1 against ±½, both about zero: central moments 1 and 2^−k of even order, none of odd.
    source, target_domain = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-0.5], [0.5]])
    expected = (1 - 1 / 4) / 4 + (1 - 1 / 16) / 16
    assert cmd_loss(source, target_domain).item() == pytest.approx(expected, rel=1e-6)
    # A shift adds its length over the width and nothing else.
    assert cmd_loss(source + 3, target_domain).item() == pytest.approx(expected + 3 / 2, rel=1e-6)


def test_cmd_gradient_keeps_its_length_near_equality() -> None:
    source = normal(0, 8, 3)
    for shift in (1e-2, 1e-7):
        moved = (source + torch.tensor([shift, 0.0, 0.0])).requires_grad_()
        (gradient,) = torch.autograd.grad(cmd_loss(moved, source, num_moments=1), moved)
        assert gradient.sum(dim=0)[0].item() == pytest.approx(1 / 2, rel=1e-6)


def direct_homm(source: Tensor, target_domain: Tensor, order: int) -> Tensor:
    """Equation 3 of Chen et al., on whole tensors of d^order entries."""

    def moment(batch: Tensor) -> Tensor:
        tensors = []
        for row in batch:
            tensor = torch.ones((), dtype=batch.dtype)
            for _ in range(order):
                tensor = tensor[..., None] * row
            tensors.append(tensor)
        return torch.stack(tensors).mean(dim=0)

    return (moment(source) - moment(target_domain)).square().sum() / source.shape[1] ** order


@pytest.mark.parametrize("block_rows", [2, 1024])
@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_homm_equals_the_whole_tensors(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, num_source: int, num_target: int, order: int
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    pairs, twins = leaves(num_source, num_target, 4), leaves(num_source, num_target, 4)
    assert_same_gradients(homm_loss(*pairs, order), direct_homm(*twins, order), pairs, twins)


def test_homm_of_order_one_is_the_mean_loss() -> None:
    source, target_domain = normal(0, 7, 5), normal(1, 4, 5) + 1
    expected = mean_loss(source, target_domain).item() / 5
    assert homm_loss(source, target_domain, 1).item() == pytest.approx(expected, rel=1e-10)


def test_homm_of_order_two_is_coral_of_centred_rows() -> None:
    batches = [normal(0, 7, 5), 2 * normal(1, 7, 5)]
    centred = [batch - batch.mean(dim=0) for batch in batches]
    covariances = [batch.T @ batch / 7 for batch in centred]
    expected = (covariances[0] - covariances[1]).square().sum() / 25
    assert homm_loss(*centred, order=2).item() == pytest.approx(expected.item(), rel=1e-10)


def test_mean_loss() -> None:
    source, target_domain = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[5.0, 1.0]])
    assert mean_loss(source, target_domain).item() == 9 + 9
    assert mean_loss(source, source.flip(0)).item() == 0


@given(seeds, sizes, sizes)
@settings(max_examples=25, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    for function in (mean_loss, cmd_loss, homm_loss):
        loss = function(source, target_domain).item()
        assert loss > 0
        assert function(target_domain, source).item() == pytest.approx(loss, rel=1e-8)
        assert function(source[order], target_domain).item() == pytest.approx(loss, rel=1e-8)
        assert function(source, source[order]).item() == pytest.approx(0, abs=1e-10)
        assert function(source, source + 0.5).item() > 1e-3


def test_high_moments_do_not_vanish_in_float32() -> None:
    # Coordinates of 512 are about 0.04: their fifth moments are 1e-8 and the squares of those 1e-16.
    source, target_domain = normal(0, 300, 512), normal(1, 200, 512).exp()
    source, target_domain = (x / x.norm(dim=1, keepdim=True) for x in (source, target_domain))
    exact = cmd_loss(source, target_domain).item()
    assert cmd_loss(source.float(), target_domain.float()).item() == pytest.approx(exact, rel=1e-5)
    exact = homm_loss(source, target_domain).item()
    assert homm_loss(source.float(), target_domain.float()).item() == pytest.approx(exact, rel=1e-4)


def test_moments_whose_squares_float32_cannot_hold() -> None:
    # Of coordinates of 1e4 the fifth moment is 1e20.
    source, target_domain = 1e4 * normal(0, 30, 3), 1e4 * normal(1, 20, 3).exp()
    rows = source.float().requires_grad_()
    loss = cmd_loss(rows, target_domain.float())
    loss.backward()
    assert loss.item() == pytest.approx(cmd_loss(source, target_domain).item(), rel=1e-5)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_bad_arguments() -> None:
    one = torch.ones(2, 2)
    message = "num_moments of the central moment discrepancy is 0; expected at least 1"
    with pytest.raises(InputError, match=message):
        cmd_loss(one, one, num_moments=0)
    with pytest.raises(InputError, match=message):
        CmdLoss(num_moments=0)
    for interval in ((1.0, 1.0), (1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)):
        message = (
            r"interval of the central moment discrepancy is \(.*\); expected a lower and a greater, finite bound"
        )
        with pytest.raises(InputError, match=message):
            cmd_loss(one, one, interval=interval)
    for bad in (0, -3):
        with pytest.raises(InputError, match=f"order of the moments is {bad}; expected at least 1"):
            homm_loss(one, one, bad)
        with pytest.raises(InputError, match=f"order of the moments is {bad}; expected at least 1"):
            HommLoss(bad)
