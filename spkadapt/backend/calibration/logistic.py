"""Linear calibration and fusion by logistic regression, from trials whose truth is known."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.special import entr, expit, logit
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_fitted
from spkadapt.errors import InputError

_MOST_STEPS = 100
# Where a step promises less than this share of the loss, it is the last: errors are squared from there on.
_TOLERANCE = 1e-12
# Below this share of the loss, the curvature of the least curved direction is that of a loss that only falls.
_LEAST_CURVATURE = 1e-7
# Below this, columns of unit variance depend on one another but for rounding.
_LEAST_EIGENVALUE = 1e-10


class LogisticCalibration(BaseEstimator):
    """Scores of one or several systems to log-likelihood ratios.

    llr = weights · scores + quality_weights · quality + offset

    Minimises the prior-weighted Cllr (Brümmer & du Preez, 2006; Brümmer et al., 2007): with τ = logit(p_target),

        p_target · mean over targets of log(1 + exp(−llr − τ)) + (1 − p_target) · mean over non-targets of
        log(1 + exp(llr + τ))

    convex, and with one minimum unless the scores part targets from non-targets without an error. Newton's method
    in float64 finds it. With several systems this is fusion; with quality measures, calibration that shifts with
    what the recordings are like, and so does more than an order-preserving map can (Mandasari et al., 2013).

    Args:
        p_target: the prior to be best at; the effective one, p·c_miss / (p·c_miss + (1 − p)·c_fa), where costs
            differ.

    Attributes:
        weights_: of the systems.
        quality_weights_: of the quality measures.
        offset_: what is added.
        loss_: the minimum, divided by what knowing the prior alone costs: 1 is no better, and at a prior of ½ it
            is Cllr in bits.

    Shape:
        weights_: `(num_systems,)`
        quality_weights_: `(num_measures,)`
    """

    weights_: np.ndarray
    quality_weights_: np.ndarray
    offset_: float
    loss_: float

    def __init__(self, p_target: float = 0.5) -> None:
        self.p_target = p_target

    def fit(
        self, scores: np.ndarray, is_target: np.ndarray, quality: np.ndarray | None = None
    ) -> LogisticCalibration:
        """Learn from scored trials of known truth.

        Args:
            quality: quality measures of each trial; none where None.

        Shape:
            scores: `(num_trials,)`, or `(num_trials, num_systems)` for fusion
            is_target: `(num_trials,)`, boolean
            quality: `(num_trials,)` or `(num_trials, num_measures)`

        Raises:
            InputError: a prior that is not between 0 and 1; shapes that do not fit; scores or measures that are
                not finite; no target or no non-target; columns that are constant or depend linearly on one
                another; or trials that leave no error, so that the loss has no minimum.
        """
        if not 0 < self.p_target < 1:
            raise InputError(f"expected p_target between 0 and 1, found {self.p_target}")
        columns, num_systems = _stack_columns(scores, quality)
        is_target = _check_truth(is_target, len(columns))
        means, deviations = columns.mean(axis=0), columns.std(axis=0)
        flat = np.flatnonzero(~(deviations > 1e-12 * np.abs(means)))
        if len(flat):
            raise InputError(f"cannot calibrate: {_name(flat[0], num_systems)} is the same in all trials")
        design = np.column_stack([(columns - means) / deviations, np.ones(len(columns))])
        if scipy.linalg.eigvalsh(design.T @ design / len(design))[0] < _LEAST_EIGENVALUE:
            raise InputError("cannot calibrate: some system or quality measure is a linear function of the others")
        parameters, loss = _minimise(design, is_target, self.p_target)
        weights = parameters[:-1] / deviations
        self.weights_, self.quality_weights_ = weights[:num_systems], weights[num_systems:]
        self.offset_ = float(parameters[-1] - weights @ means)
        self.loss_ = float(loss / (entr(self.p_target) + entr(1 - self.p_target)))
        return self

    def transform(self, scores: np.ndarray, quality: np.ndarray | None = None) -> np.ndarray:
        """The log-likelihood ratios, natural log, float64 `(num_trials,)`.

        Shape:
            scores, quality: as for `fit`

        Raises:
            InputError: before `fit`, or for another number of systems or measures than `fit` had.
        """
        check_fitted(self, "weights_")
        columns, num_systems = _stack_columns(scores, quality)
        found = num_systems, columns.shape[1] - num_systems
        fitted = len(self.weights_), len(self.quality_weights_)
        if found != fitted:
            expected = f"{fitted[0]} systems and {fitted[1]} quality measures as in fit"
            raise InputError(f"expected {expected}, found {found[0]} and {found[1]}")
        return columns @ np.concatenate([self.weights_, self.quality_weights_]) + self.offset_


def _minimise(design: np.ndarray, is_target: np.ndarray, p_target: float) -> tuple[np.ndarray, float]:
    """The parameters of least loss, the last of them the offset, and that loss in nats."""
    shares = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
    signs = np.where(is_target, -1.0, 1.0)
    prior = logit(p_target)

    def compute_loss(parameters: np.ndarray) -> float:
        return float(shares @ np.logaddexp(0, signs * (design @ parameters + prior)))

    parameters = np.zeros(design.shape[1])
    loss = compute_loss(parameters)
    for _ in range(_MOST_STEPS):
        # The posterior of the kind that each trial is not, to full relative precision where it is small.
        wrong = expit(signs * (design @ parameters + prior))
        gradient = design.T @ (shares * signs * wrong)
        hessian = (design * (shares * wrong * (1 - wrong))[:, None]).T @ design
        curvatures, directions = scipy.linalg.eigh(hessian)
        if curvatures[0] < _LEAST_CURVATURE * loss:
            break
        step = directions @ (directions.T @ gradient / curvatures)
        promise = float(gradient @ step)
        if promise < _TOLERANCE * loss:
            return parameters - step, compute_loss(parameters - step)
        length = 1.0
        while (shorter := compute_loss(parameters - length * step)) > loss - 1e-4 * length * promise:
            length /= 2
        parameters, loss = parameters - length * step, shorter
    raise InputError(
        "cannot calibrate: the scores part targets from non-targets without an error, or but for ties, so that "
        "larger weights always seem better; calibrate on more or harder trials"
    )


def _stack_columns(scores: np.ndarray, quality: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Systems, then quality measures, as float64 columns; and how many systems there are."""
    systems = _check_columns("scores", scores)
    if quality is None:
        return systems, systems.shape[1]
    measures = _check_columns("quality", quality)
    if len(measures) != len(systems):
        raise InputError(f"expected quality measures of {len(systems)} trials, found {len(measures)}")
    return np.column_stack([systems, measures]), systems.shape[1]


def _check_columns(what: str, values: np.ndarray) -> np.ndarray:
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or not columns.size:
        raise InputError(f"expected {what} (num_trials,) or (num_trials, number), found shape {np.shape(values)}")
    broken = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(broken):
        raise InputError(f"expected finite {what}, found NaN or infinity in trial {broken[0]} (counted from 0)")
    return columns


def _check_truth(is_target: np.ndarray, num_trials: int) -> np.ndarray:
    is_target = np.asarray(is_target)
    if is_target.shape != (num_trials,) or is_target.dtype != bool:
        found = f"{is_target.dtype} of shape {is_target.shape}"
        raise InputError(f"expected one boolean is_target for each of {num_trials} trials, found {found}")
    if is_target.all() or not is_target.any():
        found = f"{is_target.sum()} targets and {(~is_target).sum()} non-targets"
        raise InputError(f"expected at least one target and one non-target trial, found {found}")
    return is_target


def _name(column: int, num_systems: int) -> str:
    return f"system {column}" if column < num_systems else f"quality measure {column - num_systems}"
