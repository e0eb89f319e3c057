"""AUC and rates at a limit, against loops over pairs of trials and over thresholds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.metrics.rates import compute_auc, compute_far_at_frr, compute_frr_at_far

SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=14)
PROPERTY = settings(max_examples=200, deadline=None)
RATES = st.one_of(st.floats(0, 1, exclude_max=True), st.fractions(0, Fraction(13, 14), max_denominator=14))


def join(targets: list[int], nontargets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*targets, *nontargets], dtype=float), np.arange(len(targets) + len(nontargets)) < len(targets)


def naive_points(targets: list[int], nontargets: list[int]) -> list[tuple[float, float]]:
    """(P_miss, P_fa) at each threshold, counted trial by trial."""
    return [
        (
            sum(s < threshold for s in targets) / len(targets),
            sum(s >= threshold for s in nontargets) / len(nontargets),
        )
        for threshold in [*sorted({*targets, *nontargets}), math.inf]
    ]


@PROPERTY
@given(targets=SCORES, nontargets=SCORES)
def test_auc_is_the_share_of_pairs_won(targets: list[int], nontargets: list[int]) -> None:
    won = sum(Fraction((t > n) * 2 + (t == n), 2) for t in targets for n in nontargets)
    scores, is_target = join(targets, nontargets)
    found = compute_auc(scores, is_target)
    assert found == float(won / (len(targets) * len(nontargets)))
    assert compute_auc(torch.from_numpy(scores), torch.from_numpy(is_target)) == found
    assert compute_auc(-scores, is_target) == pytest.approx(1 - found, abs=1e-15)


@PROPERTY
@given(targets=SCORES, nontargets=SCORES, rate=RATES)
def test_rates_at_a_limit_match_the_loop(targets: list[int], nontargets: list[int], rate: float) -> None:
    scores, is_target = join(targets, nontargets)
    rate = float(rate)
    points = naive_points(targets, nontargets)
    assert compute_frr_at_far(scores, is_target, rate) == min(miss for miss, fa in points if fa <= rate)
    assert compute_far_at_frr(scores, is_target, rate) == min(fa for miss, fa in points if miss <= rate)


def test_a_tie_is_accepted_whole_or_not_at_all() -> None:
    """Two of four non-targets tie with a target: at FAR 1/4 none of the three may pass."""
    scores, is_target = join([2, 3], [0, 1, 2, 2])
    assert compute_frr_at_far(scores, is_target, 0.25) == 0.5
    assert compute_frr_at_far(scores, is_target, 0.5) == 0
    assert compute_far_at_frr(scores, is_target, 0.49) == 0.5
    assert compute_far_at_frr(scores, is_target, 0.5) == 0


def test_refusals() -> None:
    scores, is_target = join([1], [0])
    for rate in (-0.1, 1, math.nan):
        for name, metric in (("far", compute_frr_at_far), ("frr", compute_far_at_frr)):
            with pytest.raises(InputError, match=f"expected {name} from 0 to below 1, found {rate}"):
                metric(scores, is_target, rate)
    for call in (
        compute_auc,
        lambda s, t: compute_frr_at_far(s, t, 0.1),
        lambda s, t: compute_far_at_frr(s, t, 0.1),
    ):
        with pytest.raises(InputError, match="found 1 targets and 0 non-targets"):
            call(scores[:1], is_target[:1])
