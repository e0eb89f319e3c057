"""Two or three processes that talk by gloo, as torchrun starts them, find what one finds alone, bit for bit."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from spkadapt.backend.cosine import CosineScorer
from spkadapt.metrics import OperatingPoint, TrialCounts
from spkadapt.score import TrialRows, TrialSides, score_to_file
from spkadapt.score.distributed import Ranks, count_all_pairs, count_trials, join_ranks, merge_counts
from spkadapt.trials import Trials

SCORER = CosineScorer()
POINTS = (OperatingPoint(0.05), OperatingPoint(0.3))


def run_ranks(num_ranks: int, work: Callable[[Ranks], None]) -> None:
    """Do the work in processes of their own, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            torch.set_num_threads(1)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
            with join_ranks() as ranks:
                assert ranks == Ranks(rank, num_ranks, "cpu")
                work(ranks)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * num_ranks


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spkadapt.score.listed._TILE_CELLS", 64)
    monkeypatch.setattr("spkadapt.score.listed._LISTED_TRIALS", 16)


def make_problem() -> tuple[TrialSides, Trials, np.ndarray]:
    """Trials of 30 × 30 utterances, of five speakers each."""
    random = np.random.default_rng(0)
    enrol, test = (SCORER.test_side(random.normal(size=(30, 4))) for _ in range(2))
    rows, columns = random.integers(30, size=(2, 300))
    trials = Trials(tuple(map(str, rows.tolist())), tuple(map(str, columns.tolist())), rows % 5 == columns % 5)
    return TrialSides(enrol, test, TrialRows(rows, columns, 30, 30)), trials, np.arange(30) % 5


def test_alone_without_torchrun() -> None:
    with join_ranks("cuda:3") as ranks:
        assert ranks == Ranks(0, 1, "cuda:3")
        assert ranks.is_leader
        ranks.wait()
    assert Ranks(2, 3).share == (2, 3)
    assert not Ranks(2, 3).is_leader


@pytest.mark.parametrize("suffix", ["txt", "parquet"])
def test_ranks_write_the_bytes_of_one(tmp_path: Path, suffix: str) -> None:
    sides, trials, _ = make_problem()
    one, three = tmp_path / f"one.{suffix}", tmp_path / f"three.{suffix}"
    score_to_file(one, SCORER, sides, trials)

    def work(ranks: Ranks) -> None:
        score_to_file(three, SCORER, sides, trials, ranks=ranks)
        assert three.is_file()  # on return, on every rank

    run_ranks(3, work)
    assert one.read_bytes() == three.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, three]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_count_what_one_counts(num_ranks: int) -> None:
    sides, trials, speakers = make_problem()
    assert trials.is_target is not None
    arguments = (SCORER, sides.enrol, sides.test, speakers, speakers)
    all_pairs = count_all_pairs(TrialCounts(POINTS), *arguments, block_size=7, ranks=Ranks()).measure()
    assert (all_pairs.num_targets, all_pairs.num_nontargets) == (180, 720)
    listed = (SCORER, sides.enrol, sides.test, sides.rows, trials.is_target)
    of_list = count_trials(TrialCounts(POINTS), *listed, ranks=Ranks()).measure()
    assert of_list.num_targets + of_list.num_nontargets == 300

    def work(ranks: Ranks) -> None:
        counts = count_all_pairs(TrialCounts(POINTS), *arguments, block_size=7, ranks=ranks)
        assert counts.measure() == all_pairs
        assert count_trials(TrialCounts(POINTS), *listed, ranks=ranks).measure() == of_list

    run_ranks(num_ranks, work)


class Names:
    """Counts of any length, and a merge that tells order."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def merge(self, other: Names) -> Names:
        return Names(self.names + other.names)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"names": np.array(self.names, dtype=str)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Names:
        return cls(arrays["names"].tolist())


def test_counts_merge_in_the_order_of_ranks_on_every_rank() -> None:
    def work(ranks: Ranks) -> None:
        mine = Names([f"{ranks.rank}"] * 100 * ranks.rank)
        assert merge_counts(mine, ranks).names == ["1"] * 100 + ["2"] * 200

    run_ranks(3, work)
    alone = Names(["a"])
    assert merge_counts(alone, Ranks()) is alone


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_what_a_cpu_does_but_for_rounding() -> None:
    sides, _, speakers = make_problem()
    arguments = (SCORER, sides.enrol, sides.test, speakers, speakers)
    eers = [
        count_all_pairs(TrialCounts(POINTS), *arguments, ranks=Ranks(device=device)).measure().eer
        for device in ("cpu", "cuda")
    ]
    assert eers[0] == pytest.approx(eers[1], abs=0.01)
