"""Error rates of trials whose scores are never held, against those of all scores in memory: the same, bit for bit.

Sides are small whole numbers, so that scores are whole too, and alike however they are multiplied.
"""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt import fused
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.scorer import Side
from spkadapt.errors import InputError
from spkadapt.fused import measure_all_pairs, measure_trials
from spkadapt.metrics import (
    ExactMetrics,
    OperatingPoint,
    compute_act_dcf,
    compute_cllr,
    compute_eer,
    compute_min_dcf,
    compute_rocch_eer,
)
from spkadapt.score import TrialRows
from spkadapt.score.distributed import Ranks

POINTS = (OperatingPoint(0.05), OperatingPoint(0.3, 1.0, 10.0))
Problem = tuple[Side, Side, np.ndarray, np.ndarray]


class DistanceScorer(CosineScorer):
    """Half the negative squared distance, and no product: a scorer that does all by itself."""

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        return -((enrol.vectors[:, None] - test.vectors) ** 2).sum(2) / 2

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        return -((enrol.vectors - test.vectors) ** 2).sum(1) / 2


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many blocks, jobs, chunks and tiles of samples; and three threads."""
    monkeypatch.setattr(fused, "_CPU_BLOCK", 7)
    monkeypatch.setattr(fused, "_FEW", 64)
    monkeypatch.setattr(fused, "_CHUNK", 11)
    monkeypatch.setattr("spkadapt.score.listed._TILE_CELLS", 64)
    monkeypatch.setattr("spkadapt.score.listed._LISTED_TRIALS", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def make_problem(num_enrol: int, num_test: int, num_speakers: int = 5, seed: int = 0) -> Problem:
    random = np.random.default_rng(seed)
    centres = random.integers(-2, 3, size=(num_speakers, 3))

    def draw(size: int) -> tuple[Side, np.ndarray]:
        speakers = random.integers(num_speakers, size=size)
        vectors = centres[speakers] + random.integers(-1, 2, size=(size, 3))
        return Side(
            torch.from_numpy(vectors).float(), torch.from_numpy(random.integers(-2, 3, size)).float()
        ), speakers

    (enrol, enrol_speakers), (test, test_speakers) = draw(num_enrol), draw(num_test)
    return enrol, test, enrol_speakers, test_speakers


def measure_in_memory(scores: np.ndarray, is_target: np.ndarray) -> ExactMetrics:
    costs = [(point.p_target, point.c_miss, point.c_fa) for point in POINTS]
    return ExactMetrics(
        int(is_target.sum()),
        int((~is_target).sum()),
        compute_eer(scores, is_target),
        compute_rocch_eer(scores, is_target),
        tuple(compute_min_dcf(scores, is_target, *cost) for cost in costs),
        tuple(compute_act_dcf(scores, is_target, *cost) for cost in costs),
        compute_cllr(scores, is_target),
    )


def all_scores(scorer: CosineScorer, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    enrol, test, enrol_speakers, test_speakers = problem
    scores = scorer.score_block(enrol, test).numpy()
    return scores, enrol_speakers[:, None] == test_speakers


def assert_same(found: ExactMetrics, expected: ExactMetrics) -> None:
    """All but Cllr to the last bit, which in memory is a sum of rounded terms in some order."""
    assert found.cllr == pytest.approx(expected.cllr, rel=1e-12)
    assert {**vars(found), "cllr": 0} == {**vars(expected), "cllr": 0}


@settings(max_examples=40, deadline=None)
@given(num_enrol=st.integers(1, 30), num_test=st.integers(1, 30), seed=st.integers(0, 1000), few=st.booleans())
def test_all_pairs_as_in_memory(num_enrol: int, num_test: int, seed: int, few: bool) -> None:
    """From a sample, and without one; of a single row too, which a sample uses whole."""
    problem = make_problem(num_enrol, num_test, 3, seed)
    for scorer in (CosineScorer(), DistanceScorer()):
        scores, is_target = all_scores(scorer, problem)
        if is_target.all() or not is_target.any():
            with pytest.raises(InputError, match="expected at least one target and one non-target trial"):
                measure_all_pairs(scorer, *problem, POINTS)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fused, "_FEW", 1 << 20 if few else 0)
            found = measure_all_pairs(scorer, *problem, POINTS)
        assert_same(found, measure_in_memory(scores.ravel(), is_target.ravel()))


@pytest.mark.parametrize("scorer", [CosineScorer(), DistanceScorer()])
@pytest.mark.parametrize("num_trials", [300, 50, 0])
def test_listed_trials_as_in_memory(scorer: CosineScorer, num_trials: int) -> None:
    """50 trials are kept whole. Lists are dense in some tiles, sparse in others, unsorted, and repeat trials."""
    problem = make_problem(40, 25)
    random = np.random.default_rng(1)
    rows = np.minimum(random.geometric(0.1, num_trials) - 1, 39)
    columns = random.integers(25, size=num_trials)
    scores, is_target = (array[rows, columns] for array in all_scores(scorer, problem))
    arguments = (scorer, *problem[:2], TrialRows(rows, columns, 40, 25), is_target, POINTS)
    if num_trials:
        assert_same(measure_trials(*arguments), measure_in_memory(scores, is_target))
    else:
        with pytest.raises(InputError, match="found 0 targets and 0 non-targets"):
            measure_trials(*arguments)


def test_names_of_speakers_serve_too() -> None:
    enrol, test, left, right = make_problem(20, 30)
    named = [np.array([f"speaker {number}" for number in side]) for side in (left, right)]
    assert measure_all_pairs(CosineScorer(), enrol, test, *named, POINTS) == measure_all_pairs(
        CosineScorer(), enrol, test, left, right, POINTS
    )


@pytest.mark.parametrize("misled", [False, True])
def test_passes_go_on_until_all_is_known(misled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that says where to look saves all passes but one; one that lies costs passes, and no exactness."""
    random = np.random.default_rng(0)
    speakers = random.integers(20, size=(2, 300))
    vectors = random.normal(size=(20, 8))[speakers] + random.normal(size=(2, 300, 8))
    enrol, test = (CosineScorer().test_side(side) for side in vectors)
    monkeypatch.setattr(fused, "_CPU_BLOCK", 64)
    monkeypatch.setattr(fused, "_CAPACITY", 60_000)
    if misled:
        plan = fused.plan_brackets
        monkeypatch.setattr(fused, "plan_brackets", lambda scores, *others: plan(scores + 10, *others))
    seen: list[tuple[int, int]] = []
    found = measure_all_pairs(
        CosineScorer(), enrol, test, *speakers, POINTS, on_progress=lambda *done: seen.append(done)
    )
    dones = [[done for done, turn in seen if turn == number] for number in range(1, seen[-1][1] + 1)]
    assert (len(dones) > 1) == misled
    for done in dones:
        assert len(done) == 25  # blocks
        assert done == sorted(done)
        assert done[-1] == 90_000
    # The same product, so that scores are the same floats.
    blocks = (
        [enrol.rows(slice(i, i + 64)) for i in range(0, 300, 64)],
        [slice(j, j + 64) for j in range(0, 300, 64)],
    )
    scores = torch.cat(
        [torch.cat([CosineScorer().score_block(i, test.rows(j)) for j in blocks[1]], 1) for i in blocks[0]]
    ).numpy()
    assert_same(found, measure_in_memory(scores.ravel(), (speakers[0][:, None] == speakers[1]).ravel()))


