"""Exact metrics of trials that are never held: fused with the product that scores them, and of scores at hand.

The bound of the fused rows is the bare product of the same embeddings in blocks, its scores thrown away. The rate
counts all: drawing the sample that the brackets are planned from, every pass, and the metrics themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from harness import Row, compare, parse_arguments, publish

from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.scorer import Side
from spkadapt.fused import measure_all_pairs
from spkadapt.metrics import ExactMetrics, OperatingPoint, TrialCounts, plan_brackets
from spkadapt.score.blocks import cut_into_blocks

DIM = 256
BLOCK = 1024
POINTS = (OperatingPoint(0.05), OperatingPoint(0.01), OperatingPoint(0.001))
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Problem:
    """Two sides of cosine scoring, and the number of each row's speaker."""

    enrol: Side
    test: Side
    enrol_speakers: np.ndarray
    test_speakers: np.ndarray

    def measure(self) -> tuple[ExactMetrics, int]:
        """Exact metrics of all pairs, and in how many passes."""
        sides = (self.enrol, self.test, self.enrol_speakers, self.test_speakers)
        passes: set[int] = set()
        result = measure_all_pairs(
            CosineScorer(), *sides, POINTS, on_progress=lambda _, number: passes.add(number)
        )
        return result, len(passes)

    def multiply(self) -> None:
        """The bare product, each thread multiplying blocks of its own; its scores are thrown away.

        Threads that share each product wait for one another, and ever longer the more other work there is.
        """
        num_threads = torch.get_num_threads()

        def multiply_block(block: tuple[slice, slice]) -> None:
            rows, columns = block
            self.enrol.vectors[rows] @ self.test.vectors[columns].T

        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(multiply_block, cut_into_blocks(len(self.enrol), len(self.test), BLOCK)))
        torch.set_num_threads(num_threads)


def make_problem(num_embeddings: int, num_speakers: int) -> Problem:
    """Speakers about 1.5 standard deviations of their recordings apart, in each dimension."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(num_speakers, DIM)).astype(np.float32)

    def draw() -> tuple[Side, np.ndarray]:
        speakers = random.integers(num_speakers, size=num_embeddings)
        noise = random.normal(size=(num_embeddings, DIM)).astype(np.float32)
        vectors = torch.from_numpy(centres[speakers] + 1.5 * noise)
        return Side(torch.nn.functional.normalize(vectors), torch.zeros(num_embeddings)), speakers

    (enrol, enrol_speakers), (test, test_speakers) = draw(), draw()
    return Problem(enrol, test, enrol_speakers, test_speakers)


def peak_growth(call: Callable[[], Result]) -> tuple[Result, float]:
    """What the call gives, and by how many MB the process's peak memory exceeds what it held before."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    result = call()
    return result, (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def compare_dense(num_embeddings: int, num_speakers: int, repeats: int) -> Row:
    problem = make_problem(num_embeddings, num_speakers)
    (result, num_passes), growth = peak_growth(problem.measure)
    name = f"dense cosine fused with EER, 3 minDCF, Cllr: {num_embeddings**2:,} trials"
    row = compare(
        name, num_embeddings**2, "trials/s", ours=problem.measure, bound=problem.multiply, repeats=repeats
    )
    found = f"{result.num_targets:,} targets, EER {result.eer:.3%}, {num_passes} pass(es)"
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
