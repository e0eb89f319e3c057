"""Scoring fused with metrics: exact error rates of all pairs or of listed trials, no score kept.

A sample of the trials tells about where the thresholds of interest lie. Then one pass over all trials, rarely
more, scores them a block at a time and counts what it has just scored; see `metrics.TrialCounts`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial, reduce
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError
from spkadapt.metrics import Brackets, ExactMetrics, OperatingPoint, TrialCounts, plan_brackets
from spkadapt.score.blocks import check_sides, choose_block_size, cut_into_blocks
from spkadapt.score.distributed import Ranks
from spkadapt.score.listed import TrialRows, check_rows, plan_jobs, score_job

# Rows in a block's side on a CPU, where each thread multiplies for itself: 2 MB of scores, counted while near.
_CPU_BLOCK = 768
# Distinct scores that are kept at most, and trials so few that all their scores are.
_CAPACITY, _FEW = 6 << 20, 1 << 17
# At most so many trials of either kind are sampled, of no more rows than this of a side.
_MOST_NONTARGETS, _MOST_TARGETS, _MOST_ROWS = 1 << 19, 200_000, 1 << 14
# Listed trials that a thread counts at a time.
_CHUNK = 1 << 20

Work = TypeVar("Work")


def measure_all_pairs(
    scorer: Scorer,
    enrol: Side,
    test: Side,
    enrol_speakers: np.ndarray,
    test_speakers: np.ndarray,
    points: Iterable[OperatingPoint],
    *,
    ranks: Ranks | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExactMetrics:
    """Error rates of every enrolment row with every test row.

    On a CPU as many threads as torch has each score and count blocks of their own. Beside the sides, memory is
    some 250 MB, of which Numba takes 140, and 5 MB for each thread; where the sample misleads, up to 100 MB more.

    Args:
        scorer: made both sides.
        enrol, test: the sides.
        enrol_speakers, test_speakers: the speaker of each row, as numbers or names; targets are the pairs of one
            speaker.
        points: of minDCF and actDCF.
        ranks: who does which share, and where; one process on the CPU by default. All have the same result.
        on_progress: called with the number of trials that are done in this pass, other ranks' not counted, and
            the number of the pass, from 1.

    Raises:
        InputError: for sides of unequal width, speakers that differ in number from rows, scores that are not
            finite, or where there are no targets or no non-targets.
    """
    ranks = ranks or Ranks()
    check_sides(enrol, test)
    enrol_speakers, test_speakers = _number(enrol_speakers, test_speakers, (len(enrol), len(test)))
    enrol, test = enrol.to(ranks.device), test.to(ranks.device)
    on_cpu = enrol.vectors.device.type == "cpu"
    size = _CPU_BLOCK if on_cpu else choose_block_size(ranks.device)
    blocks = cut_into_blocks(len(enrol), len(test), size)[ranks.rank :: ranks.size]
    lock, num_done, num_passes = Lock(), 0, 0

    def count_block(counts: TrialCounts, block: tuple[slice, slice]) -> None:
        nonlocal num_done
        rows, columns = block
        scores = scorer.score_block(enrol.rows(rows), test.rows(columns))
        counts.update_block(scores, enrol_speakers[rows], test_speakers[columns])
        if on_progress is not None:
            with lock:
                num_done += scores.numel()
                on_progress(num_done, num_passes)

    def count_all(counts: TrialCounts) -> None:
        nonlocal num_done, num_passes
        num_done, num_passes = 0, num_passes + 1
        _share_out(blocks, partial(count_block, counts), torch.get_num_threads() if on_cpu else 1)

    sample = _sample_pairs(scorer, enrol, test, enrol_speakers, test_speakers)
    return _pass_until_known(count_all, sample, tuple(points), ranks)


def measure_trials(
    scorer: Scorer,
    enrol: Side,
    test: Side,
    rows: TrialRows,
    is_target: np.ndarray,
    points: Iterable[OperatingPoint],
    *,
    ranks: Ranks | None = None,
) -> ExactMetrics:
    """Error rates of listed trials. Arguments as for `measure_all_pairs`; scored as `score_trials` does.

    Args:
        rows: the rows of each trial.
        is_target: whether each trial is of one speaker.

    Shape:
        is_target: `(num_trials,)`, boolean

    Raises:
        InputError: as `score_trials` and `measure_all_pairs` do, or where `is_target` does not fit the trials.
    """
    ranks = ranks or Ranks()
    check_rows(enrol, test, rows)
    if is_target.shape != (len(rows),) or is_target.dtype != bool:
        found = f"{is_target.dtype} {is_target.shape}"
        raise InputError(f"expected a boolean is_target for each of {len(rows)} trials, found {found}")
    enrol, test = enrol.to(ranks.device), test.to(ranks.device)
    jobs = plan_jobs(rows)[ranks.rank :: ranks.size]

    def count_all(counts: TrialCounts) -> None:
        for job in jobs:
            scores, of_target = score_job(scorer, enrol, test, rows, job), is_target[job.trials]
            chunks = [slice(start, start + _CHUNK) for start in range(0, len(scores), _CHUNK)]
            _share_out(chunks, lambda c: counts.update(scores[c], of_target[c]), torch.get_num_threads())  # noqa: B023

    sample = _sample_listed(scorer, enrol, test, rows, is_target)
    return _pass_until_known(count_all, sample, tuple(points), ranks)


def _pass_until_known(
    count_all: Callable[[TrialCounts], None],
    sample: tuple[np.ndarray, np.ndarray] | None,
    points: tuple[OperatingPoint, ...],
    ranks: Ranks,
) -> ExactMetrics:
    """Pass over all trials until nothing is left to look at more closely."""
    brackets: Brackets | None = None if sample is None else plan_brackets(*sample, points)
    while True:
        counts = TrialCounts(points, brackets, capacity=_CAPACITY)
        count_all(counts)
        counts = _merge_ranks(counts, ranks)
        brackets = counts.next_brackets()
        if brackets is None:
            return counts.measure()


def _share_out(work: Iterable[Work], count: Callable[[Work], None], num_threads: int) -> None:
    """Each thread takes the next piece of work until there is none."""
    left = deque(work)

    def count_what_is_left() -> None:
        while left:
            try:
                piece = left.popleft()
            except IndexError:  # another thread was faster
                return
            count(piece)

    # Products within a thread of ours must not start threads of their own.
    with (
        _one_thread_a_product(),
        ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            futures = [pool.submit(count_what_is_left) for _ in range(num_threads)]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            left.clear()  # so that the others end soon, where one has failed or the user has interrupted
    for future in futures:
        future.result()


@contextmanager
def _one_thread_a_product() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _merge_ranks(counts: TrialCounts, ranks: Ranks) -> TrialCounts:
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
    return reduce(TrialCounts.merge, [TrialCounts.from_arrays(arrays) for arrays in unpacked])


def _sample_pairs(
    scorer: Scorer, enrol: Side, test: Side, enrol_speakers: np.ndarray, test_speakers: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of some non-targets, which use all rows alike, and of some targets: the same ones on every rank.

    None where there are so few trials that all scores can be kept, or the sample lacks a kind.
    """
    num_trials = len(enrol) * len(test)
    if num_trials <= _FEW:
        return None
    random = np.random.default_rng(0)
    lines = [random.permutation(len(side))[:_MOST_ROWS] for side in (enrol, test)]
    num_tiles = max(1, min(*map(len, lines), len(lines[0]) * len(lines[1]) // _sample_size(num_trials)))
    nontargets = []
    # A tile takes microseconds, for which threads would wait for one another: milliseconds where others compute.
    with _one_thread_a_product():
        for rows, columns in zip(*(np.array_split(line, num_tiles) for line in lines), strict=True):
            scores = scorer.score_block(*(side.rows(_on(side, r)) for side, r in ((enrol, rows), (test, columns))))
            nontargets.append(scores.cpu().numpy()[enrol_speakers[rows][:, None] != test_speakers[columns]])
    rows, columns = _draw_targets(random, enrol_speakers, test_speakers)
    targets = scorer.score_listed(enrol, test, _on(enrol, rows), _on(test, columns)).cpu().numpy()
    return _label(targets, np.concatenate(nontargets))


def _draw_targets(
    random: np.random.Generator, enrol_speakers: np.ndarray, test_speakers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some pairs of one speaker, in the order of enrolment rows; all of them where they are few."""
    order = np.argsort(test_speakers, kind="stable")
    first, last = (np.searchsorted(test_speakers, enrol_speakers, side, order) for side in ("left", "right"))
    stops = np.cumsum(last - first)
    num_targets = int(stops[-1])
    if num_targets <= _MOST_TARGETS:
        drawn = np.arange(num_targets)
    else:
        drawn = np.sort(random.integers(num_targets, size=_MOST_TARGETS))
    rows = np.searchsorted(stops, drawn, side="right")
    return rows, order[drawn - stops[rows] + last[rows]]


def _sample_listed(
    scorer: Scorer, enrol: Side, test: Side, rows: TrialRows, is_target: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """As `_sample_pairs` does, of listed trials."""
    if len(rows) <= _FEW:
        return None
    random, scores = np.random.default_rng(0), []
    for kind, most in ((True, _MOST_TARGETS), (False, _sample_size(len(rows)))):
        places = np.flatnonzero(is_target == kind)
        if len(places) > most:
            places = places[np.sort(random.integers(len(places), size=most))]
        chosen = _on(enrol, rows.enrol[places]), _on(test, rows.test[places])
        scores.append(scorer.score_listed(enrol, test, *chosen).cpu().numpy())
    return _label(*scores)


def _sample_size(num_trials: int) -> int:
    """Of n trials, s sampled ones cost time in s, and leave scores to keep in n / √s: least together for n^⅔."""
    return min(_MOST_NONTARGETS, round(num_trials ** (2 / 3)))


def _label(targets: np.ndarray, nontargets: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    if not (len(targets) and len(nontargets)):
        return None
    return np.append(targets, nontargets), np.arange(len(targets) + len(nontargets)) < len(targets)


def _on(side: Side, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(rows).to(side.vectors.device)


def _number(
    enrol_speakers: np.ndarray, test_speakers: np.ndarray, num_rows: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The speakers as numbers, which compare faster than names."""
    sizes = len(enrol_speakers), len(test_speakers)
    if sizes != num_rows:
        raise InputError(f"expected a speaker for each of {num_rows} rows, found {sizes}")
    _, numbers = np.unique(np.concatenate([enrol_speakers, test_speakers]), return_inverse=True)
    return numbers[: sizes[0]], numbers[sizes[0] :]