def test_scores_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MB of scores, of which NumPy sees blocks of 64 kB, and holds a sample and what is near a threshold."""
    monkeypatch.setattr(fused, "_CPU_BLOCK", 128)
    random = np.random.default_rng(0)
    speakers = random.integers(500, size=(2, 2000))
    vectors = random.normal(size=(500, 16))[speakers] + 0.5 * random.normal(size=(2, 2000, 16))
    enrol, test = (CosineScorer().test_side(side) for side in vectors)
    tracemalloc.start()
    measure_all_pairs(CosineScorer(), enrol, test, *speakers, POINTS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


class Faulty(CosineScorer):
    """Scores in threads alone are not finite; counts blocks and notes the threads that each may use."""

    def __init__(self) -> None:
        self.num_blocks = 0

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        scores = super().score_block(enrol, test)
        if threading.current_thread() is threading.main_thread():
            return scores
        self.num_blocks += 1
        return scores / 0


def test_threads_stop_at_an_error_and_torch_has_its_own_again() -> None:
    scorer = Faulty()
    with pytest.raises(InputError, match="expected finite scores, found"):
        measure_all_pairs(scorer, *make_problem(200, 200), POINTS)
    assert torch.get_num_threads() == 3
    in_new_thread: list[int] = []
    thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_new_thread == [3]
    assert scorer.num_blocks <= 2 * 3 < 841  # of 29 × 29: a block a thread, and what one began meanwhile


def test_each_thread_multiplies_alone() -> None:
    found: set[tuple[bool, int]] = set()

    class Noting(CosineScorer):
        def score_block(self, enrol: Side, test: Side) -> Tensor:
            found.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
            return super().score_block(enrol, test)

    measure_all_pairs(Noting(), *make_problem(20, 20), POINTS)
    assert torch.get_num_threads() == 3
    assert found == {(True, 1), (False, 1)}  # the sample, and the blocks


@pytest.mark.parametrize("most", [4, 1000])
def test_drawn_targets_are_targets(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, once, where they are no more than wanted; speakers of one side alone have none."""
    monkeypatch.setattr(fused, "_MOST_TARGETS", most)
    left, right = np.array([3, 1, 7, 1, 0]), np.array([1, 0, 3, 3, 1, 9])
    rows, columns = fused._draw_targets(np.random.default_rng(0), left, right)
    assert (left[rows] == right[columns]).all()
    assert (np.diff(rows) >= 0).all()
    expected = {(i, j) for i in range(5) for j in range(6) if left[i] == right[j]}
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(pairs) == min(most, len(expected))
    assert set(pairs) <= expected
    assert most == 4 or set(pairs) == expected


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_measure_what_one_measures(
    num_ranks: int, run_ranks: Callable[[int, Callable[[Ranks], None]], None]
) -> None:
    """By one pass and, where no more than 40 scores may be kept, by several."""
    problem = make_problem(30, 30)
    random = np.random.default_rng(0)
    rows, columns = random.integers(30, size=(2, 300))
    is_target = problem[2][rows] == problem[3][columns]
    pairs = (CosineScorer(), *problem, POINTS)
    listed = (CosineScorer(), *problem[:2], TrialRows(rows, columns, 30, 30), is_target, POINTS)
    expected = measure_all_pairs(*pairs), measure_trials(*listed)

    def work(ranks: Ranks) -> None:
        done: list[tuple[int, int]] = []
        for capacity in (1 << 22, 40):
            fused._CAPACITY = capacity  # of this process alone
            done.clear()
            found = measure_all_pairs(*pairs, ranks=ranks, on_progress=lambda *seen: done.append(seen))
            assert found == expected[0]
            assert max(done)[0] < 900  # other ranks' are not counted
            assert measure_trials(*listed, ranks=ranks) == expected[1]

    run_ranks(num_ranks, work)


