"""One batch of embeddings, checked, and the directions of its rows: what the cosine losses are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spkadapt.errors import InputError


def check_batch(rows: Tensor, name: str = "embeddings") -> Tensor:
    """Check one batch `(batch, dim)` and return it in a dtype of at least 32 bits.

    Raises:
        InputError: not two-dimensional, empty, or not floating point; it is called `name` in the message.
    """
    if rows.ndim != 2:
        raise InputError(f"{name} has shape {tuple(rows.shape)}; expected two dimensions, (batch, dim)")
    if rows.numel() == 0:
        raise InputError(f"{name} has shape {tuple(rows.shape)}; expected at least one row and one column")
    if not rows.is_floating_point():
        raise InputError(f"{name} holds {rows.dtype}; expected floating point")
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def check_equal_batches(first: Tensor, second: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Check two batches whose rows belong together, and return both in one dtype of at least 32 bits.

    Raises:
        InputError: what `check_batch` refuses, or shapes or devices that differ.
    """
    first, second = check_batch(first, names[0]), check_batch(second, names[1])
    if first.shape != second.shape or first.device != second.device:
        raise InputError(
            f"{names[0]} has shape {tuple(first.shape)} on {first.device} and {names[1]} has shape "
            f"{tuple(second.shape)} on {second.device}; expected the same of both"
        )
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def check_positive(value: float, name: str) -> None:
    """Raise `InputError` unless `value`, called `name`, is a positive, finite number."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {value}; expected a positive, finite number")


def unit(rows: Tensor) -> Tensor:
    """x / ‖x‖ along the last dimension, of any shape; zeros, which have no direction, stay zeros.

    The gradient is (I − u uᵀ) / ‖x‖, and that of the identity at zero, hence finite. No square overflows or
    vanishes.
    """
    largest = rows.detach().abs().amax(dim=-1, keepdim=True)
    scaled = rows / torch.where(largest == 0, 1, largest)
    squares = scaled.square().sum(dim=-1, keepdim=True)
    return scaled / torch.where(largest == 0, 1, squares).sqrt()
