"""Exact metrics of trials that are never held: fused with the product that scores them, and of scores at hand.

The bound of the fused rows is the bare product of the same embeddings in blocks, its scores thrown away. The rate
counts all: drawing the sample that the brackets are planned from, every pass, and the metrics themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness import Row, compare, parse_arguments, publish

from spkadapt.metrics import Brackets, ExactMetrics, OperatingPoint, TrialCounts, plan_brackets

DIM = 256
BLOCK = 1024
POINTS = (OperatingPoint(0.05), OperatingPoint(0.01), OperatingPoint(0.001))


@dataclass(frozen=True, eq=False)
class Side:
    """Unit embeddings, and the number of each one's speaker."""

    embeddings: torch.Tensor
    speakers: np.ndarray


def make_sides(num_embeddings: int, num_speakers: int) -> tuple[Side, Side]:
    """Speakers about 1.5 standard deviations of their recordings apart, in each dimension."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(num_speakers, DIM)).astype(np.float32)

    def draw() -> Side:
        speakers = random.integers(num_speakers, size=num_embeddings)
        noise = random.normal(size=(num_embeddings, DIM)).astype(np.float32)
        embeddings = torch.from_numpy(centres[speakers] + 1.5 * noise)
        return Side(torch.nn.functional.normalize(embeddings), speakers)

    return draw(), draw()


def blocks(size: int) -> list[tuple[slice, slice]]:
    starts = range(0, size, BLOCK)
    return [(slice(i, min(i + BLOCK, size)), slice(j, min(j + BLOCK, size))) for i in starts for j in starts]


def multiply(enrol: Side, test: Side) -> None:
    """The bare product, by as many threads as torch likes."""
    for rows, columns in blocks(len(enrol.speakers)):
        enrol.embeddings[rows] @ test.embeddings[columns].T


def draw_sample(enrol: Side, test: Side) -> tuple[np.ndarray, np.ndarray]:
    """A hundredth of all pairs, up to a million, that use all recordings alike; and more pairs of one speaker."""
    random, size = np.random.default_rng(0), len(enrol.speakers)
    num_targets, width = min(200_000, 5 * size), max(1, min(1_000_000 // size, size // 100))
    left, right = random.permutation(size), random.permutation(size)
    tiles = [(left[i : i + width], right[i : i + width]) for i in range(0, size, width)]
    different = np.concatenate([(enrol.speakers[i][:, None] != test.speakers[j]).ravel() for i, j in tiles])
    scores = torch.cat([(enrol.embeddings[i] @ test.embeddings[j].T).flatten() for i, j in tiles]).numpy()
    order = np.argsort(test.speakers)
    rows = random.integers(size, size=num_targets)
    first, last = (np.searchsorted(test.speakers[order], enrol.speakers[rows], side) for side in ("left", "right"))
    rows, first, last = (array[last > first] for array in (rows, first, last))
    columns = order[random.integers(first, last)]
    parts = [
        (enrol.embeddings[rows[i : i + 4096]] * test.embeddings[columns[i : i + 4096]]).sum(1)
        for i in range(0, len(rows), 4096)
    ]
    nontargets = scores[different]
    return np.append(nontargets, torch.cat(parts)), np.arange(len(nontargets) + len(rows)) >= len(nontargets)


def measure(enrol: Side, test: Side) -> tuple[ExactMetrics, int]:
    """Exact metrics of all pairs, and in how many passes: each thread multiplies and counts blocks of its own."""
    num_threads = torch.get_num_threads()
    work = [blocks(len(enrol.speakers))[i::num_threads] for i in range(num_threads)]

    def count(todo: list[tuple[slice, slice]]) -> TrialCounts:
        counts = TrialCounts(POINTS, brackets)
        memory = torch.empty(BLOCK * BLOCK)
        for rows, columns in todo:
            left, right = enrol.embeddings[rows], test.embeddings[columns]
            scores = memory[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=scores)
            counts.update_block(scores, enrol.speakers[rows], test.speakers[columns])
        return counts

    brackets: Brackets | None = plan_brackets(*draw_sample(enrol, test), POINTS)
    num_passes = 0
    # Products within a thread of ours must not start threads of their own.
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while brackets is not None:
            total, *others = pool.map(count, work)
            for counts in others:
                total = total.merge(counts)
            brackets, num_passes = total.next_brackets(), num_passes + 1
    torch.set_num_threads(num_threads)
    return total.measure(), num_passes


def peak_growth(call: Callable[[], object]) -> float:
    """By how many MB the process's peak memory exceeds what it held before the call."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def compare_dense(num_embeddings: int, num_speakers: int, repeats: int) -> Row:
    enrol, test = make_sides(num_embeddings, num_speakers)
    growth = peak_growth(lambda: measure(enrol, test))
    result, num_passes = measure(enrol, test)
    name = f"dense cosine fused with EER, 3 minDCF, Cllr: {num_embeddings**2:,} trials"
    row = compare(
        name,
        num_embeddings**2,
        "trials/s",
        ours=lambda: measure(enrol, test),
        bound=lambda: multiply(enrol, test),
        repeats=repeats,
    )
    found = f"{result.num_targets:,} targets, EER {result.eer:.3%}, in {num_passes} pass(es)"
    print(f"{name}: {found}, peak memory {growth:+.0f} MB, {1 / (row.ratio_to_bound or 1):.2f}x the bare product")
    return replace(row, name=f"{name} ({growth:+.0f} MB)")


def compare_update(num_trials: int) -> Row:
    """Scores at hand, against sorting them, which an EER in memory takes at the least."""
    random = np.random.default_rng(0)
    is_target = random.random(num_trials) < 0.1
    scores = (random.normal(size=num_trials) + 3 * is_target).astype(np.float32)

    def ours() -> ExactMetrics:
        counts = TrialCounts(POINTS, plan_brackets(scores[::50], is_target[::50], POINTS))
        for start in range(0, num_trials, 1 << 20):
            counts.update(scores[start : start + (1 << 20)], is_target[start : start + (1 << 20)])
        return counts.measure()

    name = f"EER, 3 minDCF, Cllr of {num_trials:,} scores at hand; bound: np.sort"
    return compare(name, num_trials, "trials/s", ours=ours, bound=lambda: np.sort(scores), repeats=3)


def rows(quick: bool) -> list[Row]:
    """What `main` prints, for other benchmarks to include."""
    if quick:
        return [compare_dense(8192, 1000, repeats=3), compare_update(2_000_000)]
    return [compare_dense(31_623, 1000, repeats=1), compare_update(50_000_000)]


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    title = f"exact metrics without holding the trials, dim {DIM}, {torch.get_num_threads()} CPU threads"
    publish(title, rows(arguments.quick), arguments.json)


if __name__ == "__main__":
    main()
