"""The operating points of evaluations, as their plans state them, and costs averaged over them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.metrics import compute_act_dcf, compute_min_dcf
from spkadapt.metrics.operating_points import (
    OPERATING_POINTS,
    OperatingPoint,
    compute_mean_act_dcf,
    compute_mean_min_dcf,
)


def trials() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    is_target = np.arange(2000) < 400
    return random.normal(np.where(is_target, 3, -3), 2.5).round(1), is_target


@pytest.mark.parametrize("name", OPERATING_POINTS)
def test_primary_cost_is_the_mean_of_its_points(name: str) -> None:
    llrs, is_target = trials()
    points = OPERATING_POINTS[name].points
    least = [compute_min_dcf(llrs, is_target, p.p_target, p.c_miss, p.c_fa) for p in points]
    actual = [compute_act_dcf(llrs, is_target, p.p_target, p.c_miss, p.c_fa) for p in points]
    assert compute_mean_min_dcf(llrs, is_target, points) == pytest.approx(sum(least) / len(least), rel=1e-14)
    assert compute_mean_act_dcf(llrs, is_target, points) == pytest.approx(sum(actual) / len(actual), rel=1e-14)


def test_thresholds_that_the_plans_state() -> None:
    """The effective ratio β = (1 − p) c_fa / (p c_miss): 9.9 in 2008, 999 in 2010, 19 for VAST."""
    betas = {
        name: [round(math.exp(point.bayes_threshold), 9) for point in cost.points]
        for name, cost in OPERATING_POINTS.items()
    }
    assert betas == {
        "sre08": [9.9],
        "sre10": [999],
        "sre16": [99, 199],
        "sre18-cmn2": [99, 199],
        "sre18-vast": [19],
        "sre19-cts": [99, 199],
        "sre19-av": [19],
        "sre21-audio": [99, 19],
        "voxsrc": [19],
    }


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        OPERATING_POINTS["sre08"] = OPERATING_POINTS["sre10"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        OPERATING_POINTS["sre08"].points[0].p_target = 0.5  # type: ignore[misc]


def test_refusals() -> None:
    with pytest.raises(InputError, match="p_target between 0 and 1, found 1"):
        OperatingPoint(1)
    with pytest.raises(InputError, match="c_miss and c_fa above 0, found 0 and 1"):
        OperatingPoint(0.1, c_miss=0)
    for call in (compute_mean_min_dcf, compute_mean_act_dcf):
        with pytest.raises(InputError, match="found 1 targets and 0 non-targets"):
            call(np.ones(1), np.ones(1, dtype=bool), OPERATING_POINTS["sre16"].points)
