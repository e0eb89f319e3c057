"""Which pseudo-labels to believe: one label a recording, a gate on the loss, and correction by the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.errors import InputError

LOSS_FLOOR = 2.0**-23
"""Losses are taken for no less: the rounding error of a cross-entropy in float32."""

_MOST_ITERATIONS = 500


def majority_labels(labels: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """Give all samples of a recording the label that most of them have; of several, the lowest.

    Shape: `(n,)`, integers, and `(n,)`, of any type that sorts → `(n,)`

    Raises:
        InputError: labels that are not integers of one dimension, or not one recording for each.
    """
    labels, recordings = _check_labels(labels), np.asarray(recordings)
    if recordings.shape != labels.shape:
        raise InputError(f"expected a recording for each of {len(labels)} labels, found {recordings.shape}")
    numbers, recording_of = np.unique(recordings, return_inverse=True)
    pairs, counts = np.unique(np.stack([recording_of, labels]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    recording, first = np.unique(pairs[0][order], return_index=True)
    winners = np.empty(len(numbers), dtype=labels.dtype)
    winners[recording] = pairs[1][order][first]
    return winners[recording_of]


@dataclass(frozen=True)
class LossGate:
    """Two Gaussians of the logarithm of the loss, and where they cross.

    Attributes:
        threshold: a loss; of those above, the labels are not believed. Infinite where the losses have one mode.
        weights, means, stds: of the two components, in natural logarithms of the loss, the lower mean first.
    """

    threshold: float
    weights: tuple[float, float]
    means: tuple[float, float]
    stds: tuple[float, float]

    def is_reliable(self, losses: np.ndarray) -> np.ndarray:
        """Which samples the gate lets pass, `(n,)` → `(n,)` bool."""
        return np.asarray(losses) <= self.threshold


def fit_loss_gate(losses: np.ndarray) -> LossGate:
    """Find the loss above which a pseudo-label is more likely wrong than right.

    A network learns right labels first, so that the losses of right and wrong ones come apart (loss-gated
    learning, Tao et al. 2022). Two Gaussians are fitted to the log losses by EM, and the gate is where their
    weighted densities cross (dynamic loss-gate, Han et al. 2022). Where the two are not apart by Ashman, Bird &
    Zepf's D > 2 (1994),

        D = (μ₂ − μ₁) / √((σ₁² + σ₂²) / 2)

    or nothing crosses between the means, the losses have one mode and all samples pass.

    Shape: `(n,)`, at least two, each ≥ 0

    Raises:
        InputError: losses of another shape, or negative or not finite ones.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or len(losses) < 2:
        raise InputError(f"expected two or more losses in one dimension, found shape {losses.shape}")
    if not (np.isfinite(losses) & (losses >= 0)).all():
        raise InputError("expected losses to be finite and not negative")
    logs = np.log(np.maximum(losses, LOSS_FLOOR))
    weights, means, stds = _fit_two_gaussians(logs)
    apart = (means[1] - means[0]) / max(np.sqrt((stds**2).mean()), 1e-300)
    crossing = _crossing(weights, means, stds) if apart > 2 else np.inf
    low, high = ((float(a), float(b)) for a, b in (weights, means))
    return LossGate(float(np.exp(crossing)), low, high, (float(stds[0]), float(stds[1])))


def _fit_two_gaussians(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and standard deviations, each `(2,)`, by EM from the two halves of the sorted values."""
    floor = max(1e-3 * values.std(), 1e-12)  # or one component would close upon a few equal values
    upper = np.zeros(len(values))
    upper[np.argsort(values, kind="stable")[len(values) // 2 :]] = 1
    likelihood = -np.inf
    for _ in range(_MOST_ITERATIONS):
        parts = np.stack([1 - upper, upper])
        counts = np.maximum(parts.sum(axis=1), 1e-300)
        means = parts @ values / counts
        variances = (parts * (values - means[:, None]) ** 2).sum(axis=1) / counts
        stds = np.maximum(np.sqrt(variances), floor)
        joint = _log_joint(values, counts / len(values), means, stds)
        total = np.logaddexp(joint[0], joint[1])
        upper = np.exp(joint[1] - total)
        if total.sum() - likelihood < 1e-10 * len(values):
            break
        likelihood = total.sum()
    order = np.argsort(means)
    return counts[order] / len(values), means[order], stds[order]


def _log_joint(values: np.ndarray, weights: np.ndarray, means: np.ndarray, stds: np.ndarray) -> np.ndarray:
    """Logarithms of the weighted densities, less what is common to both, `(2, n)`."""
    deviations = (values - means[:, None]) / stds[:, None]
    return np.log(weights / stds)[:, None] - deviations**2 / 2


def _crossing(weights: np.ndarray, means: np.ndarray, stds: np.ndarray) -> float:
    """Where the weighted densities cross between the means: a root of a quadratic; infinity where they do not."""
    precisions = 1 / stds**2
    quadratic = [
        (precisions[0] - precisions[1]) / 2,
        precisions[1] * means[1] - precisions[0] * means[0],
        (precisions[0] * means[0] ** 2 - precisions[1] * means[1] ** 2) / 2
        - np.log(weights[0] * stds[1] / (weights[1] * stds[0])),
    ]
    roots = np.roots(quadratic)
    between = [float(root.real) for root in roots if not root.imag and means[0] < root.real < means[1]]
    return between[0] if between else np.inf


def correct_labels(
    labels: np.ndarray, posteriors: np.ndarray, is_reliable: np.ndarray, least_posterior: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Give samples that did not pass the gate the model's own label where it is sure (Han et al. 2022, "DLG-LC").

    Shape:
        labels: `(n,)`, integers
        posteriors: `(n, num_classes)`, the model's
        is_reliable: `(n,)`, bool, of `LossGate.is_reliable`
        returns `(n,)`, labels, and `(n,)`, bool, which to train on: those that passed, and those whose greatest
            posterior is `least_posterior` or more

    Raises:
        InputError: other shapes or dtypes than these, or `least_posterior` not between 0 and 1.
    """
    labels, posteriors, is_reliable = _check_labels(labels), np.asarray(posteriors), np.asarray(is_reliable)
    if posteriors.ndim != 2 or len(posteriors) != len(labels) or not posteriors.size:
        raise InputError(f"expected posteriors of shape ({len(labels)}, num_classes), found {posteriors.shape}")
    if is_reliable.shape != labels.shape or is_reliable.dtype != np.bool_:
        found = f"{is_reliable.dtype} of shape {is_reliable.shape}"
        raise InputError(f"expected is_reliable to be bool of shape {labels.shape}, found {found}")
    if not 0 <= least_posterior <= 1:
        raise InputError(f"least_posterior is {least_posterior}; expected 0 to 1")
    corrected = np.where(is_reliable, labels, posteriors.argmax(axis=1))
    return corrected, is_reliable | (posteriors.max(axis=1) >= least_posterior)


def _check_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(f"expected labels to be integers of one dimension, found {labels.dtype}, {labels.shape}")
    return labels