def test_refusals() -> None:
    enrol, test, left, right = make_problem(4, 5)
    narrow = Side(test.vectors[:, :2], test.offsets)
    with pytest.raises(InputError, match=r"expected sides of one width, found shapes \(4, 3\) and \(5, 2\)"):
        measure_all_pairs(CosineScorer(), enrol, narrow, left, right, POINTS)
    with pytest.raises(InputError, match=r"expected a speaker for each of \(4, 5\) rows, found \(4, 4\)"):
        measure_all_pairs(CosineScorer(), enrol, test, left, left, POINTS)
    rows = TrialRows(np.array([0, 1]), np.array([0, 1]), 4, 5)
    with pytest.raises(InputError, match=r"boolean is_target for each of 2 trials, found int64 \(2,\)"):
        measure_trials(CosineScorer(), enrol, test, rows, np.array([0, 1]), POINTS)
    with pytest.raises(InputError, match=r"boolean is_target for each of 2 trials, found bool \(3,\)"):
        measure_trials(CosineScorer(), enrol, test, rows, np.ones(3, bool), POINTS)
    with pytest.raises(InputError, match="expected sides of 4 and 5 rows, found 5 and 4"):
        measure_trials(CosineScorer(), test, enrol, rows, np.ones(2, bool), POINTS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_what_a_cpu_does() -> None:
    problem = make_problem(30, 30)
    found = [measure_all_pairs(CosineScorer(), *problem, POINTS, ranks=Ranks(device=d)) for d in ("cpu", "cuda")]
    assert found[0] == found[1]
