"""Scoring by many processes: each does a share, and what they find is what one alone would find.

Start them with `torchrun --nproc-per-node N ...`. Processes are called ranks; every rank runs the same command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and where it computes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

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
