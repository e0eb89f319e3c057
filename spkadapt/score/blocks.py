"""Every enrolment row with every test row, in blocks of bounded memory on any device.

A score is the higher, the likelier one speaker said both sides of the trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError

# Rows in a block's side. A block of 2048² scores, 16 MB, costs a product long enough that handing it out to the
# cores is nothing beside it; an accelerator wants more at a time.
_CPU_BLOCK, _GPU_BLOCK = 2048, 8192


@dataclass(frozen=True, eq=False)
class Block:
    """The scores of some consecutive enrolment rows with some consecutive test rows.

    Attributes:
        enrol_rows, test_rows: which.
        scores: on the device that they were computed on.

    Shape:
        scores: `(number of enrol_rows, number of test_rows)`
    """

    enrol_rows: slice
    test_rows: slice
    scores: Tensor


def iterate_blocks(
    scorer: Scorer,
    enrol: Side,
    test: Side,
    *,
    block_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[Block]:
    """Score every enrolment row with every test row, a block at a time; nothing is kept.

    Args:
        scorer: made both sides.
        enrol: the enrolment side.
        test: the test side.
        block_size: rows and columns of a block, at most; by default what suits the device.
        device: where to compute.

    Raises:
        InputError: for sides of unequal width, or a block size below 1.
    """
    check_sides(enrol, test)
    size = choose_block_size(device) if block_size is None else block_size
    if size < 1:
        raise InputError(f"expected block_size of at least 1, found {size}")
    enrol, test = enrol.to(device), test.to(device)
    for rows, columns in cut_into_blocks(len(enrol), len(test), size):
        yield Block(rows, columns, scorer.score_block(enrol.rows(rows), test.rows(columns)))


def cut_into_blocks(num_enrol: int, num_test: int, block_size: int) -> list[tuple[slice, slice]]:
    """Rows and columns of each block, so that every pair is in one of them."""
    rows, columns = (
        [slice(start, min(start + block_size, stop)) for start in range(0, stop, block_size)]
        for stop in (num_enrol, num_test)
    )
    return list(product(rows, columns))


def score_all_pairs(
    scorer: Scorer,
    enrol: Side,
    test: Side,
    *,
    block_size: int | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The score of every enrolment row with every test row, in float32. Arguments as for `iterate_blocks`.

    The device holds the sides and one block at a time.

    Shape:
        returns `(len(enrol), len(test))`

    Raises:
        InputError: as `iterate_blocks` does.
    """
    # NumPy asks the system for large pages, which torch does not: a page fault for each 4 kB of scores would cost
    # as much as the scores.
    scores = np.empty((len(enrol), len(test)), dtype=np.float32)
    target = torch.from_numpy(scores)
    for block in iterate_blocks(scorer, enrol, test, block_size=block_size, device=device):
        target[block.enrol_rows, block.test_rows] = block.scores
    return scores


def choose_block_size(device: str | torch.device) -> int:
    """Rows and columns of a block that suit a device."""
    return _CPU_BLOCK if torch.device(device).type == "cpu" else _GPU_BLOCK


def check_sides(enrol: Side, test: Side) -> None:
    """Raise `InputError` unless both sides have one width."""
    if enrol.vectors.shape[1] != test.vectors.shape[1]:
        shapes = f"{tuple(enrol.vectors.shape)} and {tuple(test.vectors.shape)}"
        raise InputError(f"expected sides of one width, found shapes {shapes}")
