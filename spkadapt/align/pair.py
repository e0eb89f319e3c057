"""The pair of batches that every alignment loss compares: checked once, in one precision."""

from __future__ import annotations

import torch
from torch import Tensor

from spkadapt.errors import InputError


def check_pair(source: Tensor, target_domain: Tensor) -> tuple[Tensor, Tensor]:
    """Check a batch of each domain and return both in one dtype of at least 32 bits.

    Half precision is widened here because distances and covariances are differences of nearly equal numbers.

    Args:
        source: `(num_source, dim)`, floating point.
        target_domain: `(num_target, dim)`, floating point, on the same device.

    Raises:
        InputError: a batch is not two-dimensional, is empty, is not floating point, or the two differ in
            `dim` or device.
    """
    for name, batch in (("source", source), ("target_domain", target_domain)):
        if batch.ndim != 2:
            raise InputError(f"{name} has shape {tuple(batch.shape)}; expected two dimensions, (batch, dim)")
        if batch.numel() == 0:
            raise InputError(f"{name} has shape {tuple(batch.shape)}; expected at least one row and one column")
        if not batch.is_floating_point():
            raise InputError(f"{name} holds {batch.dtype}; expected floating point")
    if source.shape[1] != target_domain.shape[1]:
        raise InputError(
            f"source has dim {source.shape[1]} and target_domain has dim {target_domain.shape[1]}; "
            "expected the same dim"
        )
    if source.device != target_domain.device:
        raise InputError(
            f"source is on {source.device} and target_domain on {target_domain.device}; expected one device"
        )
    dtype = torch.promote_types(torch.promote_types(source.dtype, target_domain.dtype), torch.float32)
    return source.to(dtype), target_domain.to(dtype)
