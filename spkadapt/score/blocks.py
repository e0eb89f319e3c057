"""Embeddings to scores, in blocks of bounded memory on any device.

A score is the higher, the likelier one speaker said both sides of the trial.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from spkadapt.backend.normalise import length_normalise
from spkadapt.errors import InputError

# Rows in a block's side: a block of scores takes 4 · 1024² bytes, which stays within most processors' cache.
_BLOCK_SIZE = 1024
# A score gathered as two rows and their dot product costs about as much as 64 scores of a matrix product
# (measured for dimensions 192 to 512 on a CPU, where both grow with the dimension alike).
_GATHER_COST = 64


def score_cosine(
    enrol: np.ndarray | torch.Tensor,
    test: np.ndarray | torch.Tensor,
    enrol_rows: np.ndarray,
    test_rows: np.ndarray,
    *,
    block_size: int = _BLOCK_SIZE,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The cosine of the angle between the two embeddings of each trial, in float32.

    Trials are sorted once into blocks of at most `block_size` enrolment by `block_size` test embeddings, counting
    only embeddings that some trial names. A block is scored by one matrix product where its trials number at least
    1/64 of its cells, and by gathering rows where they are sparser, whichever is the cheaper. The choice moves
    scores by no more than float32 rounding. Beside the embeddings and the trials themselves, memory is
    O(block_size²).

    Args:
        enrol: embeddings of the enrolment side.
        test: embeddings of the test side; may be the same.
        enrol_rows: for each trial, its row in `enrol`.
        test_rows: for each trial, its row in `test`.
        block_size: rows in a block's side. Larger suits an accelerator.
        device: where to multiply.

    Shape:
        enrol: `(num_enrol, dim)`
        test: `(num_test, dim)`
        enrol_rows, test_rows: `(num_trials,)`
        returns `(num_trials,)`, in the order of the trials

    Raises:
        InputError: for embeddings that `length_normalise` refuses, unequal `dim`, rows that do not exist or do
            not pair up, or a block size below 1.
    """
    enrol_rows, test_rows = _check_rows(enrol_rows, len(enrol), "enrol"), _check_rows(test_rows, len(test), "test")
    if len(enrol_rows) != len(test_rows):
        raise InputError(f"expected pairs of rows, found {len(enrol_rows)} enrol_rows, {len(test_rows)} test_rows")
    enrol, enrol_rows = _keep_used(_as_array(enrol), enrol_rows)
    test, test_rows = _keep_used(_as_array(test), test_rows)
    _check_pair(enrol, test, block_size)
    return _score_trials(
        _unit_rows(enrol, device), _unit_rows(test, device), enrol_rows, test_rows, block_size=block_size
    )


def score_all_pairs(
    enrol: np.ndarray | torch.Tensor,
    test: np.ndarray | torch.Tensor,
    *,
    block_size: int = _BLOCK_SIZE,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The cosine of every enrolment embedding with every test embedding, in float32.

    The device holds the embeddings and `block_size` rows of the result at a time.

    Shape:
        enrol: `(num_enrol, dim)`
        test: `(num_test, dim)`
        returns `(num_enrol, num_test)`

    Raises:
        InputError: as `score_cosine` does.
    """
    enrol, test = _as_array(enrol), _as_array(test)
    _check_pair(enrol, test, block_size)
    left, right = _unit_rows(enrol, device), _unit_rows(test, device).T
    scores = np.empty((len(enrol), len(test)), dtype=np.float32)
    for start in range(0, len(enrol), block_size):
        rows = slice(start, start + block_size)
        torch.from_numpy(scores[rows]).copy_(left[rows] @ right)
    return scores


def _score_trials(
    enrol: torch.Tensor, test: torch.Tensor, enrol_rows: np.ndarray, test_rows: np.ndarray, *, block_size: int
) -> np.ndarray:
    """Inner products of the rows that each trial names, block by block."""
    scores = np.empty(len(enrol_rows), dtype=np.float32)
    sparse: list[np.ndarray] = []
    for trials, enrol_start, test_start in _blocks(enrol_rows, test_rows, block_size):
        left = enrol[enrol_start : enrol_start + block_size]
        right = test[test_start : test_start + block_size]
        if len(trials) * _GATHER_COST < len(left) * len(right):
            sparse.append(trials)
            continue
        cells = (enrol_rows[trials] - enrol_start) * len(right) + (test_rows[trials] - test_start)
        products = (left @ right.T).flatten()
        scores[trials] = products[torch.from_numpy(cells).to(products.device)].cpu().numpy()
    # Sparse blocks are gathered together, so that many blocks of few trials make few calls.
    gathered = np.concatenate(sparse) if sparse else np.empty(0, dtype=np.intp)
    num_gathered = max(1, block_size**2 // (2 * enrol.shape[1]))
    for start in range(0, len(gathered), num_gathered):
        trials = gathered[start : start + num_gathered]
        left = enrol[torch.from_numpy(enrol_rows[trials]).to(enrol.device)]
        right = test[torch.from_numpy(test_rows[trials]).to(test.device)]
        scores[trials] = left.mul_(right).sum(dim=1).cpu().numpy()
    return scores


def _blocks(
    enrol_rows: np.ndarray, test_rows: np.ndarray, block_size: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """The trials of each block that has any, with the enrolment and test rows at which the block starts."""
    if not len(enrol_rows):
        return
    num_columns = int(test_rows.max()) // block_size + 1
    block_of = enrol_rows // block_size * num_columns + test_rows // block_size
    # The smallest type that holds the numbers: numpy sorts 16-bit integers by radix, in linear time.
    order = np.argsort(block_of.astype(np.min_scalar_type(block_of.max())), kind="stable")
    ordered = block_of[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    for block, trials in zip(ordered[starts].tolist(), np.split(order, starts[1:]), strict=True):
        yield trials, block // num_columns * block_size, block % num_columns * block_size


def _keep_used(embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings that some trial names, in their order, and the trials' rows among those."""
    used = np.zeros(len(embeddings), dtype=bool)
    used[rows] = True
    return embeddings[used], (np.cumsum(used) - 1)[rows]


def _as_array(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    return embeddings.detach().cpu().numpy() if isinstance(embeddings, torch.Tensor) else np.asarray(embeddings)


def _unit_rows(embeddings: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.from_numpy(length_normalise(embeddings)).to(device=device, dtype=torch.float32)


def _check_pair(enrol: np.ndarray, test: np.ndarray, block_size: int) -> None:
    if enrol.shape[1:] != test.shape[1:]:
        raise InputError(f"expected embeddings of one dim, found shapes {enrol.shape} and {test.shape}")
    if block_size < 1:
        raise InputError(f"expected block_size of at least 1, found {block_size}")


def _check_rows(rows: np.ndarray, num_embeddings: int, side: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        found = f"{rows.dtype} of shape {rows.shape}"
        raise InputError(f"expected {side}_rows to be integers of shape (num_trials,), found {found}")
    if len(rows) and (rows.min() < 0 or rows.max() >= num_embeddings):
        found = f"{rows.min()} to {rows.max()}"
        raise InputError(f"expected {side}_rows from 0 to {num_embeddings - 1}, found {found}")
    return rows.astype(np.intp, copy=False)
