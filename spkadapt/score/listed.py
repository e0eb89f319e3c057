"""Listed trials: sorted once into jobs, each of them one matrix product or a list of inner products.

A job's scores depend on the trials and the sides alone, so that jobs done in any order, by any process, or after a
crash, make the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError
from spkadapt.score.blocks import check_sides, iterate_blocks

# Scores in a tile, 512 MB: the fewer tiles, the less sorting.
_TILE_CELLS = 1 << 27
# A score computed alone costs about as much as 32 of a matrix product (measured on a CPU for dimension 256; both
# grow with the dimension alike).
_LISTED_COST = 32
# Trials in a job of scores computed alone.
_LISTED_TRIALS = 1 << 22


@dataclass(frozen=True, eq=False)
class Job:
    """Some of the trials, to be scored together.

    Attributes:
        trials: their places in the list.
        enrol_rows, test_rows: the tile of all pairs that they are picked from; None for scores computed alone.
    """

    trials: slice | np.ndarray
    enrol_rows: slice | None = None
    test_rows: slice | None = None

    @property
    def num_trials(self) -> int:
        """How many trials."""
        return _count(self.trials)


@dataclass(frozen=True, eq=False)
class TrialRows:
    """Trials as row numbers.

    Args:
        enrol: for each trial, its row of the enrolment side.
        test: for each trial, its row of the test side.
        num_enrol, num_test: rows of the two sides.

    Shape:
        enrol, test: `(num_trials,)`; int32 is half as much to move as int64

    Raises:
        InputError: rows that are no integers, do not pair up, or do not exist.
    """

    enrol: np.ndarray
    test: np.ndarray
    num_enrol: int
    num_test: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "enrol", _check_rows(self.enrol, self.num_enrol, "enrol"))
        object.__setattr__(self, "test", _check_rows(self.test, self.num_test, "test"))
        if len(self.enrol) != len(self.test):
            found = f"{len(self.enrol)} enrol_rows, {len(self.test)} test_rows"
            raise InputError(f"expected pairs of rows, found {found}")

    def __len__(self) -> int:
        return len(self.enrol)


def score_trials(
    scorer: Scorer,
    enrol: Side,
    test: Side,
    rows: TrialRows,
    *,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The score of each listed trial, in float32.

    All pairs are divided into tiles. Where at least one in 32 of a tile's pairs is listed, the tile is scored as a
    whole and the listed scores are picked from it; the others are computed alone. The choice moves scores by no
    more than float32 rounding. Trials that come tile by tile, as in a list sorted by enrolment, are not sorted
    again. Beside the sides, the trials and their scores, memory is 512 MB and O(num_trials).

    Args:
        scorer: made both sides.
        enrol: the enrolment side; rows that no trial names cost time, and are better left out.
        test: the test side.
        rows: the rows of each trial.
        device: where to compute.

    Shape:
        returns `(num_trials,)`, in the order of the trials

    Raises:
        InputError: for sides of unequal width, or not of the sizes that `rows` were checked against.
    """
    check_rows(enrol, test, rows)
    enrol, test = enrol.to(device), test.to(device)
    scores = np.empty(len(rows), dtype=np.float32)
    for job in plan_jobs(rows):
        scores[job.trials] = score_job(scorer, enrol, test, rows, job)
    return scores


def check_rows(enrol: Side, test: Side, rows: TrialRows) -> None:
    """Raise `InputError` unless the sides are of one width, and as long as the rows are of."""
    check_sides(enrol, test)
    if (len(enrol), len(test)) != (rows.num_enrol, rows.num_test):
        expected = f"sides of {rows.num_enrol} and {rows.num_test} rows"
        raise InputError(f"expected {expected}, found {len(enrol)} and {len(test)}")


