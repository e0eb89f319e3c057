"""Alignment losses: time and peak memory of forward and backward, against the direct form and bare products.

The peer of MMD is the form often seen, with an n × n × d tensor of differences; it is left out where that tensor,
its square and its gradient would pass 8 GB. The bound is the matrix products that value and gradient cannot do
without, and nothing else. Memory is what the process holds at its peak beyond what it held before, the gradients
of the inputs included (Linux with glibc), given as the rows that 1 MiB serves, so that more is better.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Row, compare, parse_arguments, publish
from torch import Tensor

from spkadapt.align import ALIGNMENTS
from spkadapt.align.kernel_blocks import BLOCK_ROWS
from spkadapt.align.mmd import BANDWIDTH_MULTIPLES

DIM = 512
PEER_BYTES = 8e9
MEMORY_ROWS = 256  # what fewer rows take is lost in the system's own bookkeeping


def direct_mmd(source: Tensor, target_domain: Tensor) -> Tensor:
    """Biased multi-kernel MMD² from all differences at once."""
    rows = torch.cat([source, target_domain])
    distances = (rows[:, None] - rows[None]).square().sum(dim=2)
    median = distances.detach()[distances.detach() > 0].median()
    kernel = sum(torch.exp(-distances / (median * multiple)) for multiple in BANDWIDTH_MULTIPLES) / 5
    n = len(source)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def direct_mmd_fits(num_rows: int) -> bool:
    """The differences, their squares and one gradient of that size."""
    return 3 * 4 * DIM * (2 * num_rows) ** 2 <= PEER_BYTES


def mmd_products(source: Tensor, target_domain: Tensor) -> None:
    """The distances of every pair once, and both rows' share of the gradient."""
    rows = torch.cat([source, target_domain]).detach()
    for left, right in itertools.combinations_with_replacement(rows.split(BLOCK_ROWS), 2):
        products = left @ right.T
        _ = products @ right
        if left is not right:
            _ = products.T @ left


def coral_products(source: Tensor, target_domain: Tensor) -> None:
    """Each domain's covariance, and the gradient through it."""
    for batch in (source.detach(), target_domain.detach()):
        _ = batch @ (batch.T @ batch)


def dann_products(source: Tensor, target_domain: Tensor) -> None:
    """The hidden layer forward, and the gradients of its input and its weights; the output layer is thin."""
    rows = torch.cat([source, target_domain]).detach()
    weight = torch.ones(256, DIM)
    hidden = rows @ weight.T
    _ = hidden @ weight, hidden.T @ rows


BOUNDS: dict[str, Callable[[Tensor, Tensor], None]] = {
    "coral": coral_products,
    "mmd": mmd_products,
    "dann": dann_products,
}


def batches(num_rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, target_domain = torch.randn(2, num_rows, DIM, generator=generator)
    return source.requires_grad_(), (target_domain + 0.1).requires_grad_()


def step(loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> None:
    for batch in pair:
        batch.grad = None
    loss(*pair).backward()


def time_row(name: str, num_rows: int) -> Row:
    pair, loss, bound = batches(num_rows), ALIGNMENTS[name](DIM), BOUNDS[name]
    has_peer = name == "mmd" and direct_mmd_fits(num_rows)
    return compare(
        f"{name}, {num_rows:,} + {num_rows:,} rows",
        2 * num_rows,
        "rows/s",
        ours=lambda: step(loss, pair),
        peer=(lambda: step(direct_mmd, pair)) if has_peer else None,
        bound=lambda: bound(*pair),
        repeats=1 if num_rows > 4096 else 5,
    )


def peak_mib(call: Callable[[], object]) -> float:
    """Most resident memory during the call beyond what there was before it, in MiB."""

    def status(field: str) -> float:
        text = Path("/proc/self/status").read_text()
        return int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) / 1024

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def memory_row(name: str, num_rows: int) -> Row:
    pair, loss = batches(num_rows), ALIGNMENTS[name](DIM)
    ours = 2 * num_rows / peak_mib(lambda: step(loss, pair))
    peer = None
    if name == "mmd" and direct_mmd_fits(num_rows):
        pair = batches(num_rows)
        peer = 2 * num_rows / peak_mib(lambda: step(direct_mmd, pair))
    # Nothing can do with less than the two gradients.
    bound = 2**20 / (4 * DIM)
    label = f"{name}, {num_rows:,} + {num_rows:,} rows, memory"
    return Row(label, ours, peer, bound, "rows/MiB", ours / peer if peer else None, ours / bound)


def main() -> None:
    arguments = parse_arguments("Time and memory of the alignment losses")
    sizes = (64, 256) if arguments.quick else (64, 256, 512, 1024, 4096, 20_000)
    cases = list(itertools.product(sorted(ALIGNMENTS), sizes))
    rows = [time_row(name, num_rows) for name, num_rows in cases]
    rows += [memory_row(name, num_rows) for name, num_rows in cases if num_rows >= MEMORY_ROWS]
    publish(f"Alignment losses, forward and backward, dim {DIM}", rows, arguments.json)


if __name__ == "__main__":
    main()
