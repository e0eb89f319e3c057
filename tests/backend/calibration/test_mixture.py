"""Calibration without labels against scikit-learn's mixture, known truth, and the trials written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import norm
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from spkadapt.backend.calibration import MixtureCalibration, mixture
from spkadapt.errors import InputError
from spkadapt.metrics import compute_cllr, compute_eer


def make_scores(num_trials: int, share: float, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Non-targets N(7, 9), targets `gap` deviations higher."""
    random = np.random.default_rng(seed)
    is_target = random.random(num_trials) < share
    return random.normal(7 + 3 * gap * is_target, 3), is_target


@pytest.mark.parametrize(
    ("num_trials", "share", "gap"), [(5000, 0.05, 2.5), (3000, 0.5, 2.0), (20_000, 0.01, 4.0)]
)
def test_parity_with_a_tied_mixture_by_em(num_trials: int, share: float, gap: float) -> None:
    scores, _ = make_scores(num_trials, share, gap)
    model = MixtureCalibration().fit(scores)
    peer = GaussianMixture(
        2,
        covariance_type="tied",
        tol=1e-12,
        max_iter=5000,
        means_init=[[7], [7 + 3 * gap]],
        weights_init=[1 - share, share],
    ).fit(scores[:, None])
    assert model.nontarget_mean_ == pytest.approx(peer.means_[0, 0], rel=1e-4)
    assert model.target_mean_ == pytest.approx(peer.means_[1, 0], rel=1e-4)
    assert model.deviation_ == pytest.approx(math.sqrt(peer.covariances_[0, 0]), rel=1e-4)
    assert model.target_share_ == pytest.approx(peer.weights_[1], rel=2e-3)


def test_llrs_and_eer_are_those_of_the_two_gaussians() -> None:
    scores, is_target = make_scores(200_000, 0.1, 3.0)
    model = MixtureCalibration().fit(scores)
    some = np.linspace(-5, 25, 7)
    expected = norm.logpdf(some, model.target_mean_, model.deviation_) - norm.logpdf(
        some, model.nontarget_mean_, model.deviation_
    )
    np.testing.assert_allclose(model.transform(some), expected, rtol=1e-9, atol=1e-9)
    # The threshold at which both err alike lies halfway.
    halfway = (model.target_mean_ + model.nontarget_mean_) / 2
    assert model.predicted_eer_ == pytest.approx(norm.cdf(halfway, model.target_mean_, model.deviation_), rel=1e-9)
    assert model.predicted_eer_ == pytest.approx(compute_eer(scores, is_target), abs=0.004)
    truth = norm.logpdf(scores, 16, 3) - norm.logpdf(scores, 7, 3)
    assert compute_cllr(model.transform(scores), is_target) == pytest.approx(
        compute_cllr(truth, is_target), abs=0.001
    )


def test_gradient() -> None:
    binned, _ = mixture._bin_scores(make_scores(2000, 0.1, 2.0)[0], make_scores(500, 0.0, 0.0)[0])
    for point in ([0.1, 0.3, -0.2, -2.0], [-1.0, 1.0, 0.4, 1.0]):
        error = check_grad(
            lambda x: mixture._loss_and_gradient(x, binned)[0],
            lambda x: mixture._loss_and_gradient(x, binned)[1],
            np.array(point),
        )
        assert error < 1e-6


def test_loss_is_the_likelihood_of_the_scores_themselves() -> None:
    """Binning loses nothing that matters: against every score alone, in its own units."""
    scores, known = make_scores(3000, 0.1, 2.0)[0], make_scores(400, 0.0, 0.0, seed=1)[0]
    binned, _ = mixture._bin_scores(scores, known)
    mean, log_gap, log_deviation, odds = parameters = np.array([0.1, 0.3, -0.2, -2.0])
    standard = [(values - binned.mean) / binned.deviation for values in (scores, known)]
    low = norm(mean, math.exp(log_deviation))
    high, share = norm(mean + math.exp(log_gap), math.exp(log_deviation)), 1 / (1 + math.exp(-odds))
    likelihood = np.log(share * high.pdf(standard[0]) + (1 - share) * low.pdf(standard[0])).sum()
    likelihood += low.logpdf(standard[1]).sum() + 3400 * math.log(2 * math.pi) / 2
    assert mixture._loss_and_gradient(parameters, binned)[0] == pytest.approx(-likelihood / 3400, rel=1e-6)


