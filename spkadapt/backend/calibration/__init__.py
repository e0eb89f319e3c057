"""From scores to log-likelihood ratios and decisions: calibration with labels and without, fusion, thresholds."""

from spkadapt.backend.calibration.logistic import LogisticCalibration
from spkadapt.backend.calibration.mixture import MixtureCalibration
from spkadapt.backend.calibration.quality import embedding_magnitudes, log_durations, pair_quality
from spkadapt.backend.calibration.thresholds import compute_far_threshold, compute_impostor_threshold

__all__ = [
    "LogisticCalibration",
    "MixtureCalibration",
    "compute_far_threshold",
    "compute_impostor_threshold",
    "embedding_magnitudes",
    "log_durations",
    "pair_quality",
]
