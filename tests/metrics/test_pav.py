"""Pooling against all monotone maps there are, the one-by-one algorithm and published figures."""

from __future__ import annotations

import gzip
import math
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from spkadapt.errors import InputError
from spkadapt.metrics import compute_cllr, pav
from spkadapt.metrics.pav import compute_min_cllr, pool_adjacent_violators
from spkadapt.score import load_scores

SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=14)
BINS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any), min_size=1, max_size=30)
PROPERTY = settings(max_examples=200, deadline=None)


def join(targets: list[int], nontargets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*targets, *nontargets], dtype=float), np.arange(len(targets) + len(nontargets)) < len(targets)


def naive_min_cllr(scores: np.ndarray, is_target: np.ndarray) -> float:
    """The least over every way of cutting the distinct scores into blocks of one likelihood ratio each.

    The best map is constant on blocks of neighbouring scores; which blocks, enumeration finds without pooling.
    Blocks whose ratios do not rise are no monotone map, and left out.
    """
    distinct = sorted(set(scores.tolist()))
    num_targets, num_nontargets = int(is_target.sum()), int((~is_target).sum())
    best = math.inf
    for size in range(len(distinct)):
        for cuts in combinations(range(1, len(distinct)), size):
            shares = []
            for low, high in pairwise([0, *cuts, len(distinct)]):
                inside = np.isin(scores, distinct[low:high])
                shares.append(
                    (
                        Fraction(int((inside & is_target).sum()), num_targets),
                        Fraction(int((inside & ~is_target).sum()), num_nontargets),
                    )
                )
            if any(a * d > c * b for (a, b), (c, d) in pairwise(shares)):
                continue
            cost = sum(a * math.log2(1 + b / a) for a, b in shares if a)
            cost += sum(b * math.log2(1 + a / b) for a, b in shares if b)
            best = min(best, cost / 2)
    return best


@PROPERTY
@given(targets=SCORES, nontargets=SCORES)
def test_min_cllr_is_the_least_over_all_monotone_maps(targets: list[int], nontargets: list[int]) -> None:
    scores, is_target = join(targets, nontargets)
    found = compute_min_cllr(scores, is_target)
    assert found == pytest.approx(naive_min_cllr(scores, is_target), abs=1e-14)
    assert 0 <= found <= min(1, compute_cllr(scores, is_target)) + 1e-14
    assert compute_min_cllr(np.exp(scores) - 9, is_target) == found
    assert compute_min_cllr(-scores, ~is_target) == pytest.approx(found, abs=1e-14)


def test_min_cllr_by_hand() -> None:
    # One pooled block of all: its likelihood ratio is 1 and says nothing.
    assert compute_min_cllr(*join([0], [1])) == 1
    assert compute_min_cllr(*join([5, 5], [5])) == 1
    assert compute_min_cllr(*join([1], [0])) == 0
    # A non-target, then a tie of a target (all of them) and half the non-targets: ratio 2.
    expected = (math.log2(1.5) + 0.5 * math.log2(3)) / 2
    assert compute_min_cllr(*join([1], [0, 1])) == pytest.approx(expected, rel=1e-15)


@PROPERTY
@given(bins=BINS, slow=st.booleans())
def test_pooling_is_that_of_scipy(bins: list[tuple[int, int]], slow: bool) -> None:
    targets, nontargets = np.array(bins).T
    shares = targets / (targets + nontargets)
    expected = isotonic_regression(shares, weights=targets + nontargets)
    if slow:
        starts = np.array(pav._pool_one_by_one(targets.tolist(), nontargets.tolist()))
    else:
        starts = pool_adjacent_violators(targets, nontargets)
    pooled = np.add.reduceat(targets, starts) / np.add.reduceat(targets + nontargets, starts)
    assert (np.diff(pooled) > 0).all()
    np.testing.assert_allclose(
        np.repeat(pooled, np.diff([*starts, len(bins)])), expected.x, rtol=1e-12, atol=1e-15
    )


def test_pooling_of_the_worst_order_goes_over_to_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rising shares and one heavy last bin without targets: only one pair of neighbours violates at a time."""
    calls = []
    one_by_one = pav._pool_one_by_one
    monkeypatch.setattr(pav, "_pool_one_by_one", lambda *args: calls.append(1) or one_by_one(*args))
    targets = np.append(np.arange(1, 1001), 0)
    nontargets = np.append(np.full(1000, 1000), 10**6)
    starts = pool_adjacent_violators(targets, nontargets)
    expected = isotonic_regression(targets / (targets + nontargets), weights=targets + nontargets)
    assert starts.tolist() == expected.blocks[:-1].tolist()
    assert len(calls) == 1


def test_published_sets(shared: Path) -> None:
    """By isotonic regression of SciPy; VoxSRC 2023 has many ties, the separable set none that matter."""
    with np.load(shared / "fixtures/bosaris_scores.npz") as file:
        linsep, nonsep = (join(file[f"{k}_positives"], file[f"{k}_negatives"]) for k in ("linsep", "nonsep"))
    assert compute_min_cllr(*linsep) == 0
    scores, is_target = nonsep
    order = np.lexsort((~is_target, scores))
    shares = isotonic_regression(is_target[order].astype(float)).x
    prior = is_target.mean()
    llrs = np.log(shares.clip(1e-300)) - np.log1p(-shares.clip(max=1 - 1e-16)) - np.log(prior / (1 - prior))
    assert compute_min_cllr(*nonsep) == pytest.approx(compute_cllr(llrs, is_target[order]), abs=1e-12)
    voxsrc = load_scores(shared / "fixtures/VoxSRC2023_val_score.txt.gz").scores
    with gzip.open(shared / "fixtures/VoxSRC2023_val.txt.gz", "rt") as file:
        labels = np.array([line.split()[0] == "1" for line in file])
    # By scipy's regression on shares of distinct scores.
    _, bins = np.unique(voxsrc, return_inverse=True)
    targets, nontargets = np.bincount(bins[labels]), np.bincount(bins[~labels], minlength=bins.max() + 1)
    blocks = isotonic_regression(targets / (targets + nontargets), weights=targets + nontargets).blocks[:-1]
    a = np.add.reduceat(targets, blocks) / labels.sum()
    b = np.add.reduceat(nontargets, blocks) / (~labels).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.nan_to_num(a * np.log2(1 + b / a)) + np.nan_to_num(b * np.log2(1 + a / b))
    assert compute_min_cllr(voxsrc, labels) == pytest.approx(cost.sum() / 2, rel=1e-12)


def test_refusal() -> None:
    with pytest.raises(InputError, match="found 2 targets and 0 non-targets"):
        compute_min_cllr(np.ones(2), np.ones(2, dtype=bool))