def test_known_non_targets_part_what_is_two_sided() -> None:
    """Non-targets of two kinds: alone they are taken for the two components; scores known for theirs mend it."""
    random = np.random.default_rng(0)
    known = random.normal(random.choice([-2, 2], size=20_000), 1)
    is_target = np.arange(20_000) < 400
    scores = np.where(is_target, random.normal(5, 1, size=20_000), known)
    more = random.normal(random.choice([-2, 2], size=20_000), 1)
    alone, informed = MixtureCalibration().fit(scores), MixtureCalibration().fit(scores, more)
    assert alone.target_share_ > 0.4
    assert informed.target_share_ < 0.15
    costs = [compute_cllr(model.transform(scores), is_target) for model in (alone, informed)]
    assert costs[1] < costs[0] / 2
    assert informed.nontarget_mean_ == pytest.approx(0, abs=0.1)


def test_affine_changes_of_scores_change_no_llr() -> None:
    scores, _ = make_scores(5000, 0.1, 2.5)
    found = [MixtureCalibration().fit(s).transform(s) for s in (scores, scores * 1e-3 - 5)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_bootstrap_is_the_fit_to_drawn_trials_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    enrol, test = random.integers(12, size=(2, 3000))
    is_target = random.random(3000) < 0.2
    scores = random.normal(3.0 * is_target, 1)
    model = MixtureCalibration().fit(scores)
    names = np.array([f"call-{i:02d}" for i in range(12)])
    found = model.bootstrap_eer(scores, names[enrol], names[test], num_replicates=3, seed=5)
    generator = np.random.default_rng(5)
    for eer in found:
        drawn = np.bincount(generator.integers(12, size=12), minlength=12)
        times = [drawn[e] if e == t else drawn[e] * drawn[t] for e, t in zip(enrol, test, strict=True)]
        expected = MixtureCalibration().fit(np.repeat(scores, times)).predicted_eer_
        assert eer == pytest.approx(expected, rel=2e-3)
    assert len(set(found)) == 3


def test_intervals_of_the_predicted_eer_cover_it() -> None:
    """Recordings of independent trials: about nine in ten 90 % intervals should hold the true EER."""
    covered = 0
    for seed in range(20):
        scores, _ = make_scores(1500, 0.2, 3.0, seed)
        random = np.random.default_rng(seed)
        sides = random.integers(400, size=(2, 1500))
        found = MixtureCalibration().fit(scores).bootstrap_eer(scores, *sides, num_replicates=30, seed=seed)
        low, high = np.quantile(found, [0.05, 0.95])
        covered += low <= norm.cdf(-1.5) <= high
    assert covered >= 15


def test_settings_and_fitted_attributes() -> None:
    model = MixtureCalibration().fit(make_scores(500, 0.2, 3.0)[0].astype(np.float32))
    assert clone(model).get_params() == {}
    fitted = {name: value for name, value in vars(model).items() if name.endswith("_")}
    assert set(map(type, fitted.values())) == {float}
    assert set(fitted) == {
        "target_mean_",
        "nontarget_mean_",
        "deviation_",
        "target_share_",
        "scale_",
        "offset_",
        "predicted_eer_",
    }


# Refusals


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_refusals() -> None:
    scores = make_scores(500, 0.2, 3.0)[0]
    for bad in (scores[:9], scores[:, None]):
        assert f"expected scores (at least 10,), found shape {bad.shape}" in refusal(
            lambda bad=bad: MixtureCalibration().fit(bad)
        )
    broken = scores.copy()
    broken[4] = np.nan
    assert "expected finite scores, found nan in trial 4" in refusal(lambda: MixtureCalibration().fit(broken))
    assert "expected finite nontarget_scores, found nan in trial 4" in refusal(
        lambda: MixtureCalibration().fit(scores, broken)
    )
    assert "all scores are 0.1" in refusal(lambda: MixtureCalibration().fit(np.full(20, 0.1)))
    assert "call fit first" in refusal(lambda: MixtureCalibration().transform(scores))
    assert "call fit first" in refusal(lambda: MixtureCalibration().bootstrap_eer(scores, scores, scores))
    assert "two recordings for each of 500 scores, found 500 and 3" in refusal(
        lambda: MixtureCalibration().fit(scores).bootstrap_eer(scores, scores, scores[:3])
    )


@pytest.mark.parametrize("seed", range(3))
def test_refuses_scores_of_one_kind(seed: int) -> None:
    assert "one Gaussian describes the scores as well as two" in refusal(
        lambda: MixtureCalibration().fit(make_scores(20_000, 0.0, 0.0, seed)[0])
    )
