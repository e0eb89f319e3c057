"""Moments of the source pooled exactly, and the distance from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align.coral import coral_loss
from spkadapt.align.source_free import SourceMomentsLoss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def after(source: Tensor, *sizes: int) -> SourceMomentsLoss:
    loss = SourceMomentsLoss(source.shape[1])
    for batch in source.split(list(sizes) or len(source)):
        loss.add(batch)
    return loss


@given(seeds, st.integers(2, 9), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_equals_numpy_and_coral(seed: int, num_source: int, num_target: int, dim: int) -> None:
    source, target_domain = normal(seed, num_source, dim), 2 * normal(seed + 1, num_target, dim) + 1
    means = [batch.numpy().mean(axis=0) for batch in (source, target_domain)]
    expected = ((means[0] - means[1]) ** 2).sum() / dim + coral_loss(source, target_domain).item()
    assert after(source)(target_domain).item() == pytest.approx(expected, rel=1e-9)
    assert after(source)(source).item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("sizes", [(11,), (1, 10), (4, 4, 3), (1,) * 11])
def test_moments_do_not_depend_on_the_batches(sizes: tuple[int, ...]) -> None:
    source = 1e5 + normal(0, 11, 3)  # squares of 1e10 about a variance of one
    loss = after(source, *sizes)
    np.testing.assert_allclose(loss.mean, source.numpy().mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(loss.scatter / 10, np.cov(source.numpy(), rowvar=False), rtol=1e-8)


def test_gradcheck_and_state() -> None:
    loss = after(normal(0, 9, 3))
    again = SourceMomentsLoss(3)
    again.load_state_dict(loss.state_dict())
    target_domain = normal(1, 5, 3).requires_grad_()
    assert torch.equal(again(target_domain), loss(target_domain))
    assert torch.autograd.gradcheck(loss, target_domain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("corner", ["single", "constant", "zero"])
def test_gradient_is_finite_in_corners(dtype: torch.dtype, corner: str) -> None:
    loss = after(normal(0, 9, 6))
    rows = {"single": torch.randn(1, 6), "constant": torch.full((4, 6), 0.1), "zero": torch.zeros(4, 6)}[corner]
    rows = rows.to(dtype).requires_grad_()
    value = loss(rows)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    loss, rows = after(normal(0, 9, 6)), torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(rows)
    assert torch.equal(inside, loss(rows))


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="dim of the source moments is 0; expected at least 1"):
        SourceMomentsLoss(0)
    loss = SourceMomentsLoss(3)
    loss.add(torch.ones(1, 3))
    with pytest.raises(InputError, match="the source moments are of 1 embeddings; add at least two first"):
        loss(torch.ones(2, 3))
    with pytest.raises(InputError, match="source has dim 2; the source moments have 3"):
        loss.add(torch.ones(2, 2))
    with pytest.raises(InputError, match="target_domain has dim 2; the source moments have 3"):
        loss(torch.ones(2, 2))
    with pytest.raises(InputError, match=r"source has shape \(2,\); expected two dimensions"):
        loss.add(torch.ones(2))
