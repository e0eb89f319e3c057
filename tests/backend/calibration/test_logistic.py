"""Calibration and fusion against scipy's optimiser, scikit-learn's regression, and models of known truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from spkadapt.backend.calibration import LogisticCalibration
from spkadapt.errors import InputError
from spkadapt.metrics import compute_cllr, compute_min_cllr


def make_trials(num_trials: int = 600, num_systems: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    is_target = random.random(num_trials) < 0.2
    noise = random.normal(size=(num_trials, num_systems))
    return 40 + 3 * (noise + is_target[:, None] * np.linspace(1, 1.5, num_systems)), is_target


def naive_loss(model: LogisticCalibration, columns: np.ndarray, is_target: np.ndarray, w: np.ndarray) -> float:
    """The prior-weighted loss from its definition, trial by trial."""
    prior = math.log(model.p_target / (1 - model.p_target))
    targets, nontargets = [], []
    for row, target in zip(columns, is_target, strict=True):
        llr = sum(a * b for a, b in zip(w[:-1], row, strict=True)) + w[-1]
        (targets if target else nontargets).append(math.log1p(math.exp(-llr - prior if target else llr + prior)))
    loss = model.p_target * sum(targets) / len(targets) + (1 - model.p_target) * sum(nontargets) / len(nontargets)
    return loss / -(
        model.p_target * math.log(model.p_target) + (1 - model.p_target) * math.log(1 - model.p_target)
    )


@pytest.mark.parametrize("p_target", [0.5, 0.05])
@pytest.mark.parametrize(("num_systems", "num_measures"), [(1, 0), (3, 0), (1, 2)])
def test_no_parameters_are_better(p_target: float, num_systems: int, num_measures: int) -> None:
    columns, is_target = make_trials(150, num_systems + num_measures)
    model = LogisticCalibration(p_target)
    if num_measures:
        model.fit(columns[:, :num_systems], is_target, columns[:, num_systems:])
    else:
        model.fit(columns, is_target)
    assert (model.weights_.shape, model.quality_weights_.shape) == ((num_systems,), (num_measures,))
    found = np.concatenate([model.weights_, model.quality_weights_, [model.offset_]])
    assert naive_loss(model, columns, is_target, found) == pytest.approx(model.loss_, rel=1e-12)
    # The gradient is zero: a small step in any direction, either way, costs more, and both ways alike.
    for column, direction in enumerate(np.eye(len(found))):
        step = 1e-4 * direction
        if column < columns.shape[1]:  # a weight, about the column's mean
            step /= columns[:, column].std()
            step[-1] = -step[column] * columns[:, column].mean()
        up, down = (naive_loss(model, columns, is_target, found + sign * step) for sign in (1, -1))
        assert min(up, down) > model.loss_
        assert up - down == pytest.approx(0, abs=1e-10)
    standard = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    peer = minimize(lambda w: naive_loss(model, standard, is_target, w), np.zeros(len(found)), tol=1e-12)
    assert model.loss_ == pytest.approx(peer.fun, rel=1e-9)
    assert model.loss_ <= peer.fun + 1e-14


def test_parity_with_weighted_logistic_regression() -> None:
    scores, is_target = make_trials(2000, 2)
    model = LogisticCalibration(0.1).fit(scores, is_target)
    weights = np.where(is_target, 0.1 / is_target.sum(), 0.9 / (~is_target).sum()) * len(is_target)
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    peer.fit(scores, is_target, sample_weight=weights)
    np.testing.assert_allclose(model.weights_, peer.coef_[0], rtol=1e-6)
    assert model.offset_ + math.log(0.1 / 0.9) == pytest.approx(peer.intercept_[0], rel=1e-6)


def test_recovers_the_truth_of_two_gaussians() -> None:
    """Scores 3·x + 7 with x ~ N(±2, 4): the llr of x is x itself, whatever the prior aimed at."""
    random = np.random.default_rng(1)
    is_target = np.arange(200_000) < 100_000
    llrs = random.normal(np.where(is_target, 2, -2), 2)
    for p_target in (0.5, 0.05):
        model = LogisticCalibration(p_target).fit(3 * llrs + 7, is_target)
        assert model.weights_[0] == pytest.approx(1 / 3, rel=0.02)
        assert model.offset_ == pytest.approx(-7 / 3, abs=0.05)


def test_loss_is_cllr_and_between_minimum_and_one() -> None:
    scores, is_target = make_trials()
    model = LogisticCalibration().fit(scores[:, 0], is_target)
    assert model.loss_ == pytest.approx(compute_cllr(model.transform(scores), is_target), rel=1e-12)
    assert compute_min_cllr(scores[:, 0], is_target) < model.loss_ < 1


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), negate=st.booleans())
def test_affine_changes_of_scores_change_no_llr(scale: float, shift: float, negate: bool) -> None:
    scores, is_target = make_trials(200)
    moved = scores * (-scale if negate else scale) + shift
    found = [LogisticCalibration(0.2).fit(s, is_target).transform(s) for s in (scores, moved)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_fusion_is_no_worse_than_its_best_system_and_quality_helps_where_it_matters() -> None:
    scores, is_target = make_trials(40_000, 2)
    alone = [LogisticCalibration().fit(scores[:, i], is_target).loss_ for i in range(2)]
    assert LogisticCalibration().fit(scores, is_target).loss_ < min(alone) - 0.01
    random = np.random.default_rng(0)
    quality = random.normal(size=len(scores))
    shifted = scores[:, 1] + 3 * quality  # recordings of one kind score higher, whoever speaks
    with_quality = LogisticCalibration().fit(shifted, is_target, quality)
    assert with_quality.loss_ == pytest.approx(alone[1], rel=0.01)
    assert with_quality.quality_weights_[0] == pytest.approx(-3 * with_quality.weights_[0], rel=0.03)
    assert LogisticCalibration().fit(shifted, is_target).loss_ > alone[1] + 0.05


def test_published_set_calibrates(shared: Path) -> None:
    """BOSARIS's overlapping set, whose scores cost 3.61833 bits as they are."""
    with np.load(shared / "fixtures/bosaris_scores.npz") as file:
        positives, negatives = file["nonsep_positives"], file["nonsep_negatives"]
        separable = np.concatenate([file["linsep_positives"], file["linsep_negatives"]])
        parted = np.arange(len(separable)) < len(file["linsep_positives"])
    scores = np.concatenate([positives, negatives])
    is_target = np.arange(len(scores)) < len(positives)
    model = LogisticCalibration().fit(scores, is_target)
    assert compute_min_cllr(scores, is_target) < model.loss_ < 0.5
    assert "without an error" in refusal(lambda: LogisticCalibration().fit(separable, parted))


