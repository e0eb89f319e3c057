"""Alignment losses: time and peak memory of forward and backward, beside others' and the products they need.

The bound is what value and gradient cannot do without, and nothing else: the products named in `make_cases`, the
sorts of sliced distances, or, of losses without a product, a copy of the rows. Memory is what the process holds at
its peak beyond what it held before, the gradients of the embeddings included (Linux with glibc), and its bound
those gradients; rates are rows a MB, so that more is better. Losses are called as a training step would, on one
batch of 512 dimensions in float32 with gradients for both domains. A peer that would need more than 8 GB is left
out, by its name in the table with what it would need.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from statistics import median

import torch
from alignment_peers import DIM, NUM_PROJECTIONS, Batch, Loss, Peer, make_batch, make_peers
from fused_metrics import peak_growth
from harness import Row, parse_arguments, publish
from torch import Tensor, nn

from spkadapt import align
from spkadapt.align.kernel_blocks import BLOCK_ROWS

LARGEST_PEER = 8e9
MAX_SLICED_PROJECTIONS = 16
NUM_FREQUENCIES = 1024


@dataclass(frozen=True)
class Case:
    """A loss of ours as it is called, and its bound."""

    name: str
    loss: Loss
    bound: Callable[[Batch], object]


@dataclass(frozen=True)
class Cost:
    """Of one call: median wall time, and peak memory."""

    seconds: float
    megabytes: float


def of_pair(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return lambda batch: loss(batch.source, batch.target_domain)


def of_classes(loss: Callable[..., Tensor]) -> Loss:
    return lambda batch: loss(batch.source, batch.source_classes, batch.target_domain, batch.target_recordings)


def make_cases() -> list[Case]:
    """Every loss between domains with the settings that it has by default."""
    dann, critic, vdann = align.DomainAdversarialLoss(DIM), align.WassersteinCriticLoss(DIM), align.VdannLoss(DIM)

    def lmmd(b: Batch) -> Tensor:
        return align.lmmd_loss(b.source, b.target_domain, b.source_classes, b.target_probabilities)

    def jmmd(b: Batch) -> Tensor:
        sources, targets = (b.source, b.source_probabilities), (b.target_domain, b.target_probabilities)
        return align.joint_mmd_loss(sources, targets)

    return [
        Case("MMD", of_pair(align.mmd_loss), pair_products),
        Case("linear-time MMD", of_pair(align.linear_mmd_loss), copies),
        Case("polynomial MMD", of_pair(align.polynomial_mmd_loss), pair_products),
        Case("random-feature MMD", of_pair(align.RandomFeatureMmdLoss(DIM, NUM_FREQUENCIES)), feature_products),
        Case("energy distance", of_pair(align.energy_distance_loss), pair_products),
        Case("CORAL", of_pair(align.coral_loss), gram_products),
        Case("log-CORAL", of_pair(align.log_coral_loss), gram_products),
        Case("CMD", of_pair(align.cmd_loss), copies),
        Case("HoMM", of_pair(align.homm_loss), pair_products),
        Case("sliced Wasserstein", of_pair(align.SlicedWassersteinLoss(NUM_PROJECTIONS)), slices),
        Case("max-sliced Wasserstein", of_pair(align.MaxSlicedWassersteinLoss(MAX_SLICED_PROJECTIONS)), one_slice),
        Case("Sinkhorn", of_pair(align.sinkhorn_loss), pair_products),
        Case("DANN", of_pair(dann), lambda batch: layer_products(batch.rows(), dann)),
        Case("critic", of_pair(critic), lambda batch: critic_products(batch, critic)),
        Case("VDANN", of_pair(vdann), lambda batch: layer_products(batch.rows(), vdann)),
        Case("BSP", of_pair(align.batch_spectral_penalty), smaller_grams),
        Case("within-class covariance", of_classes(align.within_covariance_loss), gram_products),
        Case("between-class covariance", of_classes(align.between_covariance_loss), gram_products),
        Case("LMMD", lmmd, pair_products),
        Case("JMMD", jmmd, pair_products),
    ]


def pair_products(batch: Batch) -> None:
    """⟨x, y⟩ of every pair of rows once, and both rows' share of the gradient."""
    for left, right in combinations_with_replacement(batch.rows().split(BLOCK_ROWS), 2):
        products = left @ right.T
        _ = products @ right
        if left is not right:
            _ = products.T @ left


def gram_products(batch: Batch) -> None:
    """Each domain's d × d Gram matrix, and the gradient through it."""
    for rows in (batch.source, batch.target_domain):
        _ = rows @ (rows.T @ rows)


def smaller_grams(batch: Batch) -> None:
    """Each domain's Gram matrix, n × n or d × d; the gradient is of rank one."""
    for rows in (batch.source, batch.target_domain):
        _ = rows @ rows.T if len(rows) < DIM else rows.T @ rows


def feature_products(batch: Batch) -> None:
    """Phases, and the gradient through their waves; in blocks, which memory for all at once would slow."""
    frequencies = torch.ones(DIM, NUM_FREQUENCIES)
    for rows in batch.rows().split(BLOCK_ROWS):
        _ = (rows @ frequencies) @ frequencies.T


def copies(batch: Batch) -> None:
    """One reading of the rows, one writing of their gradients."""
    _ = batch.source.clone(), batch.target_domain.clone()


