"""Error rates against loops over every threshold and published figures."""

from __future__ import annotations

import gzip
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from scipy.spatial import KDTree
from scipy.stats import norm

from spkadapt.errors import InputError
from spkadapt.metrics import (
    compute_act_dcf,
    compute_cllr,
    compute_det,
    compute_eer,
    compute_error_counts,
    compute_min_dcf,
    compute_rocch_eer,
    interpolate_eer,
    normalised_costs,
)
from spkadapt.score import load_scores

# Few distinct scores, so that ties of all kinds come up; both kinds of trial always.
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=14)
PROPERTY = settings(max_examples=200, deadline=None)


def join(targets: list[int], nontargets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*targets, *nontargets], dtype=float), np.arange(len(targets) + len(nontargets)) < len(targets)


def naive_points(scores: np.ndarray, is_target: np.ndarray) -> list[tuple[Fraction, Fraction]]:
    """(P_miss, P_fa) at each threshold, counted trial by trial in exact arithmetic."""
    targets, nontargets = scores[is_target], scores[~is_target]
    return [
        (
            Fraction(sum(bool(s < threshold) for s in targets), len(targets)),
            Fraction(sum(bool(s >= threshold) for s in nontargets), len(nontargets)),
        )
        for threshold in [*sorted(set(scores.tolist())), math.inf]
    ]


def crossing(left: tuple[Fraction, Fraction], right: tuple[Fraction, Fraction]) -> Fraction | None:
    """Where the segment meets P_miss = P_fa, if it does."""
    before, after = left[0] - left[1], right[0] - right[1]
    if before > 0 or after < 0:
        return None
    return left[0] + (right[0] - left[0]) * (-before) / (after - before)


def naive_eer(scores: np.ndarray, is_target: np.ndarray) -> float:
    points = naive_points(scores, is_target)
    found = [crossing(*pair) for pair in pairwise(points)]
    return float(next(eer for eer in found if eer is not None))


def naive_rocch_eer(scores: np.ndarray, is_target: np.ndarray) -> float:
    """The hull lies below every chord of the curve, so it crosses where the lowest of all chords does."""
    points = naive_points(scores, is_target)
    found = [crossing(left, right) for i, left in enumerate(points) for right in points[i + 1 :]]
    return float(min(eer for eer in found if eer is not None))


def naive_min_dcf(scores: np.ndarray, is_target: np.ndarray, p: float, c_miss: float, c_fa: float) -> float:
    costs = [p * c_miss * miss + (1 - p) * c_fa * fa for miss, fa in naive_points(scores, is_target)]
    return float(min(costs)) / min(p * c_miss, (1 - p) * c_fa)


@PROPERTY
@given(targets=SCORES, nontargets=SCORES, seed=st.integers(0, 99))
def test_all_match_the_loops_whatever_the_order(targets: list[int], nontargets: list[int], seed: int) -> None:
    scores, is_target = join(targets, nontargets)
    order = np.random.default_rng(seed).permutation(len(scores))
    shuffled = scores[order], is_target[order]
    counts = compute_error_counts(*shuffled)
    points = naive_points(scores, is_target)
    assert counts.thresholds.tolist() == [*sorted(set(scores)), math.inf]
    assert (counts.num_targets, counts.num_nontargets) == (len(targets), len(nontargets))
    assert counts.num_misses.tolist() == [point[0] * len(targets) for point in points]
    assert counts.num_false_alarms.tolist() == [point[1] * len(nontargets) for point in points]
    det = compute_det(*shuffled)
    np.testing.assert_array_equal(np.stack([det.p_miss, det.p_false_alarm], 1), np.array(points, dtype=float))
    assert compute_eer(*shuffled) == pytest.approx(naive_eer(scores, is_target), abs=1e-15)
    assert compute_rocch_eer(*shuffled) == pytest.approx(naive_rocch_eer(scores, is_target), abs=1e-15)
    costs = (0.05, 3.0, 0.5)
    assert compute_min_dcf(*shuffled, *costs) == pytest.approx(naive_min_dcf(scores, is_target, *costs), abs=1e-14)


