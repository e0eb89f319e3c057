"""CORAL against NumPy's covariance, the published figure and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align import ALIGNMENTS, CoralLoss, coral_loss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(2, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_coral(source: Tensor, target_domain: Tensor) -> float:
    covariances = [np.atleast_2d(np.cov(batch.numpy(), rowvar=False)) for batch in (source, target_domain)]
    return float(((covariances[0] - covariances[1]) ** 2).sum() / (4 * source.shape[1] ** 2))


def test_published_figure() -> None:
    # pytorch-adapt's figure for these batches; the source is drawn first.
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.normal(size=(64, 8)))
    target_domain = torch.from_numpy(1.5 * rng.normal(size=(64, 8)) + 0.5)
    assert coral_loss(source, target_domain).item() == pytest.approx(0.048131, abs=5e-7)
    assert coral_loss(source.float(), target_domain.float()).item() == pytest.approx(0.048131, abs=5e-7)


@given(seeds, sizes, sizes, st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_value_equals_numpy(seed: int, num_source: int, num_target: int, dim: int) -> None:
    source, target_domain = normal(seed, num_source, dim), 2 * normal(seed + 1, num_target, dim) + 1
    assert coral_loss(source, target_domain).item() == pytest.approx(numpy_coral(source, target_domain), rel=1e-10)


@pytest.mark.parametrize(("num_source", "num_target"), [(5, 3), (1, 4), (4, 1), (3, 3)])
def test_gradient(num_source: int, num_target: int) -> None:
    inputs = (normal(0, num_source, 3).requires_grad_(), normal(1, num_target, 3).requires_grad_())
    assert torch.autograd.gradcheck(coral_loss, inputs)
    assert torch.autograd.gradgradcheck(coral_loss, inputs)


@given(seeds, sizes, sizes)
@settings(max_examples=30, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)
    loss = coral_loss(source, target_domain).item()
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert loss > 0
    assert coral_loss(source, source).item() == 0
    assert coral_loss(target_domain, source).item() == loss
    assert coral_loss(source[order], target_domain).item() == pytest.approx(loss, rel=1e-9)
    assert coral_loss(source + 7, target_domain - 3).item() == pytest.approx(loss, rel=1e-9)
    assert coral_loss(3 * source, 3 * target_domain).item() == pytest.approx(81 * loss, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "identical", "constant", "large"])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    source = {
        "single": torch.randn(1, 6),
        "identical": torch.ones(4, 6) * torch.arange(4)[:, None],
        "constant": torch.full((4, 6), 0.1),
        "large": 200 * torch.randn(4, 6),  # covariances of 40,000, squares beyond half precision
    }[corner]
    source = source.to(dtype).requires_grad_()
    target_domain = (torch.full((3, 6), 0.3) if corner == "constant" else source.detach().clone()).to(dtype)
    target_domain.requires_grad_()
    loss = coral_loss(source, 2 * target_domain if corner == "large" else target_domain)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.dtype == dtype
        # The large gradient itself may exceed what half precision can hold.
        assert batch.grad.isfinite().all() or (corner == "large" and dtype == torch.float16)
    if corner != "large":
        assert loss.item() < 1e-12
        assert source.grad is not None
        assert source.grad.abs().max() < 1e-6


def test_autocast_changes_nothing() -> None:
    source, target_domain = torch.randn(8, 6), torch.randn(9, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = coral_loss(source, target_domain)
    assert torch.equal(inside, coral_loss(source, target_domain))


def test_module_is_the_function() -> None:
    source, target_domain = torch.randn(8, 6), torch.randn(9, 6)
    assert torch.equal(CoralLoss()(source, target_domain), coral_loss(source, target_domain))


@pytest.mark.parametrize(
    ("source", "target_domain", "message"),
    [
        (torch.ones(3), torch.ones(3, 2), r"source has shape \(3,\); expected two dimensions, \(batch, dim\)"),
        (torch.ones(3, 2), torch.ones(1, 3, 2), r"target_domain has shape \(1, 3, 2\); expected two dimensions"),
        (
            torch.ones(0, 2),
            torch.ones(3, 2),
            r"source has shape \(0, 2\); expected at least one row and one column",
        ),
        (
            torch.ones(3, 0),
            torch.ones(3, 0),
            r"source has shape \(3, 0\); expected at least one row and one column",
        ),
        (torch.ones(3, 2).long(), torch.ones(3, 2), r"source holds torch.int64; expected floating point"),
        (
            torch.ones(3, 2),
            torch.ones(3, 4),
            "source has dim 2 and target_domain has dim 4; expected the same dim",
        ),
        (
            torch.ones(3, 2),
            torch.ones(3, 2, device="meta"),
            "source is on cpu and target_domain on meta; expected one",
        ),
    ],
)
@pytest.mark.parametrize("name", sorted(ALIGNMENTS))
def test_bad_batches(name: str, source: Tensor, target_domain: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ALIGNMENTS[name](2)(source, target_domain)


@pytest.mark.parametrize("name", sorted(ALIGNMENTS))
def test_every_alignment_trains_with_unequal_batches(name: str) -> None:
    source, target_domain = torch.randn(5, 6, requires_grad=True), (1 + 2 * torch.randn(3, 6)).requires_grad_()
    loss = ALIGNMENTS[name](6)(source, target_domain)
    loss.backward()
    assert loss.shape == ()
    for batch in (source, target_domain):
        assert batch.grad is not None
        assert batch.grad.abs().sum() > 0