def slices(batch: Batch, num_projections: int = NUM_PROJECTIONS) -> None:
    """Projections, their sorts, and the gradient's product of slopes and directions."""
    directions = torch.ones(num_projections, DIM)
    for rows in (batch.source, batch.target_domain):
        ordered, _ = (directions @ rows.T).sort(dim=1)
        _ = ordered.T @ directions


def one_slice(batch: Batch) -> None:
    """As for the sliced distance, for as many directions as the ascent chooses its start from; no ascent."""
    slices(batch, MAX_SLICED_PROJECTIONS)


def layer_products(rows: Tensor, network: nn.Module) -> None:
    """Each linear layer forward, and the gradients of its input and its weights."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            inputs = rows if layer.in_features == DIM else rows.new_ones(len(rows), layer.in_features)
            outputs = inputs @ layer.weight.T
            _ = outputs @ layer.weight, outputs.T @ inputs


def critic_products(batch: Batch, critic: align.WassersteinCriticLoss) -> None:
    """The critic's layers; the slopes at the rows and at points between, and their gradient's two products."""
    rows, weight = batch.rows(), critic.critic.hidden.weight
    layer_products(rows, critic)
    between = batch.source @ weight.T
    for points, active in ((rows, rows.new_ones(len(rows), len(weight))), (batch.source, between)):
        slopes = active @ weight
        _ = slopes @ weight.T, active.T @ points


def step(loss: Loss, batch: Batch) -> Callable[[], None]:
    """Forward and backward, into new gradients, which go before the next call is measured."""

    def call() -> None:
        loss(batch).backward()
        batch.source.grad = batch.target_domain.grad = None

    return call


def without_gradient(bound: Callable[[Batch], object], batch: Batch) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            bound(batch)

    return call


def measure(calls: Sequence[Callable[[], object]], most: float, rounds: int = 5) -> list[Cost]:
    """Costs of the calls, taken in turn, each `rounds` times or until it has had `most` seconds.

    Memory is that of a round before, whose time counts only of a call that has had them by then.
    """
    times, memory = [], []
    for call in calls:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one takes
        first, peak = peak_growth(partial(clock, call))
        times.append([first])
        memory.append(peak)
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            if sum(seconds) <= most:
                seconds.append(clock(call))
    return [Cost(median(seconds[1:] or seconds), peak) for seconds, peak in zip(times, memory, strict=True)]


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(case: Case, peers: Sequence[Peer], num_rows: int, most: float) -> list[Row]:
    """Rows of time and of memory, two for each peer; and a line for whoever waits."""
    batch = make_batch(num_rows)
    losses = {"ours": case.loss}
    for other in peers:
        if other.loss is not None and other.num_bytes(num_rows) <= LARGEST_PEER:
            losses[other.name] = other.loss
    bound_call = without_gradient(case.bound, batch)
    *costs, bound = measure([*(step(loss, batch) for loss in losses.values()), bound_call], most)
    found = dict(zip(losses, costs, strict=True))
    ours = found["ours"]
    label = f"{case.name}, {num_rows:,} + {num_rows:,} rows"
    print(f"{label}: {ours.seconds:.3g} s, {ours.seconds / bound.seconds:.2f}x the bound, {ours.megabytes:.0f} MB")
    rows: list[Row] = []
    least = Cost(bound.seconds, 2 * num_rows * DIM * 4 / 1e6)
    each: Sequence[Peer | None] = peers or [None]
    for peer in each:
        theirs = None if peer is None else found.get(peer.name)
        beside = "" if peer is None else f", beside {describe(peer, num_rows)}"
        memory = f", memory {ours.megabytes:.0f} MB" + (
            f"{beside} {theirs.megabytes:.0f} MB" if theirs else beside
        )
        rows.append(make_row(label + beside, "rows/s", num_rows, ours, theirs, least, "seconds"))
        rows.append(make_row(label + memory, "rows/MB", num_rows, ours, theirs, least, "megabytes"))
    return rows


def describe(peer: Peer, num_rows: int) -> str:
    if peer.loss is None:
        return f"{peer.name} (not installed)"
    needed = peer.num_bytes(num_rows)
    return f"{peer.name} (would need {needed / 1e9:,.0f} GB)" if needed > LARGEST_PEER else peer.name


def make_row(
    name: str, unit: str, num_rows: int, ours: Cost, peer: Cost | None, bound: Cost, quantity: str
) -> Row:
    """Rates of both domains' rows: by the `quantity` of each cost."""
    our_rate, bound_rate = (2 * num_rows / getattr(cost, quantity) for cost in (ours, bound))
    peer_rate = None if peer is None else 2 * num_rows / getattr(peer, quantity)
    return Row(
        name,
        our_rate,
        peer_rate,
        bound_rate,
        unit,
        None if peer_rate is None else our_rate / peer_rate,
        our_rate / bound_rate,
    )


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    cases, peers = make_cases(), make_peers()
    sizes = (256,) if arguments.quick else (256, 1024, 4096, 20_000)
    asked = [(case, num_rows) for num_rows in sizes for case in cases]
    if arguments.quick:  # the goal's size, of what is linear in the rows
        asked += [(case, 20_000) for case in cases if case.name in ("CORAL", "sliced Wasserstein")]
    rows = []
    for case, num_rows in asked:
        rows += compare(case, peers.get(case.name, []), num_rows, 0.2 if arguments.quick else 10)
    title = f"alignment losses, forward and backward, dim {DIM}, {torch.get_num_threads()} CPU threads"
    publish(title, rows, arguments.json)


if __name__ == "__main__":
    main()
