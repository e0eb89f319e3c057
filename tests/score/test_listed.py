"""Listed trials against a loop in float64: any order, any duplicates, any tiling, on any route."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.scorer import Side
from spkadapt.errors import InputError
from spkadapt.score import TrialRows, score_trials
from spkadapt.score.listed import Job, _stable_order, plan_jobs

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
SCORER = CosineScorer()


@contextmanager
def tiling(tile_cells: int, listed_cost: int = 24, listed_trials: int = 1 << 22) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spkadapt.score.listed._TILE_CELLS", tile_cells)
        patch.setattr("spkadapt.score.listed._LISTED_COST", listed_cost)
        patch.setattr("spkadapt.score.listed._LISTED_TRIALS", listed_trials)
        yield


def make_problem(
    num_enrol: int, num_test: int, num_trials: int, seed: int = 0
) -> tuple[Side, Side, np.ndarray, np.ndarray, np.ndarray]:
    """Two sides with offsets, random trials, and the float64 score of each."""
    random = np.random.default_rng(seed)
    enrol, test = (
        Side(torch.from_numpy(random.normal(size=(n, 6))).float(), torch.from_numpy(random.normal(size=n)).float())
        for n in (num_enrol, num_test)
    )
    rows, columns = random.integers(num_enrol, size=num_trials), random.integers(num_test, size=num_trials)
    expected = [
        float(enrol.vectors[i].double() @ test.vectors[j].double() + enrol.offsets[i] + test.offsets[j].double())
        for i, j in zip(rows, columns, strict=True)
    ]
    return enrol, test, rows, columns, np.array(expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_trials", [0, 1, 40, 2000])
@pytest.mark.parametrize("tile_cells", [1, 50, 1000, 10**6])
def test_any_tiling(num_trials: int, tile_cells: int, device: str) -> None:
    """40 trials of 60 × 90 are computed alone, 2,000 picked from tiles; small tiles mix the two."""
    enrol, test, rows, columns, expected = make_problem(60, 90, num_trials)
    with tiling(tile_cells, listed_trials=16):
        scores = score_trials(SCORER, enrol, test, TrialRows(rows, columns, 60, 90), device=device)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=5e-6)


@settings(max_examples=150, deadline=None)
@given(
    num_enrol=st.integers(1, 30),
    num_test=st.integers(1, 30),
    num_trials=st.integers(0, 60),
    tile_cells=st.integers(1, 400),
    listed_cost=st.sampled_from([0, 1, 3, 24, 1000]),
    dtype=st.sampled_from([np.int32, np.int64, np.uint16]),
    arrangement=st.sampled_from(["as drawn", "by enrolment", "by test"]),
    seed=st.integers(0, 1000),
)
def test_the_order_of_trials_is_kept(
    num_enrol: int,
    num_test: int,
    num_trials: int,
    tile_cells: int,
    listed_cost: int,
    dtype: type,
    arrangement: str,
    seed: int,
) -> None:
    enrol, test, rows, columns, expected = make_problem(num_enrol, num_test, num_trials, seed)
    order = {"as drawn": np.arange(num_trials), "by enrolment": np.argsort(rows), "by test": np.argsort(columns)}
    rows, columns, expected = (values[order[arrangement]] for values in (rows, columns, expected))
    with tiling(tile_cells, listed_cost, listed_trials=7):
        scores = score_trials(
            SCORER, enrol, test, TrialRows(rows.astype(dtype), columns.astype(dtype), num_enrol, num_test)
        )
        jobs = plan_jobs(TrialRows(rows, columns, num_enrol, num_test))
    np.testing.assert_allclose(scores, expected, atol=5e-6)
    places = np.concatenate([np.arange(num_trials)[job.trials] for job in jobs] or [np.arange(0)])
    assert sorted(places.tolist()) == list(range(num_trials))


def shapes(jobs: list[Job]) -> list[Any]:
    return [None if job.enrol_rows is None else (job.enrol_rows, job.test_rows) for job in jobs]


def test_dense_tiles_are_multiplied_and_sparse_ones_listed() -> None:
    """Of four tiles of 10 × 10, one has 60 trials, one 4 (a 25th), one 5 (a 20th) and one none."""
    rows = np.array([*np.repeat(np.arange(6), 10), 0, 1, 2, 3, 10, 11, 12, 13, 14])
    columns = np.array([*np.tile(np.arange(10), 6), 10, 11, 12, 13, 19, 18, 17, 16, 15])
    with tiling(100):
        jobs = plan_jobs(TrialRows(rows, columns, 20, 20))
    assert shapes(jobs) == [
        (slice(0, 10), slice(0, 10)),
        (slice(10, 20), slice(10, 20)),
        None,
    ]
    assert [np.arange(69)[job.trials].tolist() for job in jobs] == [
        list(range(60)),
        [64, 65, 66, 67, 68],
        [60, 61, 62, 63],
    ]


def test_sorted_trials_are_not_sorted_again() -> None:
    rows, columns = np.divmod(np.arange(400), 20)
    with tiling(100):
        by_enrolment = plan_jobs(TrialRows(rows, columns, 20, 20))
        assert not all(isinstance(job.trials, slice) for job in by_enrolment)  # tiles are 10 × 10
        banded = plan_jobs(TrialRows(rows, columns % 5, 20, 5))
        assert [job.trials for job in banded] == [slice(0, 400)]  # all in one tile
        columns_only = plan_jobs(TrialRows(columns % 5, rows, 5, 20))
        assert [job.trials for job in columns_only] == [slice(0, 400)]
    with tiling(25):
        assert [job.trials for job in plan_jobs(TrialRows(rows, columns % 5, 20, 5))] == [
            slice(start, start + 100) for start in range(0, 400, 100)
        ]


def test_tiles_fit_the_sides_and_are_even() -> None:
    rows = np.arange(10)
    with tiling(30, listed_cost=1000):
        (first, *_, last) = plan_jobs(TrialRows(rows, rows * 0, 11, 3))
    assert (first.enrol_rows, first.test_rows) == (slice(0, 6), slice(0, 3))
    assert (last.enrol_rows, last.test_rows) == (slice(6, 11), slice(0, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_radix_order_is_a_stable_sort(dtype: type) -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(min(np.iinfo(dtype).max, 1 << 40), size=3000).astype(dtype)
    numbers[::3] = numbers[0]
    np.testing.assert_array_equal(_stable_order(numbers), np.argsort(numbers, kind="stable"))


def test_read_only_rows_are_read() -> None:
    enrol, test, rows, columns, expected = make_problem(5, 5, 9)
    rows, columns = rows.astype(np.int32), columns.astype(np.int32)
    rows.flags.writeable = columns.flags.writeable = False
    for cost in (0, 1000):
        with tiling(100, cost):
            np.testing.assert_allclose(
                score_trials(SCORER, enrol, test, TrialRows(rows, columns, 5, 5)), expected, atol=5e-6
            )


def test_refusals() -> None:
    enrol, test, rows, columns, _ = make_problem(5, 5, 4)

    def refusal(enrol_rows: np.ndarray, test_rows: np.ndarray) -> str:
        with pytest.raises(InputError) as caught:
            TrialRows(enrol_rows, test_rows, 5, 5)
        return str(caught.value)

    assert refusal(rows, columns[1:]) == "expected pairs of rows, found 4 enrol_rows, 3 test_rows"
    assert refusal(np.array([0]), np.array([5])) == "expected test_rows from 0 to 4, found 5 to 5"
    assert refusal(np.array([-1]), np.array([0])) == "expected enrol_rows from 0 to 4, found -1 to -1"
    assert refusal(rows.astype(float), columns) == (
        "expected enrol_rows to be integers of shape (num_trials,), found float64 of shape (4,)"
    )
    sound = TrialRows(rows, columns, 5, 5)
    with pytest.raises(InputError, match=r"of one width, found shapes \(5, 6\) and \(5, 3\)"):
        score_trials(SCORER, enrol, Side(test.vectors[:, :3], test.offsets), sound)
    with pytest.raises(InputError, match="expected sides of 5 and 5 rows, found 5 and 4"):
        score_trials(SCORER, enrol, test.rows(slice(4)), sound)
