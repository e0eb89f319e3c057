"""Singular-value penalties against whole decompositions, and where those have no derivative."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.linear_algebra import symmetric_eigen
from spkadapt.align.spectral import (
    BatchNuclearNormLoss,
    BatchSpectralPenalty,
    batch_nuclear_norm_loss,
    batch_spectral_penalty,
)
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_penalty(source: Tensor, target_domain: Tensor, num_values: int) -> Tensor:
    """Equation 8 of Chen et al. through the singular values, differentiated by autograd."""
    return sum(torch.linalg.svdvals(batch)[:num_values].square().sum() for batch in (source, target_domain))


@given(seeds, sizes, sizes, st.integers(1, 6), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_equal_the_decomposition(
    seed: int, num_source: int, num_target: int, dim: int, num_values: int
) -> None:
    pairs, twins = (
        [normal(seed, num_source, dim).requires_grad_(), (normal(seed + 1, num_target, dim) + 1).requires_grad_()]
        for _ in range(2)
    )
    loss, twin = batch_spectral_penalty(*pairs, num_values), direct_penalty(*twins, num_values)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(loss, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_values", [1, 2])
def test_known_singular_values(num_values: int) -> None:
    source, target_domain = torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.tensor([[0.0, 5.0, 0.0]])
    expected = {1: 9 + 25, 2: 9 + 4 + 25}[num_values]
    assert batch_spectral_penalty(source, target_domain, num_values).item() == pytest.approx(expected, rel=1e-6)


def test_gradient_where_singular_values_are_equal() -> None:
    # σ = 2, 2, 1: the sum of the two largest squares is smooth here, with gradient 2 X on their subspace.
    rotation, _ = torch.linalg.qr(normal(0, 3, 3))
    source = (torch.tensor([2.0, 2.0, 1.0]).double().diag() @ rotation).requires_grad_()
    loss = batch_spectral_penalty(source, torch.zeros(1, 3).double(), num_values=2)
    loss.backward()
    expected = 2 * source.detach()
    expected[2] = 0
    assert source.grad is not None
    assert loss.item() == pytest.approx(8, rel=1e-12)
    torch.testing.assert_close(source.grad, expected, rtol=1e-9, atol=1e-9)


def test_gradient_where_all_singular_values_are_equal_is_a_subgradient() -> None:
    # The sum of k squares is convex: the tangent lies below it everywhere.
    source = torch.eye(4).double().requires_grad_()
    zero = torch.zeros(1, 4).double()
    loss = batch_spectral_penalty(source, zero, 2)
    (gradient,) = torch.autograd.grad(loss, source)
    assert gradient.norm().item() == pytest.approx(2 * math.sqrt(2), rel=1e-9)
    for seed in range(20):
        other = normal(seed, 4, 4)
        tangent = loss + (gradient * (other - source.detach())).sum()
        assert batch_spectral_penalty(other, zero, 2) >= tangent - 1e-9


def test_all_values_are_the_squared_norm() -> None:
    source, target_domain = normal(0, 5, 3).requires_grad_(), normal(1, 2, 3).requires_grad_()
    loss = batch_spectral_penalty(source, target_domain, num_values=99)
    loss.backward()
    assert loss.item() == pytest.approx((source.square().sum() + target_domain.square().sum()).item(), rel=1e-12)
    for batch in (source, target_domain):
        torch.testing.assert_close(batch.grad, 2 * batch.detach())


def test_descending_it_takes_the_dominant_direction_down_alone() -> None:
    # One step of gradient descent scales the leading singular value and leaves the others.
    batch = normal(0, 6, 4).requires_grad_()
    before = torch.linalg.svdvals(batch.detach())
    (gradient,) = torch.autograd.grad(batch_spectral_penalty(batch, torch.zeros(1, 4).double()), batch)
    after = torch.linalg.svdvals(batch.detach() - 0.01 * gradient)
    torch.testing.assert_close(
        after, before * torch.tensor([0.98, 1.0, 1.0, 1.0], dtype=torch.float64), rtol=1e-8, atol=1e-10
    )


def test_bad_num_values() -> None:
    for bad in (0, -1):
        message = f"num_values of the batch spectral penalty is {bad}; expected at least 1"
        with pytest.raises(InputError, match=message):
            batch_spectral_penalty(torch.ones(2, 2), torch.ones(2, 2), bad)
        with pytest.raises(InputError, match=message):
            BatchSpectralPenalty(bad)


@given(seeds, sizes, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_nuclear_norm_equals_the_decomposition(seed: int, num_rows: int, num_classes: int) -> None:
    probabilities = (3 * normal(seed, num_rows, num_classes)).softmax(dim=1).requires_grad_()
    twin = probabilities.detach().clone().requires_grad_()
    loss, expected = batch_nuclear_norm_loss(probabilities), -torch.linalg.svdvals(twin).sum() / num_rows
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert -math.sqrt(min(num_rows, num_classes) / num_rows) - 1e-12 <= loss.item() < 0
    (ours,), (theirs,) = torch.autograd.grad(loss, probabilities), torch.autograd.grad(expected, twin)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_nuclear_norm_in_closed_form() -> None:
    # Certain and balanced: n / C rows of each class give C singular values of √(n / C). Of one class: √n alone.
    balanced, one_class = torch.eye(3)[torch.arange(12) % 3], torch.eye(3)[torch.zeros(12).long()]
    uniform = torch.full((12, 3), 1 / 3)
    assert batch_nuclear_norm_loss(balanced).item() == pytest.approx(-3 * 2 / 12, rel=1e-6)
    assert batch_nuclear_norm_loss(one_class).item() == pytest.approx(-math.sqrt(12) / 12, rel=1e-6)
    assert batch_nuclear_norm_loss(uniform).item() == pytest.approx(-math.sqrt(12 / 3) / 12, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "constant", "balanced", "identical", "one class"])
def test_nuclear_norm_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    drawn = normal(0, 4, 3).softmax(dim=1)
    probabilities = {
        "single": drawn[:1],
        "constant": torch.full((4, 3), 1 / 3),
        "balanced": torch.eye(3)[torch.arange(6) % 3],
        "identical": drawn[:1].repeat(5, 1),
        "one class": torch.ones(4, 1),
    }[corner].to(dtype)
    probabilities.requires_grad_()
    loss = batch_nuclear_norm_loss(probabilities)
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert probabilities.grad is not None
    assert probabilities.grad.dtype == dtype
    # A partial isometry over n: its largest singular value is 1 / n, whatever lies beyond the rank.
    largest = torch.linalg.matrix_norm(probabilities.grad.double(), 2).item()
    assert largest == pytest.approx(1 / len(probabilities), rel=2e-2)


def test_nuclear_norm_gradient_beyond_the_rank_is_zero() -> None:
    # Rank one: u = 1 / √12 and v = 1 / √3 alone, whatever vectors a decomposition adds.
    probabilities = torch.full((12, 3), 1 / 3).requires_grad_()
    batch_nuclear_norm_loss(probabilities).backward()
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad, torch.full((12, 3), -1 / 12 / 6))


def test_nuclear_norm_module_autocast_and_second_derivative() -> None:
    probabilities = normal(0, 5, 4).float().softmax(dim=1).requires_grad_()
    loss = batch_nuclear_norm_loss(probabilities)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(BatchNuclearNormLoss()(probabilities), loss)
    with pytest.raises(RuntimeError, match="batch_nuclear_norm_loss has no second derivative"):
        torch.autograd.grad(loss, probabilities, create_graph=True)
    assert batch_nuclear_norm_loss(torch.full((2, 2), math.nan)).isnan()


def test_nuclear_norm_of_logits_is_refused() -> None:
    message = "probabilities of row 0 sum to 3, the least 1; expected probabilities, as of a softmax"
    with pytest.raises(InputError, match=message):
        batch_nuclear_norm_loss(torch.tensor([[1.0, 2.0]]))


def test_eigen_of_what_is_not_finite_is_nan() -> None:
    values, vectors = symmetric_eigen(torch.tensor([[1.0, math.inf], [math.inf, 1.0]]))
    assert values.isnan().all()
    assert vectors.isnan().all()
    assert values.shape == (2,)
    assert vectors.shape == (2, 2)
