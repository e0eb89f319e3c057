"""Directions of rows, in every corner, and what the batch checks refuse."""

from __future__ import annotations

import pytest
import torch

from spkadapt.align.directions import check_batch, check_equal_batches, check_positive, unit
from spkadapt.errors import InputError


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_no_square_overflows_or_vanishes(size: float) -> None:
    rows = (size * torch.tensor([[3.0, 4.0], [-5.0, 12.0]], dtype=torch.float64)).requires_grad_()
    expected = torch.tensor([[0.6, 0.8], [-5 / 13, 12 / 13]], dtype=torch.float64)
    torch.testing.assert_close(unit(rows), expected, rtol=1e-15, atol=0)
    unit(rows)[0, 0].backward()
    # (I − u uᵀ) / ‖x‖, first column
    torch.testing.assert_close(
        rows.grad[0] * size, torch.tensor([0.64 / 5, -0.48 / 5], dtype=torch.float64), rtol=1e-13, atol=0
    )


def test_gradients() -> None:
    rows = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(unit, rows)
    assert torch.autograd.gradgradcheck(unit, rows)


def test_zeros_stay_zeros_and_pass_the_gradient_on() -> None:
    rows = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).requires_grad_()
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    (unit(rows) * weight).sum().backward()
    assert torch.equal(unit(rows), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(rows.grad, torch.tensor([[1.0, -2.0], [0.0, 2.0]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_row_shows(value: float) -> None:
    directions = unit(torch.tensor([[value, 1.0], [1.0, 0.0]]))
    assert directions[0].isnan().any()
    assert torch.equal(directions[1], torch.tensor([1.0, 0.0]))


def test_half_precision_is_widened() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert check_batch(torch.ones(2, 3, dtype=dtype)).dtype == torch.float32
    first, second = check_equal_batches(torch.ones(2, 3).half(), torch.ones(2, 3).double(), ("a", "b"))
    assert first.dtype == second.dtype == torch.float64


def test_bad_batches() -> None:
    with pytest.raises(InputError, match=r"rows has shape \(3,\); expected two dimensions, \(batch, dim\)"):
        check_batch(torch.ones(3), "rows")
    with pytest.raises(
        InputError, match=r"embeddings has shape \(0, 2\); expected at least one row and one column"
    ):
        check_batch(torch.ones(0, 2))
    with pytest.raises(InputError, match=r"embeddings holds torch.int64; expected floating point"):
        check_batch(torch.ones(3, 2).long())
    message = r"a has shape \(3, 2\) on cpu and b has shape \(2, 2\) on cpu; expected the same of both"
    with pytest.raises(InputError, match=message):
        check_equal_batches(torch.ones(3, 2), torch.ones(2, 2), ("a", "b"))
    with pytest.raises(InputError, match=r"on cpu and b has shape .* on meta"):
        check_equal_batches(torch.ones(3, 2), torch.ones(3, 2, device="meta"), ("a", "b"))
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"temperature is {value}; expected a positive, finite number"):
            check_positive(value, "temperature")
