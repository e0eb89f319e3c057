"""The target domain's EER as the distribution of unlabelled scores predicts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.calibration import MixtureCalibration
from spkadapt.intervals import Interval, percentile_interval
from spkadapt.select.data import SelectionData, thin
from spkadapt.select.pool_trials import MOST_SESSIONS, MOST_UTTERANCES


@dataclass(frozen=True)
class PredictedEer:
    """An EER that no trial has measured.

    Attributes:
        eer: a fraction.
        interval: of what the mixture predicts from other calls; of the mixture's own error it knows nothing.
    """

    eer: float
    interval: Interval


def compute_predicted_eer(data: SelectionData) -> float:
    """The EER that a mixture of two Gaussians predicts from the cosines of pairs across calls.

    See `MixtureCalibration` (Brümmer & Garcia-Romero, 2014), also for why this is a hint.

    Raises:
        InputError: too few pairs, or scores that one Gaussian describes as well as two.
    """
    return MixtureCalibration().fit(_score_across(data)[0]).predicted_eer_


def predict_eer(
    data: SelectionData, *, num_replicates: int = 100, level: float = 0.95, seed: int = 0
) -> PredictedEer:
    """`compute_predicted_eer` with an interval from calls drawn anew. Raises as it does."""
    scores, first, second = _score_across(data)
    mixture = MixtureCalibration().fit(scores)
    replicates = mixture.bootstrap_eer(scores, first, second, num_replicates=num_replicates, seed=seed)
    return PredictedEer(mixture.predicted_eer_, percentile_interval(replicates, level))


def _score_across(data: SelectionData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of pairs across calls and the call on each side; without calls, every utterance is one."""
    sessions = np.arange(len(data.pool)) if data.pool_sessions is None else data.session_numbers
    if data.pool_sessions is None:
        rows = thin(sessions, MOST_SESSIONS * MOST_UTTERANCES, 1)
    else:
        rows = thin(sessions, MOST_SESSIONS, MOST_UTTERANCES)
    first, second = np.triu_indices(len(rows), 1)
    across = sessions[rows][first] != sessions[rows][second]
    units = data.unit_pool[rows]
    scores = (units @ units.T)[first[across], second[across]]
    return scores, sessions[rows][first[across]], sessions[rows][second[across]]