def plan_jobs(rows: TrialRows) -> list[Job]:
    """Divide the trials into jobs; every trial is in one of them."""
    if not len(rows):
        return []
    height, width = _tile_shape(rows.num_enrol, rows.num_test)
    tiles_across = -(-rows.num_test // width)
    parts = _sort_by_tile(rows, height, width, tiles_across)
    jobs, alone = [], []
    for tile, places in parts:
        top, left = tile // tiles_across * height, tile % tiles_across * width
        tile_rows = slice(top, min(top + height, rows.num_enrol))
        tile_columns = slice(left, min(left + width, rows.num_test))
        num_cells = (tile_rows.stop - top) * (tile_columns.stop - left)
        if _count(places) * _LISTED_COST >= num_cells:
            jobs.append(Job(places, tile_rows, tile_columns))
        else:
            alone.append(places)
    return jobs + _cut(alone)


def score_job(scorer: Scorer, enrol: Side, test: Side, rows: TrialRows, job: Job) -> np.ndarray:
    """The scores of a job's trials, in their order; on the device of the sides."""
    device = enrol.vectors.device
    enrol_rows, test_rows = rows.enrol[job.trials], rows.test[job.trials]
    if job.enrol_rows is None or job.test_rows is None:
        places = (
            torch.from_numpy(np.array(enrol_rows)).to(device),
            torch.from_numpy(np.array(test_rows)).to(device),
        )
        return scorer.score_listed(enrol, test, *places).cpu().numpy()
    tile = _score_tile(scorer, enrol.rows(job.enrol_rows), test.rows(job.test_rows))
    cells = torch.from_numpy(np.subtract(enrol_rows, job.enrol_rows.start)).to(device).mul_(tile.shape[1])
    cells.add_(torch.from_numpy(np.subtract(test_rows, job.test_rows.start)).to(device))
    scores = torch.index_select(tile.view(-1), 0, cells, out=_empty((len(cells),), device))
    return scores.cpu().numpy()


def _score_tile(scorer: Scorer, enrol: Side, test: Side) -> Tensor:
    device = enrol.vectors.device
    tile = _empty((len(enrol), len(test)), device)
    for block in iterate_blocks(scorer, enrol, test, device=device):
        tile[block.enrol_rows, block.test_rows] = block.scores
    return tile


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    # On a CPU NumPy's large pages pay, as in `score_all_pairs`.
    return (
        torch.from_numpy(np.empty(shape, np.float32))
        if device.type == "cpu"
        else torch.empty(shape, device=device)
    )


def _tile_shape(num_enrol: int, num_test: int) -> tuple[int, int]:
    """Rows and columns of a tile: as near a square as the sides let it, and all tiles of a size."""
    side = math.isqrt(_TILE_CELLS)
    width = min(num_test, max(side, _TILE_CELLS // num_enrol))
    height = min(num_enrol, max(1, _TILE_CELLS // width))
    return _even(num_enrol, height), _even(num_test, width)


def _even(total: int, most: int) -> int:
    return -(-total // -(-total // most))


def _sort_by_tile(
    rows: TrialRows, height: int, width: int, tiles_across: int
) -> list[tuple[int, slice | np.ndarray]]:
    """The number of each tile that has trials, and the places of these in the list."""
    num_tiles = -(-rows.num_enrol // height) * tiles_across
    if num_tiles == 1:
        return [(0, slice(0, len(rows)))]
    dtype = np.min_scalar_type(num_tiles)
    tile_of = np.floor_divide(rows.enrol, height).astype(dtype)
    if tiles_across > 1:
        tile_of = tile_of * dtype.type(tiles_across) + np.floor_divide(rows.test, width).astype(dtype)
    if (tile_of[1:] >= tile_of[:-1]).all():
        starts = np.append(np.flatnonzero(np.diff(tile_of, prepend=tile_of[:1] + dtype.type(1))), len(tile_of))
        return [
            (int(tile_of[a]), slice(a, b)) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
    order = _stable_order(tile_of)
    counts = np.bincount(tile_of)
    tiles = np.flatnonzero(counts)
    return list(zip(tiles.tolist(), np.split(order, np.cumsum(counts[tiles])[:-1]), strict=True))


def _stable_order(numbers: np.ndarray) -> np.ndarray:
    """What sorts whole numbers, ties in order, in linear time: NumPy sorts 16 bits by radix, and no more."""
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    for shift in range(16, 8 * numbers.itemsize, 16):
        order = order[np.argsort((numbers >> shift).astype(np.uint16)[order], kind="stable")]
    return order


def _cut(alone: list[slice | np.ndarray]) -> list[Job]:
    """Jobs of bounded size of the trials that are to be scored alone."""
    if len(alone) == 1 and isinstance(alone[0], slice):
        starts = range(alone[0].start, alone[0].stop, _LISTED_TRIALS)
        return [Job(slice(start, min(start + _LISTED_TRIALS, alone[0].stop))) for start in starts]
    if not alone:
        return []
    places = np.concatenate([np.r_[part] for part in alone])
    return [Job(places[start : start + _LISTED_TRIALS]) for start in range(0, len(places), _LISTED_TRIALS)]


def _count(places: slice | np.ndarray) -> int:
    return places.stop - places.start if isinstance(places, slice) else len(places)


def _check_rows(rows: np.ndarray, num_rows: int, side: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        found = f"{rows.dtype} of shape {rows.shape}"
        raise InputError(f"expected {side}_rows to be integers of shape (num_trials,), found {found}")
    if len(rows) and (rows.min() < 0 or rows.max() >= num_rows):
        found = f"{rows.min()} to {rows.max()}"
        raise InputError(f"expected {side}_rows from 0 to {num_rows - 1}, found {found}")
    return rows.astype(np.int32 if num_rows < 1 << 31 else np.int64, copy=False)
