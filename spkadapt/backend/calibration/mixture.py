"""Calibration on scores whose truth is unknown, by a mixture of two Gaussians; and the EER that it predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit, ndtr
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_fitted
from spkadapt.errors import InputError

_NUM_BINS = 4096
# Shares of targets from which the likelihood is climbed: it has several maxima.
_START_SHARES = (0.5, 0.2, 0.05, 0.01, 0.001)
# Of the non-target mean, log gap of means, log deviation (in deviations of all scores), and log odds of targets.
_BOUNDS = ((-5.0, 5.0), (np.log(1e-2), np.log(100.0)), (np.log(1e-3), np.log(2.0)), (-16.0, 16.0))


class MixtureCalibration(BaseEstimator):
    """Unlabelled scores to log-likelihood ratios (Brümmer & Garcia-Romero, 2014).

    Scores are taken to be p·N(μ₁, σ²) + (1 − p)·N(μ₀, σ²), of maximum likelihood. With one variance for both,

        llr = (μ₁ − μ₀)/σ² · s − (μ₁² − μ₀²)/(2σ²)

    is affine and rises, and the EER is Φ(−(μ₁ − μ₀)/2σ). Two variances would fit better where targets spread more,
    but give a llr that falls again somewhere. The model is all there is to go by: scores of non-targets that are
    skewed, or few targets, make two components of what is one, and nothing here can tell. Scores of pairs known to
    be non-targets, such as those of another corpus or of recordings known to be of two people, hold that in check.
    On the calls of wuw2, with centred cosine, it predicts EERs of 6.5 and 11.5 % where 10.9 and 18.1 % are
    measured (CAM++, Resemblyzer): its Gaussians are not what scores are, and its predictions no more than hints.

    Scores are binned into 4,096 bins, of which sums and sums of squares are exact, so the time does not grow with
    them.

    Attributes:
        target_mean_, nontarget_mean_, deviation_: μ₁, μ₀ and σ.
        target_share_: p, of the unlabelled scores.
        scale_, offset_: llr = scale_ · s + offset_.
        predicted_eer_: a fraction; `bootstrap_eer` says how sure it is, given that the model holds.
    """

    target_mean_: float
    nontarget_mean_: float
    deviation_: float
    target_share_: float
    scale_: float
    offset_: float
    predicted_eer_: float

    def fit(self, scores: np.ndarray, nontarget_scores: np.ndarray | None = None) -> MixtureCalibration:
        """Learn from scores of trials of either kind.

        Args:
            nontarget_scores: scores of trials known to be non-targets, if any; they do not count in
                `target_share_`.

        Shape:
            scores: `(num_trials,)`
            nontarget_scores: `(num_nontargets,)`

        Raises:
            InputError: fewer than 10 scores, or some not finite; scores that are all the same; or scores that one
                Gaussian describes as well as two (by BIC), which no calibration can be learnt from.
        """
        binned, _ = _bin_scores(scores, nontarget_scores)
        starts = [_start(binned, share) for share in _START_SHARES]
        parameters, loss = min((_climb(binned, start) for start in starts), key=lambda found: found[1])
        total = binned.counts.sum() + binned.nontargets.sum()
        if total * (binned.loss_of_one_gaussian() - loss) < np.log(
            total
        ):  # two parameters more, half of BIC's each
            raise InputError(
                "cannot calibrate without labels: one Gaussian describes the scores as well as two, "
                "so targets and non-targets cannot be told apart"
            )
        nontarget_mean, gap, deviation, odds = binned.in_units_of_scores(parameters)
        self.nontarget_mean_, self.target_mean_ = nontarget_mean, nontarget_mean + gap
        self.deviation_, self.target_share_ = deviation, float(expit(odds))
        self.scale_ = gap / deviation**2
        self.offset_ = -self.scale_ * (self.target_mean_ + self.nontarget_mean_) / 2
        self.predicted_eer_ = float(ndtr(-gap / (2 * deviation)))
        return self

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """The log-likelihood ratios, natural log, float64 `(num_trials,)`.

        Raises:
            InputError: before `fit`.
        """
        check_fitted(self, "scale_")
        return self.scale_ * np.asarray(scores, dtype=np.float64) + self.offset_

    def bootstrap_eer(
        self,
        scores: np.ndarray,
        enrol_recordings: np.ndarray,
        test_recordings: np.ndarray,
        nontarget_scores: np.ndarray | None = None,
        *,
        num_replicates: int = 200,
        seed: int = 0,
    ) -> np.ndarray:
        """The EER predicted from recordings drawn anew with replacement, for `intervals.percentile_interval`.

        A trial of recordings drawn v and w times counts v·w times, one within a recording as often as that was
        drawn. Without labels, speakers cannot be drawn: where they have several recordings, intervals come out too
        narrow. Known non-targets are not drawn anew.

        Args:
            scores, nontarget_scores: what `fit` was given.
            enrol_recordings, test_recordings: the recording on each side of each trial.

        Shape:
            scores, enrol_recordings, test_recordings: `(num_trials,)`
            returns `(num_replicates,)`

        Raises:
            InputError: as `fit` does; before it; or for another number of recordings than scores.
        """
        check_fitted(self, "scale_")
        binned, bins = _bin_scores(scores, nontarget_scores)
        if not len(enrol_recordings) == len(test_recordings) == len(bins):
            found = f"{len(enrol_recordings)} and {len(test_recordings)}"
            raise InputError(f"expected two recordings for each of {len(bins)} scores, found {found}")
        both = np.concatenate([np.asarray(enrol_recordings), np.asarray(test_recordings)])
        names, numbers = np.unique(both, return_inverse=True)
        enrol, test = np.split(numbers, 2)
        within = enrol == test
        start = binned.in_units_of_bins(self)
        generator = np.random.default_rng(seed)
        eers = np.empty(num_replicates)
        for replicate in range(num_replicates):
            drawn = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names)).astype(
                float
            )
            weights = np.where(within, drawn[enrol], drawn[enrol] * drawn[test])
            resampled = replace(binned, counts=np.bincount(bins, weights, len(binned.counts)))
            (_, log_gap, log_deviation, _), _ = _climb(resampled, start)
            eers[replicate] = ndtr(-np.exp(log_gap - log_deviation) / 2)
        return eers


@dataclass(frozen=True, eq=False)
class _BinnedScores:
    """Scores in bins of equal width, standardised by the mean and deviation of all of them.

    Shape:
        counts, nontargets, points, variances: `(num_bins,)`; how many unlabelled scores and known non-targets each
            bin has, and the mean and variance of all scores in it
    """

    mean: float
    deviation: float
    counts: np.ndarray
    nontargets: np.ndarray
    points: np.ndarray
    variances: np.ndarray

    def in_units_of_scores(self, parameters: np.ndarray) -> tuple[float, float, float, float]:
        """Non-target mean, gap of the means, deviation, and log odds of targets."""
        mean, log_gap, log_deviation, odds = parameters.tolist()
        gap, deviation = np.exp(log_gap) * self.deviation, np.exp(log_deviation) * self.deviation
        return self.mean + mean * self.deviation, float(gap), float(deviation), odds

    def in_units_of_bins(self, fitted: MixtureCalibration) -> np.ndarray:
        """The parameters of a fitted model: non-target mean, log gap, log deviation, log odds of targets."""
        gap = fitted.target_mean_ - fitted.nontarget_mean_
        logs = np.log([gap / self.deviation, fitted.deviation_ / self.deviation])
        mean = (fitted.nontarget_mean_ - self.mean) / self.deviation
        return np.array([mean, *logs, logit(fitted.target_share_)])

    def loss_of_one_gaussian(self) -> float:
        """Negative log-likelihood a score, less the constant, of the best single Gaussian."""
        weights = self.counts + self.nontargets
        mean = np.average(self.points, weights=weights)
        variance = np.average((self.points - mean) ** 2 + self.variances, weights=weights)
        return float(np.log(variance) / 2 + 0.5)


def _bin_scores(scores: np.ndarray, nontarget_scores: np.ndarray | None) -> tuple[_BinnedScores, np.ndarray]:
    """The bins that hold a score, and the bin of each unlabelled score."""
    scores = _check_scores("scores", scores)
    known = np.empty(0) if nontarget_scores is None else _check_scores("nontarget_scores", nontarget_scores)
    everything = np.concatenate([scores, known])
    mean, deviation = float(everything.mean()), float(everything.std())
    if not deviation > 1e-12 * abs(mean):
        raise InputError(f"cannot calibrate: all scores are {everything[0]:g}")
    everything = (everything - mean) / deviation
    low, high = everything.min(), everything.max()
    places = np.minimum(((everything - low) * (_NUM_BINS / (high - low))).astype(np.int64), _NUM_BINS - 1)
    _, bins = np.unique(places, return_inverse=True)
    totals = np.bincount(bins)
    points = np.bincount(bins, everything) / totals
    variances = np.bincount(bins, (everything - points[bins]) ** 2) / totals
    counts = np.bincount(bins[: len(scores)], minlength=len(totals)).astype(np.float64)
    return _BinnedScores(mean, deviation, counts, totals - counts, points, variances), bins[: len(scores)]


def _start(binned: _BinnedScores, share: float) -> np.ndarray:
    """Parameters that take the highest `share` of the scores for targets."""
    rank = np.cumsum(binned.counts) / binned.counts.sum()
    above = rank > 1 - share
    above[-1], above[0] = True, False
    targets, others = binned.counts * above, binned.counts * ~above + binned.nontargets
    means = [np.average(binned.points, weights=weights + 1e-12) for weights in (others, targets)]
    centred = (binned.points - np.where(above, means[1], means[0])) ** 2
    variance = np.average(centred, weights=targets + others)
    gap = max(means[1] - means[0], 0.1)
    start = np.array([means[0], np.log(gap), np.log(variance + 1e-6) / 2, logit(share)])
    return start.clip(*np.transpose(_BOUNDS))


def _climb(binned: _BinnedScores, start: np.ndarray) -> tuple[np.ndarray, float]:
    """The parameters of greatest likelihood near a start, and the negative log-likelihood a score."""
    found = minimize(
        _loss_and_gradient,
        start,
        args=(binned,),
        jac=True,
        method="L-BFGS-B",
        bounds=_BOUNDS,
        options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9},
    )
    return found.x, float(found.fun)


def _loss_and_gradient(parameters: np.ndarray, binned: _BinnedScores) -> tuple[float, np.ndarray]:
    """Negative log-likelihood a score, less the constant ½ log 2π, and its gradient.

    The parameters are m₀, log(m₁ − m₀), log σ and the log odds of targets o. For an unlabelled score x in a bin,
    log p(x) = log N(x; m₀, σ²) + log(1 − p) + log(1 + exp(z)), with z = o + (m₁ − m₀)(x − (m₀ + m₁)/2)/σ².
    """
    low, log_gap, log_deviation, odds = parameters
    gap, precision = np.exp(log_gap), np.exp(-2 * log_deviation)
    high = low + gap
    posteriors_log_odds = odds + gap * precision * (binned.points - (low + high) / 2)
    weights = binned.counts + binned.nontargets
    total = weights.sum()
    from_low = binned.points - low
    log_likelihood = -(weights @ (from_low**2 + binned.variances)) * precision / 2 - total * log_deviation
    log_likelihood += binned.counts @ (log_expit(-odds) - log_expit(-posteriors_log_odds))
    targets = binned.counts * expit(posteriors_log_odds)
    others = weights - targets
    from_high = binned.points - high
    pull_low, pull_high = precision * (others @ from_low), precision * (targets @ from_high)
    spread = others @ (from_low**2 + binned.variances) + targets @ (from_high**2 + binned.variances)
    gradient = np.array(
        [
            pull_low + pull_high,
            gap * pull_high,
            precision * spread - total,
            targets.sum() - binned.counts.sum() * expit(odds),
        ]
    )
    return -log_likelihood / total, -gradient / total


def _check_scores(what: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 10:
        raise InputError(f"expected {what} (at least 10,), found shape {scores.shape}")
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise InputError(
            f"expected finite {what}, found {scores[broken[0]]} in trial {broken[0]} (counted from 0)"
        )
    return scores
