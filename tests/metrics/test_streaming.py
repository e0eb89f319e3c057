"""Metrics of trials in passes are, bit for bit, those of all trials at once."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.metrics import (
    Brackets,
    ExactMetrics,
    OperatingPoint,
    TrialCounts,
    compute_act_dcf,
    compute_cllr,
    compute_eer,
    compute_min_dcf,
    compute_rocch_eer,
    plan_brackets,
    streaming,
)
from spkadapt.metrics.brackets import floats_of_keys, order_keys, split_range

POINTS = (OperatingPoint(0.01), OperatingPoint(0.5), OperatingPoint(0.05, c_miss=10), OperatingPoint(0.9))
LARGEST = float(np.finfo(np.float32).max)
# 2³² floats, cut in 64 each time, and one to keep what is left; one more where another metric moves.
MOST_PASSES = 8
Trials = tuple[np.ndarray, np.ndarray]


def all_at_once(scores: np.ndarray, is_target: np.ndarray) -> ExactMetrics:
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


def in_passes(
    scores: np.ndarray,
    is_target: np.ndarray,
    brackets: Brackets | None = None,
    *,
    capacity: int = 1 << 20,
    num_parts: int = 1,
    num_processes: int = 1,
    seed: int | None = None,
) -> tuple[TrialCounts, int]:
    """Count in parts dealt to processes, in random order where there is a seed, and merge, until it is exact."""
    for num_passes in range(1, MOST_PASSES + 1):
        processes = [TrialCounts(POINTS, brackets, capacity=capacity) for _ in range(num_processes)]
        order = np.arange(len(scores)) if seed is None else np.random.default_rng(seed).permutation(len(scores))
        for number, part in enumerate(np.array_split(order, num_parts)):
            process = processes[number % num_processes]
            process.update(scores[part], is_target[part])
            assert process.trials.num_kept <= capacity
        counts = processes[0]
        for other in processes[1:]:
            counts = counts.merge(other)
        brackets = counts.next_brackets()
        if brackets is None:
            return counts, num_passes
    raise AssertionError("no end of passes")


def assert_same(found: ExactMetrics, expected: ExactMetrics) -> None:
    """Bit for bit, which == says of floats but for the sign of 0."""
    assert astuple(found) == astuple(expected)


def draw(seed: int, kind: str, num_trials: int = 9000) -> Trials:
    random = np.random.default_rng(seed)
    is_target = random.random(num_trials) < (0.002 if kind == "few targets" else 0.2)
    is_target[:2] = [True, False]
    scores = random.normal(size=num_trials) + 2 * is_target
    if kind == "ties":
        scores = scores.round(1)
    elif kind == "equal":
        scores[:] = 0.1
    elif kind == "extreme":
        scores = random.choice([0.0, -0.0, 1e-45, -1e-45, 1e-39, LARGEST, -LARGEST, 1.0], num_trials)
    elif kind == "wide":
        scores = np.exp(15 * scores) * np.where(random.random(num_trials) < 0.5, -1, 1)
    elif kind == "many zeros":
        scores[random.random(num_trials) < 0.5] = 0
    elif kind == "reversed":
        scores = -scores
    return scores.astype(np.float32), is_target


KINDS = ["plain", "few targets", "ties", "equal", "extreme", "wide", "many zeros", "reversed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [16, 600, 100_000])
def test_exact_whatever_the_scores_and_the_room(kind: str, capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_MOST_BETWEEN", 100)  # so that what stands for many points has to
    scores, is_target = draw(0, kind)
    for brackets in (None, plan_brackets(scores[::9], is_target[::9], POINTS)):
        counts, _ = in_passes(scores, is_target, brackets, capacity=capacity, num_parts=3, num_processes=2, seed=0)
        assert_same(counts.measure(), all_at_once(scores, is_target))


SCORE = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-2, 2, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, LARGEST, -LARGEST]),
)


@settings(max_examples=100, deadline=None)
@given(
    targets=st.lists(SCORE, min_size=1, max_size=12),
    nontargets=st.lists(SCORE, min_size=1, max_size=30),
    edges=st.lists(st.integers(-4, 4), max_size=4),
    kept=st.lists(st.tuples(st.integers(-4, 4), st.integers(1, 2)), max_size=2),
    capacity=st.sampled_from([1, 8, 1000]),
    num_parts=st.integers(1, 6),
    num_processes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_exact_for_any_trials_brackets_and_blocks(
    targets: list[float],
    nontargets: list[float],
    edges: list[int],
    kept: list[tuple[int, int]],
    capacity: int,
    num_parts: int,
    num_processes: int,
    seed: int,
) -> None:
    scores = np.array([*targets, *nontargets], np.float32)
    is_target = np.arange(len(scores)) < len(targets)
    brackets = Brackets.around(edges, [(low, low + width) for low, width in kept])
    options: dict[str, Any] = {"num_parts": num_parts, "num_processes": num_processes, "seed": seed}
    for start in (None, brackets):
        counts, _ = in_passes(scores, is_target, start, capacity=capacity, **options)
        assert_same(counts.measure(), all_at_once(scores, is_target))


def test_one_pass_after_a_fair_sample_and_little_kept() -> None:
    scores, is_target = draw(1, "plain", 400_000)
    counts, num_passes = in_passes(
        scores, is_target, plan_brackets(scores[::5], is_target[::5], POINTS), num_parts=4
    )
    assert num_passes == 1
    assert_same(counts.measure(), all_at_once(scores, is_target))
    brackets = plan_brackets(scores[::2], is_target[::2], [OperatingPoint(0.05)])
    assert brackets.keep[brackets.interval_of(scores)].mean() < 0.25


def test_planned_from_what_comes_first() -> None:
    scores, is_target = draw(1, "plain", 200_000)
    counts, num_passes = in_passes(scores, is_target, capacity=180_000, num_parts=20, seed=0)
    assert num_passes == 1
    assert not counts.brackets.keep.all()
    assert_same(counts.measure(), all_at_once(scores, is_target))
    counts, num_passes = in_passes(np.sort(scores), is_target[np.argsort(scores)], capacity=180_000, num_parts=20)
    assert num_passes > 1  # what comes first is no fair sample
    assert_same(counts.measure(), all_at_once(scores, is_target))


def test_wrong_brackets_take_another_pass() -> None:
    scores, is_target = draw(2, "plain")
    counts = TrialCounts(POINTS, Brackets.around([50], [(100, 101)]))
    counts.update(scores, is_target)
    assert counts.trials.num_kept == 0
    with pytest.raises(InputError, match=r"expected another pass, with next_brackets: \d ranges of scores"):
        counts.measure()
    counts, num_passes = in_passes(scores, is_target, Brackets.around([50], [(100, 101)]), capacity=1000)
    assert num_passes > 1
    assert_same(counts.measure(), all_at_once(scores, is_target))


def test_a_point_hidden_on_the_hull_is_looked_for() -> None:
    """In the dark range, non-targets come before targets: its far corner is a point below the hull so far."""
    scores = np.array([1, 1, 2, 2, 0, 3], np.float32)
    is_target = np.array([False, False, True, True, False, True])
    counts = TrialCounts((), Brackets.around([1, 3], []))
    counts.update(scores, is_target)
    brackets = counts.next_brackets()
    assert brackets is not None
    assert brackets.knows(np.array([1.5, 2], np.float32)).all()
    counts = TrialCounts((), brackets)
    counts.update(scores, is_target)
    assert counts.measure().rocch_eer == 0


def test_scores_at_the_bayes_threshold_and_the_floats_beside_it() -> None:
    """The threshold is a double: the float32 nearest to it may lie on either side."""
    middle = np.array([point.bayes_threshold for point in POINTS], np.float32)
    scores = np.concatenate([middle, np.nextafter(middle, np.float32(9)), np.nextafter(middle, np.float32(-9))])
    scores = np.append(scores, scores)
    is_target = np.arange(len(scores)) < 12
    counts = TrialCounts(POINTS)
    counts.update(scores, is_target)
    assert_same(counts.measure(), all_at_once(scores, is_target))


def test_the_memory_of_a_block_may_be_used_again() -> None:
    scores, is_target = draw(7, "plain")
    counts, memory = TrialCounts([]), np.empty(6000, np.float32)
    for start in range(0, len(scores), 6000):
        part = slice(start, start + 6000)
        block = memory[: len(scores[part])]
        block[:] = scores[part]
        counts.update(block, is_target[part])
    assert counts.measure().eer == compute_eer(scores, is_target)


def test_merging_is_associative_and_commutative() -> None:
    scores, is_target = draw(3, "ties")
    brackets = plan_brackets(scores, is_target, POINTS)
    a, b, c = (TrialCounts(POINTS, brackets) for _ in range(3))
    for number, counts in enumerate((a, b, c)):
        counts.update(scores[number::3], is_target[number::3])
    first = a.merge(b).merge(c).to_arrays()
    for other in (
        a.merge(b.merge(c)),
        c.merge(a).merge(b),
        b.merge(c.merge(TrialCounts(POINTS, brackets))).merge(a),
    ):
        for key, array in other.to_arrays().items():
            np.testing.assert_array_equal(array, first[key], err_msg=key)
    with pytest.raises(InputError, match=r"expected counts for .*=0.01, .*, found some for .*=0.3, "):
        a.merge(TrialCounts([OperatingPoint(0.3)], brackets))


def test_counts_of_different_brackets_merge_to_what_both_know() -> None:
    scores, is_target = draw(4, "plain")
    first = TrialCounts(POINTS, Brackets.around([-1, 0], [(0.5, 3)]))
    second = TrialCounts(POINTS, Brackets.around([0, 0.25], [(1, 9)]))
    first.update(scores[::2], is_target[::2])
    second.update(scores[1::2], is_target[1::2])
    merged = first.merge(second)
    known = np.array([0, 1, 1.5, 3], np.float32)
    assert merged.brackets.knows(known).all()
    assert not merged.brackets.knows(np.array([-1, 0.25, 0.75, 5], np.float32)).any()
    assert merged.trials.below(known).tolist() == [(scores < edge).sum() for edge in known]
    assert merged.targets.below(known).tolist() == [(scores[is_target] < edge).sum() for edge in known]


SOME = st.lists(st.integers(0, 9), max_size=4)


@settings(max_examples=100, deadline=None)
@given(edges=st.tuples(SOME, SOME), starts=st.tuples(SOME, SOME))
def test_brackets_meet_in_what_both_know(
    edges: tuple[list[int], list[int]], starts: tuple[list[int], list[int]]
) -> None:
    first, second = (Brackets.around(e, [(low, low + 2) for low in s]) for e, s in zip(edges, starts, strict=True))
    everywhere = np.arange(-1, 13, 0.5).astype(np.float32)
    both = first.knows(everywhere) & second.knows(everywhere)
    assert first.meet(second).knows(everywhere).tolist() == both.tolist()
    np.testing.assert_array_equal(first.meet(Brackets.everything()).knows(everywhere), first.knows(everywhere))


@pytest.mark.parametrize("names", [False, True])
def test_a_block_is_all_its_pairs(names: bool) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(70, 90)).astype(np.float32)
    enrol, test = random.integers(9, size=70), random.integers(3, 12, size=90)
    pairs = TrialCounts(POINTS)
    pairs.update(scores.ravel(), (enrol[:, None] == test).ravel())
    block = TrialCounts(POINTS)
    block.update_block(scores, *((enrol.astype(str), test.astype(str)) if names else (enrol, test)))
    assert block.measure() == pairs.measure()
    block.update_block(torch.zeros(2, 3), np.array([1, 2]), np.array([3, 4, 5]))
    assert block.trials.num_scores == 70 * 90 + 6
    assert block.targets.num_scores == pairs.targets.num_scores


def test_a_saved_file_counts_on() -> None:
    scores, is_target = draw(5, "extreme")
    counts = TrialCounts(POINTS, capacity=4)
    counts.update(scores[:5000], is_target[:5000])
    memory = io.BytesIO()
    np.savez(memory, **counts.to_arrays())  # type: ignore[arg-type]
    memory.seek(0)
    with np.load(memory, allow_pickle=False) as arrays:
        loaded = TrialCounts.from_arrays(arrays)
    for part in (counts, loaded):
        part.update(scores[5000:], is_target[5000:])
    assert loaded.points == POINTS
    for key, array in counts.to_arrays().items():
        np.testing.assert_array_equal(loaded.to_arrays()[key], array, err_msg=key)
    scores, is_target = draw(5, "extreme")
    whole = TrialCounts(POINTS)
    whole.update(scores, is_target)
    assert_same(TrialCounts.from_arrays(whole.to_arrays()).measure(), all_at_once(scores, is_target))


def test_tensors_and_narrow_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, is_target = draw(6, "plain")
    for narrow in (torch.float16, torch.bfloat16):
        tensor = torch.from_numpy(scores).to(narrow)
        counts = TrialCounts(POINTS)
        counts.update(tensor, torch.from_numpy(is_target))
        assert_same(counts.measure(), all_at_once(tensor.float().numpy(), is_target))
    counts = TrialCounts(POINTS)
    counts.update(scores.astype(np.float16), is_target)
    assert_same(counts.measure(), all_at_once(scores.astype(np.float16), is_target))
    # What is done on an accelerator, done here.
    monkeypatch.setattr(streaming, "_as_float32", torch.as_tensor)
    counts, _ = in_passes(scores, is_target, plan_brackets(scores[::9], is_target[::9], POINTS), num_parts=2)
    assert_same(counts.measure(), all_at_once(scores, is_target))
    block = TrialCounts(POINTS)
    block.update_block(scores.reshape(90, 100), np.arange(90), np.arange(100))
    assert block.targets.num_scores == 90
    assert block.targets.kept_scores.tolist() == sorted(scores.reshape(90, 100)[np.arange(90), np.arange(90)])


def test_threads_that_update_one_object_count_as_one_thread_does() -> None:
    """Also where it runs full, so that what a thread has counted meets other brackets than it began with."""
    scores, is_target = draw(8, "plain", 60_000)
    parts = np.array_split(np.random.default_rng(0).permutation(len(scores)), 100)
    for brackets, capacity in ((None, 1 << 20), (None, 9000), (Brackets.everything().with_edges([0]), 9000)):
        while True:
            counts = TrialCounts(POINTS, brackets, capacity=capacity)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda part, counts=counts: counts.update(scores[part], is_target[part]), parts))
            assert counts.trials.num_scores == len(scores)
            assert counts.trials.num_kept <= capacity
            brackets = counts.next_brackets()
            if brackets is None:
                break
        assert_same(counts.measure(), all_at_once(scores, is_target))


def test_a_pass_that_runs_full_frees_some_room() -> None:
    """Else it would sort all that is kept again for every few scores that come in."""
    counts = TrialCounts([], Brackets.around([0.5], [(0, 0.5), (0.5, 1)]), capacity=1600)
    counts.update(np.linspace(0, 0.4, 700, dtype=np.float32), np.zeros(700, bool))
    counts.update(np.linspace(0.6, 0.9, 850, dtype=np.float32), np.zeros(850, bool))
    counts.update(np.full(10, 0.4, np.float32), np.zeros(10, bool))
    assert counts.trials.num_kept == 1560  # there is room yet, and nothing was looked at
    counts.update(np.full(41, 0.9, np.float32), np.zeros(41, bool))
    assert counts.trials.num_kept == 700


def test_keys_are_in_the_order_of_floats() -> None:
    floats = np.array([-LARGEST, -1, -1e-45, -0.0, 0.0, 1e-45, 1, LARGEST], np.float32)
    keys = order_keys(floats)
    assert (np.diff(keys) > 0).all()
    assert keys[2:6].tolist() == [-2, -1, 0, 1]
    assert floats_of_keys(keys).tobytes() == floats.tobytes()
    edges = np.unique(np.array(split_range(-np.inf, np.inf, 64), np.float32))
    assert np.diff(order_keys(edges)).max() <= 2**32 // 64
    assert np.diff(edges.astype(np.float64)).max() <= 2.0001 * LARGEST / 64


def test_scores_that_are_not_finite_are_refused_and_nothing_is_counted() -> None:
    counts = TrialCounts(POINTS)
    counts.update(np.array([1, 2], np.float32), np.array([True, False]))
    before = counts.to_arrays()
    for broken in (np.nan, np.inf, -np.inf):
        for is_target in (True, False):
            with pytest.raises(InputError, match=f"expected finite scores, found {broken}"):
                counts.update(np.array([1, broken], np.float32), np.array([False, is_target]))
    for key, array in counts.to_arrays().items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)


FOUR, NO = np.zeros(4, np.float32), np.zeros(4, bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.update(FOUR.astype(float), NO), "expected scores in float32, found float64"),
        (
            lambda c: c.update(FOUR, NO[1:]),
            r"one is_target for each trial, found scores \(4,\) and is_target \(3,\)",
        ),
        (lambda c: c.update(FOUR, FOUR), "expected is_target to be boolean, found float32"),
        (
            lambda c: c.update_block(FOUR.reshape(2, 2), [1, 2], [3]),
            r"found scores \(2, 2\), speakers \(2,\) and \(1,\)",
        ),
        (lambda c: c.measure(), "at least one target and one non-target trial, found 0 targets and 0 non-targets"),
        (lambda c: (c.update(FOUR, NO), c.next_brackets()), "found 0 targets and 4 non-targets"),
        (
            lambda c: Brackets(FOUR, NO),
            r"expected float32 edges \(n,\) and boolean keep \(n \+ 1,\), found float32 \(4,\)",
        ),
        (lambda c: Brackets(FOUR, np.zeros(5, bool)), "expected edges that are finite and rise"),
    ],
)
def test_what_is_refused(call: Callable[[TrialCounts], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(TrialCounts(POINTS))


def test_more_trials_than_their_products_fit_are_refused() -> None:
    counts = TrialCounts(POINTS)
    counts.update(np.array([0, 1], np.float32), np.array([True, False]))
    counts.trials.counts = counts.trials.counts * 2**33
    counts.targets.counts = counts.targets.counts * 2**32
    with pytest.raises(
        InputError, match="expected targets times non-targets up to 2305843009213693952, found 4294967296"
    ):
        counts.next_brackets()
