"""Processes that talk by gloo, as torchrun starts them, write what one writes alone, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spkadapt.backend.cosine import CosineScorer
from spkadapt.score import TrialRows, TrialSides, score_to_file
from spkadapt.score.distributed import Ranks, join_ranks
from spkadapt.trials import Trials

SCORER = CosineScorer()
RunRanks = Callable[[int, Callable[[Ranks], None]], None]


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spkadapt.score.listed._TILE_CELLS", 64)
    monkeypatch.setattr("spkadapt.score.listed._LISTED_TRIALS", 16)


def make_problem() -> tuple[TrialSides, Trials]:
    """Trials of 30 × 30 utterances."""
    random = np.random.default_rng(0)
    enrol, test = (SCORER.test_side(random.normal(size=(30, 4))) for _ in range(2))
    rows, columns = random.integers(30, size=(2, 300))
    trials = Trials(tuple(map(str, rows.tolist())), tuple(map(str, columns.tolist())))
    return TrialSides(enrol, test, TrialRows(rows, columns, 30, 30)), trials


def test_alone_without_torchrun() -> None:
    with join_ranks("cuda:3") as ranks:
        assert ranks == Ranks(0, 1, "cuda:3")
        assert ranks.is_leader
        ranks.wait()
    assert not Ranks(2, 3).is_leader


@pytest.mark.parametrize("suffix", ["txt", "parquet"])
def test_ranks_write_the_bytes_of_one(run_ranks: RunRanks, tmp_path: Path, suffix: str) -> None:
    sides, trials = make_problem()
    one, three = tmp_path / f"one.{suffix}", tmp_path / f"three.{suffix}"
    score_to_file(one, SCORER, sides, trials)

    def work(ranks: Ranks) -> None:
        score_to_file(three, SCORER, sides, trials, ranks=ranks)
        assert three.is_file()  # on return, on every rank

    run_ranks(3, work)
    assert one.read_bytes() == three.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, three]
