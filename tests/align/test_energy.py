"""The energy distance against its definition, closed forms and SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import energy_distance
from torch import Tensor

from spkadapt.align import kernel_blocks
from spkadapt.align.energy import energy_distance_loss

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_energy(source: Tensor, target_domain: Tensor) -> Tensor:
    """The definition, pair by pair; a pair of equal rows is left out of the graph."""

    def mean(left: Tensor, right: Tensor) -> Tensor:
        pairs = [(x - y).norm() for x in left for y in right if not torch.equal(x, y)]
        return torch.stack([*pairs, torch.zeros((), dtype=left.dtype)]).sum() / (len(left) * len(right))

    return 2 * mean(source, target_domain) - mean(source, source) - mean(target_domain, target_domain)


@pytest.mark.parametrize("block_rows", [1, 2, 1024])
@pytest.mark.parametrize("repeats", [1, 2])
def test_value_and_gradient_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, repeats: int
) -> None:
    monkeypatch.setattr(kernel_blocks, "BLOCK_ROWS", block_rows)
    # With repeats there are coincident rows within and across the domains.
    first = normal(0, 4, 3) + 10
    batches = [first.repeat(repeats, 1), torch.cat([first[: repeats - 1], 2 * normal(1, 5, 3) + 11])]
    pairs, twins = ([batch.clone().requires_grad_() for batch in batches] for _ in range(2))
    loss, twin = energy_distance_loss(*pairs), direct_energy(*twins)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    (3 * loss).backward()
    (3 * twin).backward()
    for ours, theirs in zip(pairs, twins, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)


def test_two_rows_in_closed_form() -> None:
    source = torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss = energy_distance_loss(source, torch.tensor([[3.0, 4.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(10, rel=1e-6)
    assert source.grad is not None
    torch.testing.assert_close(source.grad, torch.tensor([[-1.2, -1.6]]))


@given(seeds, sizes, sizes)
@settings(max_examples=25, deadline=None)
def test_one_dimension_equals_scipy(seed: int, num_source: int, num_target: int) -> None:
    # SciPy's is the square root of ours.
    source, target_domain = normal(seed, num_source, 1), normal(seed + 1, num_target, 1) + 0.5
    expected = energy_distance(source[:, 0].numpy(), target_domain[:, 0].numpy()) ** 2
    assert energy_distance_loss(source, target_domain).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


@given(seeds, sizes, sizes)
@settings(max_examples=25, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = energy_distance_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert loss > 0
    assert energy_distance_loss(target_domain, source).item() == pytest.approx(loss, rel=1e-9)
    assert energy_distance_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert energy_distance_loss(source + 5, target_domain + 5).item() == pytest.approx(loss, rel=1e-6)
    assert energy_distance_loss(3 * source, 3 * target_domain).item() == pytest.approx(3 * loss, rel=1e-9)
    rotation, _ = torch.linalg.qr(normal(seed + 2, 4, 4))
    assert energy_distance_loss(source @ rotation, target_domain @ rotation).item() == pytest.approx(
        loss, rel=1e-8
    )
    assert energy_distance_loss(source, source[order]).item() == pytest.approx(0, abs=1e-12)


def test_grows_with_the_shift_between_means() -> None:
    source, target_domain = normal(0, 200, 8), normal(1, 150, 8)
    losses = [energy_distance_loss(source, target_domain + shift).item() for shift in (0, 0.25, 0.5, 1, 2, 1e4)]
    assert losses == sorted(losses)
    # Far apart, every distance between domains is the shift's length.
    assert losses[-1] == pytest.approx(2 * 1e4 * math.sqrt(8), rel=1e-3)
