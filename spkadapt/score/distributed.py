"""Scoring by many processes: each does a share, and what they find merges into what one alone would find.

Start them with `torchrun --nproc-per-node N ...`. Processes are called ranks; every rank runs the same command.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.score.blocks import iterate_blocks
from spkadapt.score.listed import TrialRows, check_rows, plan_jobs, score_job


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and where it computes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def share(self) -> tuple[int, int]:
        """This rank's share of anything that is dealt out: the k-th of n."""
        return self.rank, self.size

    @property
    def is_leader(self) -> bool:
        """Whether this is the rank that writes results."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_ranks(device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that torchrun has started; without torchrun, be the only one.

    Args:
        device: `cpu` (ranks talk by gloo), or `cuda` (by nccl), where each rank of a machine has its own GPU.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks(device=device)
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


T = TypeVar("T", bound="Counts")


class Counts(Protocol):
    """What counts trials and merges with its like, such as `metrics.TrialCounts`."""

    def update(self, scores: torch.Tensor, is_target: np.ndarray) -> None:
        """Count listed trials."""

    def update_block(self, scores: torch.Tensor, enrol_speakers: np.ndarray, test_speakers: np.ndarray) -> None:
        """Count all pairs of a block."""

    def merge(self: T, other: T) -> T:
        """The counts of both."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays."""

    @classmethod
    def from_arrays(cls: type[T], arrays: Mapping[str, np.ndarray]) -> T:
        """The inverse of `to_arrays`."""


def count_all_pairs(
    counts: T,
    scorer: Scorer,
    enrol: Side,
    test: Side,
    enrol_speakers: np.ndarray,
    test_speakers: np.ndarray,
    *,
    block_size: int | None = None,
    ranks: Ranks,
) -> T:
    """Score every enrolment row with every test row and count them, keeping no score.

    Args:
        counts: empty, of the same settings on every rank; counts this rank's share.
        scorer: made both sides.
        enrol, test: the sides.
        enrol_speakers, test_speakers: the speaker of each row; targets are the pairs of one speaker.
        block_size: as in `iterate_blocks`.
        ranks: who does which share, and where.

    Returns:
        The counts of all trials, on every rank.

    Raises:
        InputError: as `iterate_blocks` does.
    """
    blocks = iterate_blocks(scorer, enrol, test, block_size=block_size, share=ranks.share, device=ranks.device)
    for block in blocks:
        counts.update_block(block.scores, enrol_speakers[block.enrol_rows], test_speakers[block.test_rows])
    return merge_counts(counts, ranks)


def count_trials(
    counts: T, scorer: Scorer, enrol: Side, test: Side, rows: TrialRows, is_target: np.ndarray, *, ranks: Ranks
) -> T:
    """Score listed trials and count them, keeping no score. Arguments as for `count_all_pairs`.

    Args:
        rows: the rows of each trial.
        is_target: bool `(num_trials,)`.

    Raises:
        InputError: as `score_trials` does.
    """
    check_rows(enrol, test, rows)
    enrol, test = enrol.to(ranks.device), test.to(ranks.device)
    for job in plan_jobs(rows)[ranks.rank :: ranks.size]:
        counts.update(torch.from_numpy(score_job(scorer, enrol, test, rows, job)), is_target[job.trials])
    return merge_counts(counts, ranks)


def merge_counts(counts: T, ranks: Ranks) -> T:
    """The counts of all ranks, merged in their order; every rank has the same result."""
    if ranks.size == 1:
        return counts
    packed = io.BytesIO()
    np.savez(packed, **counts.to_arrays())  # type: ignore[arg-type]
    mine = torch.frombuffer(packed.getbuffer(), dtype=torch.uint8).to(ranks.device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=ranks.device) for _ in range(ranks.size)]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=ranks.device))
    most = int(max(sizes))
    gathered = [mine.new_empty(most) for _ in range(ranks.size)]
    dist.all_gather(gathered, torch.nn.functional.pad(mine, (0, most - len(mine))))
    unpacked = (np.load(io.BytesIO(theirs.cpu().numpy().tobytes()), allow_pickle=False) for theirs in gathered)
    return reduce(lambda left, right: left.merge(right), [type(counts).from_arrays(arrays) for arrays in unpacked])
