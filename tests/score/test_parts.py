"""A killed scoring goes on where it was, and every way to a score file leaves the same bytes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spkadapt.score.parts
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.scorer import Side
from spkadapt.errors import InputError
from spkadapt.score import TrialRows, TrialSides, load_scores, score_to_file, score_trials
from spkadapt.trials import Trials

SCORER = CosineScorer()


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8 × 8: with 400 trials of 30 × 30 some are multiplied, some listed."""
    monkeypatch.setattr("spkadapt.score.listed._TILE_CELLS", 64)
    monkeypatch.setattr("spkadapt.score.listed._LISTED_COST", 2)
    monkeypatch.setattr("spkadapt.score.listed._LISTED_TRIALS", 16)


def make_problem(seed: int = 0) -> tuple[TrialSides, Trials]:
    random = np.random.default_rng(seed)
    enrol, test = (SCORER.test_side(random.normal(size=(30, 4))) for _ in range(2))
    rows, columns = random.integers(30, size=(2, 400)) * [[1], [1]]
    rows[:200], columns[:200] = rows[:200] % 10, columns[:200] % 10
    names = (tuple(f"{side}{row}" for row in numbers.tolist()) for side, numbers in (("e", rows), ("t", columns)))
    return TrialSides(enrol, test, TrialRows(rows, columns, 30, 30)), Trials(*names)


def jobs_done(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: Any) -> int:
    """Score, and count the jobs that were computed."""
    calls: list[int] = []
    score_job = spkadapt.score.parts.score_job
    with monkeypatch.context() as patch:
        patch.setattr("spkadapt.score.parts.score_job", lambda *args: (calls.append(0), score_job(*args))[1])
        score_to_file(path, *arguments)
    return len(calls)


@pytest.mark.parametrize("suffix", ["txt", "gz", "npz", "parquet"])
def test_a_file_holds_the_scores_of_the_list(tmp_path: Path, suffix: str) -> None:
    sides, trials = make_problem()
    done: list[int] = []
    path = tmp_path / f"scores.{suffix}"
    score_to_file(path, SCORER, sides, trials, on_progress=done.append)
    loaded = load_scores(path)
    assert (loaded.enrol_ids, loaded.test_ids) == (trials.enrol_ids, trials.test_ids)
    np.testing.assert_array_equal(loaded.scores, score_trials(SCORER, sides.enrol, sides.test, sides.rows))
    assert list(tmp_path.iterdir()) == [path]
    assert done == sorted(done)
    assert done[-1] == 400


def test_a_killed_scoring_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides, trials = make_problem()
    num_jobs = jobs_done(monkeypatch, tmp_path / "whole.txt", SCORER, sides, trials)
    assert num_jobs > 8
    path = tmp_path / "scores.txt"
    child = os.fork()
    if child == 0:  # is killed when 5 jobs are done
        torch.set_num_threads(1)
        calls: list[int] = []
        score_to_file(
            path,
            SCORER,
            sides,
            trials,
            on_progress=lambda done: (
                calls.append(done),
                len(calls) == 5 and os.kill(os.getpid(), signal.SIGKILL),
            ),
        )
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not path.exists()
    (tmp_path / "scores.txt.parts" / ".000007-half.npy").write_bytes(b"half a par")
    assert jobs_done(monkeypatch, path, SCORER, sides, trials) == num_jobs - 5
    assert path.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scores.txt", "whole.txt"]


class Doubled(CosineScorer):
    """Of the same sides, and other scores by what it alone knows."""

    factor = 2.0

    def score_block(self, enrol: Side, test: Side) -> torch.Tensor:
        return super().score_block(enrol, test) * self.factor

    def score_pairs(self, enrol: Side, test: Side) -> torch.Tensor:
        return super().score_pairs(enrol, test) * self.factor


@pytest.mark.parametrize("change", ["nothing", "enrol", "test offsets", "rows", "scorer", "setting"])
def test_parts_of_other_inputs_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Killed before the file is written, all parts are there; they serve the same inputs and no others."""
    sides, trials = make_problem()
    scorer: CosineScorer = Doubled()
    with monkeypatch.context() as patch:
        patch.setattr("spkadapt.score.parts.save_scores", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score_to_file(tmp_path / "s.txt", scorer, sides, trials)
    assert len(list((tmp_path / "s.txt.parts").glob("*.npy"))) > 8
    other, _ = make_problem(seed=1)
    if change == "enrol":
        sides = replace(sides, enrol=other.enrol)
    elif change == "test offsets":
        sides = replace(sides, test=replace(sides.test, offsets=sides.test.offsets + 1))
    elif change == "rows":
        sides = replace(sides, rows=other.rows)
    elif change == "scorer":
        scorer = CosineScorer()
    elif change == "setting":
        scorer.factor = 3.0
    num_jobs = jobs_done(monkeypatch, tmp_path / "s.txt", scorer, sides, trials)
    assert (num_jobs == 0) == (change == "nothing")
    fresh = score_trials(scorer, sides.enrol, sides.test, sides.rows)
    np.testing.assert_array_equal(load_scores(tmp_path / "s.txt").scores, fresh)


def test_a_folder_with_other_things_is_left(tmp_path: Path) -> None:
    sides, trials = make_problem()
    (tmp_path / "s.txt.parts").mkdir()
    (tmp_path / "s.txt.parts" / "mine").write_text("precious")
    score_to_file(tmp_path / "s.txt", SCORER, sides, trials)
    assert [file.name for file in (tmp_path / "s.txt.parts").iterdir()] == ["mine"]


def test_no_trials(tmp_path: Path) -> None:
    nothing = np.empty(0, dtype=np.int32)
    side = Side(torch.empty(0, 4), torch.empty(0))
    score_to_file(
        tmp_path / "s.npz", SCORER, TrialSides(side, side, TrialRows(nothing, nothing, 0, 0)), Trials((), ())
    )
    assert len(load_scores(tmp_path / "s.npz").scores) == 0


def test_refusals(tmp_path: Path) -> None:
    sides, trials = make_problem()
    with pytest.raises(InputError, match="expected sides of 30 and 30 rows, found 30 and 29"):
        score_to_file(tmp_path / "s", SCORER, replace(sides, test=sides.test.rows(slice(29))), trials)
