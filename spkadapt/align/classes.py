"""Class labels and class probabilities that come with a batch: checked once."""

from __future__ import annotations

import torch
from torch import Tensor

from spkadapt.errors import InputError


def check_classes(name: str, classes: Tensor, num_rows: int, num_classes: int | None = None) -> None:
    """Check one integer class of each of `num_rows` rows, below `num_classes` if that is given.

    Raises:
        InputError: `classes` is not `(num_rows,)`, not integers, negative, or too large.
    """
    if classes.shape != (num_rows,):
        raise InputError(f"{name} has shape {tuple(classes.shape)}; expected ({num_rows},), a class of each row")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise InputError(f"{name} holds {classes.dtype}; expected integers")
    smallest, largest = classes.min().item(), classes.max().item()
    if smallest < 0:
        raise InputError(f"{name} has the class {smallest}; expected zero or more")
    if num_classes is not None and largest >= num_classes:
        raise InputError(f"{name} has the class {largest}; expected less than {num_classes}")


def check_probabilities(name: str, probabilities: Tensor) -> None:
    """Check class probabilities `(batch, num_classes)`; NaN passes, so that the loss shows it.

    Raises:
        InputError: not two-dimensional, empty, not floating point, or a row that does not sum to one (logits?).
    """
    if probabilities.ndim != 2 or probabilities.numel() == 0:
        raise InputError(f"{name} has shape {tuple(probabilities.shape)}; expected (batch, num_classes)")
    if not probabilities.is_floating_point():
        raise InputError(f"{name} holds {probabilities.dtype}; expected floating point")
    sums = probabilities.detach().sum(dim=1, dtype=torch.float32)
    off = ((sums - 1).abs() > 0.02) | (probabilities.detach() < 0).any(dim=1)  # half precision sums to within 1 %
    if off.any():
        row = int(off.nonzero()[0])
        raise InputError(
            f"{name} of row {row} sum to {sums[row].item():g}, the least {probabilities[row].min().item():g}; "
            "expected probabilities, as of a softmax"
        )