@PROPERTY
@given(
    targets=SCORES,
    nontargets=SCORES,
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int64]),
    p_target=st.sampled_from([0.5, 0.01, 0.9]),
)
def test_the_whole_curve_gives_the_same_bits(
    targets: list[int], nontargets: list[int], dtype: type, p_target: float
) -> None:
    """compute_eer and compute_min_dcf look at some operating points, and would find no other number in all."""
    scores, is_target = join(targets, nontargets)
    scores = (scores * 7 / (1 if dtype is np.int64 else 3)).astype(dtype)
    counts = compute_error_counts(scores, is_target)
    assert counts.thresholds.dtype == np.float64
    whole = counts.num_misses, counts.num_false_alarms, len(targets), len(nontargets)
    assert compute_eer(scores, is_target) == interpolate_eer(*whole)
    miss_cost, false_alarm_cost = normalised_costs(p_target, 1, 1)
    costs = miss_cost * counts.p_miss + false_alarm_cost * counts.p_false_alarm
    assert compute_min_dcf(scores, is_target, p_target) == costs.min()


@pytest.mark.parametrize("num_nontargets", [9, 10])
def test_two_threads_sort_as_one(monkeypatch: pytest.MonkeyPatch, num_nontargets: int) -> None:
    random = np.random.default_rng(0)
    scores, is_target = join(random.integers(6, size=9).tolist(), random.integers(5, size=num_nontargets).tolist())
    alone = compute_error_counts(scores, is_target)
    monkeypatch.setattr("spkadapt.metrics.curves._SORTED_ALONE", 4)
    together = compute_error_counts(scores, is_target)
    for name in ("thresholds", "num_misses", "num_false_alarms"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


@PROPERTY
@given(targets=SCORES, nontargets=SCORES)
def test_symmetries(targets: list[int], nontargets: list[int]) -> None:
    scores, is_target = join(targets, nontargets)
    for metric in (compute_eer, compute_rocch_eer):
        value = metric(scores, is_target)
        assert metric(np.exp(scores) - 9, is_target) == value
        assert metric(-scores, ~is_target) == pytest.approx(value, abs=1e-14)
    assert compute_rocch_eer(scores, is_target) <= compute_eer(scores, is_target) + 1e-15
    assert compute_min_dcf(scores, is_target, 0.1, 2, 3) == pytest.approx(
        compute_min_dcf(-scores, ~is_target, 0.9, 3, 2), abs=1e-14
    )
    assert compute_cllr(scores, is_target) == pytest.approx(compute_cllr(-scores, ~is_target), rel=1e-14)


def test_ends_of_the_scale() -> None:
    separated, is_target = join([3, 4, 5], [0, 1, 2])
    assert compute_eer(separated, is_target) == compute_rocch_eer(separated, is_target) == 0
    assert compute_min_dcf(separated, is_target, 0.01) == 0
    assert compute_eer(-separated, is_target) == 1
    assert compute_rocch_eer(-separated, is_target) == 0.5  # the hull may always accept and reject at random
    assert compute_min_dcf(-separated, is_target, 0.01) == 1
    tied, is_target = join([7] * 5, [7] * 3)
    assert compute_eer(tied, is_target) == compute_rocch_eer(tied, is_target) == 0.5
    assert compute_min_dcf(tied, is_target, 0.3) == 1
    assert compute_cllr(tied * 0, is_target) == pytest.approx(1, abs=1e-15)


def test_eer_by_hand() -> None:
    # Points (P_miss, P_fa): (0, 1) (0, 1/2) (1/2, 0) (1, 0): the tie at 2 is crossed halfway.
    assert compute_eer(*join([2, 3], [1, 2])) == 0.25
    # (0, 1) (1/3, 1) (1/3, 1/2) (1/3, 0) ...: only false alarms move at the crossing.
    assert compute_eer(*join([1, 8, 9], [2, 3])) == pytest.approx(1 / 3, abs=1e-16)


def test_rocch_eer_is_that_of_pav() -> None:
    """Pooling adjacent violators gives the hull's vertices, by another road."""
    random = np.random.default_rng(0)
    for _ in range(20):
        is_target = random.random(400) < 0.2
        scores = random.normal(size=400).round(1) + is_target
        order = np.lexsort((is_target.astype(int) * -1, scores))  # targets first within a tie, for PAV to pool
        blocks = isotonic_regression(is_target[order].astype(float)).blocks
        misses = np.append(0, np.cumsum(is_target[order]))[blocks] / is_target.sum()
        alarms = 1 - np.append(0, np.cumsum(~is_target[order]))[blocks] / (~is_target).sum()
        difference = misses - alarms
        expected = np.interp(0, difference, misses)
        assert compute_rocch_eer(scores, is_target) == pytest.approx(expected, abs=1e-14)


def test_published_voxsrc_2023(shared: Path) -> None:
    scores = load_scores(shared / "fixtures/VoxSRC2023_val_score.txt.gz")
    with gzip.open(shared / "fixtures/VoxSRC2023_val.txt.gz", "rt") as file:
        trials = [line.split() for line in file]
    assert list(zip(scores.enrol_ids, scores.test_ids, strict=True)) == [(t[1], t[2]) for t in trials]
    is_target = np.array([trial[0] == "1" for trial in trials])
    assert len(compute_error_counts(scores.scores, is_target).thresholds) == 1153 + 1
    assert f"{compute_eer(scores.scores, is_target):.3%}" == "4.095%"
    assert f"{compute_min_dcf(scores.scores, is_target, p_target=0.05):.4f}" == "0.2142"


def test_published_bosaris(shared: Path) -> None:
    with np.load(shared / "fixtures/bosaris_scores.npz") as file:
        linsep, nonsep = (join(file[f"{k}_positives"], file[f"{k}_negatives"]) for k in ("linsep", "nonsep"))
    assert f"{compute_rocch_eer(*nonsep):.9f}" == "0.116363636"
    assert compute_rocch_eer(*linsep) == compute_eer(*linsep) == 0
    assert f"{compute_cllr(*linsep):.5f}" == "1.20979"
    assert f"{compute_cllr(*nonsep):.5f}" == "3.61833"


def test_cllr_by_hand_and_without_overflow() -> None:
    # log2(1 + exp(-ln 3)) = log2(4/3); log2(1 + exp(ln 1)) = 1.
    assert compute_cllr(*join([math.log(3)], [0])) == pytest.approx((math.log2(4 / 3) + 1) / 2, rel=1e-15)
    assert compute_cllr(*join([-2000], [-2000])) == pytest.approx(1000 / math.log(2), rel=1e-15)


@pytest.mark.parametrize(("p_target", "c_miss", "c_fa"), [(0.5, 1, 1), (0.01, 1, 1), (0.01, 10, 1), (0.9, 1, 4)])
def test_act_dcf_is_the_cost_at_the_bayes_threshold(p_target: float, c_miss: float, c_fa: float) -> None:
    random = np.random.default_rng(0)
    llrs, is_target = join(random.normal(2, 2, size=200), random.normal(-2, 2, size=300))
    threshold = -math.log(p_target * c_miss / ((1 - p_target) * c_fa))
    cost = p_target * c_miss * sum(s < threshold for s in llrs[:200]) / 200
    cost += (1 - p_target) * c_fa * sum(s >= threshold for s in llrs[200:]) / 300
    expected = cost / min(p_target * c_miss, (1 - p_target) * c_fa)
    actual = compute_act_dcf(llrs, is_target, p_target, c_miss, c_fa)
    assert actual == pytest.approx(expected, rel=1e-12)
    assert actual >= compute_min_dcf(llrs, is_target, p_target, c_miss, c_fa) - 1e-12


def test_act_dcf_accepts_at_the_threshold() -> None:
    assert compute_act_dcf(*join([0.0], [-1.0]), p_target=0.5) == 0


def test_det_thinned_keeps_ends_and_shape() -> None:
    random = np.random.default_rng(0)
    scores, is_target = join(random.normal(2, 1, size=3000), random.normal(size=50_000))
    full, thin = compute_det(scores, is_target), compute_det(scores, is_target, max_points=200)
    assert 150 <= len(thin.p_miss) <= 200
    assert (thin.p_miss[0], thin.p_false_alarm[0], thin.p_miss[-1], thin.p_false_alarm[-1]) == (0, 1, 1, 0)
    points = set(zip(full.p_miss, full.p_false_alarm, strict=True))
    assert points.issuperset(zip(thin.p_miss, thin.p_false_alarm, strict=True))
    # On normal-deviate axes no point of the curve is farther from a kept one than an even share of its length.
    deviates = [
        np.stack([norm.ppf(rates.clip(0.5 / num, 1 - 0.5 / num)) for rates, num in pair], axis=1)
        for pair in (((c.p_miss, 3000), (c.p_false_alarm, 50_000)) for c in (full, thin))
    ]
    length = np.linalg.norm(np.diff(deviates[0], axis=0), axis=1).sum()
    distances, _ = KDTree(deviates[1]).query(deviates[0])
    assert distances.max() <= length / 199
    assert len(compute_det(*join([1], [0]), max_points=2).p_miss) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_measure_as_arrays_do(dtype: torch.dtype) -> None:
    scores, is_target = join([1, 3, 3, 5], [0, 3, 2])
    tensors = torch.tensor(scores, dtype=dtype, requires_grad=True), torch.from_numpy(is_target)
    for metric in (compute_eer, compute_rocch_eer, compute_cllr):
        assert metric(*tensors) == metric(scores, is_target)
    assert compute_min_dcf(*tensors, 0.1) == compute_min_dcf(scores, is_target, 0.1)


# Refusals


@pytest.mark.parametrize(
    ("scores", "is_target", "message"),
    [
        (np.ones(3), np.array([True, False]), "found scores (3,) and is_target (2,)"),
        (np.ones((2, 2)), np.ones((2, 2), dtype=bool), "found scores (2, 2) and is_target (2, 2)"),
        (np.ones(2), np.array([True, True]), "found 2 targets and 0 non-targets"),
        (np.ones(2), np.array([False, False]), "found 0 targets and 2 non-targets"),
        (np.ones(0), np.ones(0, dtype=bool), "found 0 targets and 0 non-targets"),
        (np.ones(2), np.array([0, 1]), "expected is_target to be boolean, found int64"),
        (np.array([0, np.nan]), np.array([True, False]), "expected finite scores, found nan in trial 1"),
        (np.array([-np.inf, 0]), np.array([True, False]), "expected finite scores, found -inf in trial 0"),
    ],
)
def test_every_metric_refuses(scores: np.ndarray, is_target: np.ndarray, message: str) -> None:
    calls = [
        lambda: compute_error_counts(scores, is_target),
        lambda: compute_eer(scores, is_target),
        lambda: compute_rocch_eer(scores, is_target),
        lambda: compute_min_dcf(scores, is_target, 0.5),
        lambda: compute_act_dcf(scores, is_target, 0.5),
        lambda: compute_cllr(scores, is_target),
        lambda: compute_det(scores, is_target),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)


@pytest.mark.parametrize("metric", [compute_min_dcf, compute_act_dcf])
def test_costs_out_of_range(metric: object) -> None:
    scores, is_target = join([1], [0])
    for p_target in (0, 1, -0.1, math.nan):
        with pytest.raises(InputError, match=f"expected p_target between 0 and 1, found {p_target}"):
            metric(scores, is_target, p_target)  # type: ignore[operator]
    for costs in ((0, 1), (1, 0), (math.inf, 1), (1, math.nan)):
        with pytest.raises(InputError, match=f"c_miss and c_fa above 0, found {costs[0]} and {costs[1]}"):
            metric(scores, is_target, 0.5, *costs)  # type: ignore[operator]


def test_det_of_one_point() -> None:
    scores, is_target = join([1], [0])
    with pytest.raises(InputError, match="expected max_points of at least 2, found 1"):
        compute_det(scores, is_target, max_points=1)