def test_settings_and_fitted_attributes() -> None:
    scores, is_target = make_trials()
    model = LogisticCalibration(0.3).fit(scores.astype(np.float32), is_target)
    assert clone(model).get_params() == {"p_target": 0.3}
    assert model.weights_.dtype == model.quality_weights_.dtype == model.transform(scores).dtype == np.float64
    assert type(model.offset_) is type(model.loss_) is float


# Refusals


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_refusals_of_trials() -> None:
    scores, is_target = make_trials(20)
    model = LogisticCalibration()
    for p_target in (0, 1, math.nan):
        assert f"p_target between 0 and 1, found {p_target}" in refusal(
            lambda p=p_target: LogisticCalibration(p).fit(scores, is_target)
        )
    for shape in ((0,), (2, 2, 2)):
        assert f"expected scores (num_trials,) or (num_trials, number), found shape {shape}" in refusal(
            lambda shape=shape: model.fit(np.ones(shape), is_target)
        )
    broken = scores.copy()
    broken[3] = np.inf
    assert "finite scores, found NaN or infinity in trial 3" in refusal(lambda: model.fit(broken, is_target))
    assert "finite quality, found NaN or infinity in trial 3" in refusal(
        lambda: model.fit(scores, is_target, broken)
    )
    assert "quality measures of 20 trials, found 2" in refusal(lambda: model.fit(scores, is_target, np.ones(2)))
    assert "one boolean is_target for each of 20 trials, found bool of shape (3,)" in refusal(
        lambda: model.fit(scores, is_target[:3])
    )
    assert "found int64 of shape (20,)" in refusal(lambda: model.fit(scores, is_target.astype(int)))
    assert "found 20 targets and 0 non-targets" in refusal(lambda: model.fit(scores, np.ones(20, dtype=bool)))


def test_refusals_of_columns() -> None:
    scores, is_target = make_trials(200, 2)
    model = LogisticCalibration()
    flat = np.full(200, 0.1)
    assert "system 1 is the same in all trials" in refusal(
        lambda: model.fit(np.column_stack([scores[:, 0], flat]), is_target)
    )
    assert "quality measure 0 is the same in all trials" in refusal(lambda: model.fit(scores, is_target, flat))
    assert "a linear function of the others" in refusal(
        lambda: model.fit(scores, is_target, 1 - scores @ [0.3, 0.5])
    )


@pytest.mark.parametrize("targets", [[2, 3, 4], [1, 2, 3]])
def test_refuses_scores_without_an_error(targets: list[int]) -> None:
    """Wholly apart, and apart but for a tie, where the loss falls towards a limit that no weight reaches."""
    scores = np.array([*targets, -1, 0, 1], dtype=float)
    is_target = np.arange(6) < 3
    for sign in (1, -1):
        assert "without an error" in refusal(lambda sign=sign: LogisticCalibration().fit(sign * scores, is_target))


def test_refusals_of_transform() -> None:
    scores, is_target = make_trials()
    assert "call fit first" in refusal(lambda: LogisticCalibration().transform(scores))
    model = LogisticCalibration().fit(scores, is_target)
    assert "expected 1 systems and 0 quality measures as in fit, found 1 and 1" in refusal(
        lambda: model.transform(scores, scores)
    )
    assert "found 2 and 0" in refusal(lambda: model.transform(np.ones((3, 2))))
