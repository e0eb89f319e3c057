"""Quality measures: what tells a calibration how much a trial's score is worth.

One more is the mean of a recording's cohort scores, `score_norm.compute_cohort_statistics` (Thienpondt et al.,
2021).
"""

from __future__ import annotations

import numpy as np

from spkadapt.backend.checks import check_embeddings
from spkadapt.errors import InputError


def log_durations(seconds: np.ndarray) -> np.ndarray:
    """The natural logarithm of durations, `(num_recordings,)` (Mandasari et al., 2013).

    Raises:
        InputError: a duration that is not above 0, or not finite.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    bad = np.flatnonzero(~((seconds > 0) & np.isfinite(seconds)))
    if len(bad):
        raise InputError(f"expected durations above 0, found {seconds[bad[0]]} s for recording {bad[0]}")
    return np.log(seconds)


def embedding_magnitudes(embeddings: np.ndarray) -> np.ndarray:
    """The length of each embedding before it is normalised, float64 `(num_embeddings,)` (Thienpondt et al., 2021).

    Raises:
        InputError: as `check_embeddings` does.
    """
    return np.linalg.norm(check_embeddings(embeddings), axis=1)


def pair_quality(enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The lesser and the greater of the two sides of each trial, so that it does not matter which side is which.

    Args:
        enrol, test: a measure of the recording on each side.

    Shape:
        enrol, test: `(num_trials,)`
        returns `(num_trials, 2)`

    Raises:
        InputError: sides of different lengths.
    """
    enrol, test = np.asarray(enrol, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if enrol.ndim != 1 or enrol.shape != test.shape:
        raise InputError(f"expected a measure for each side of each trial, found {enrol.shape} and {test.shape}")
    return np.column_stack([np.minimum(enrol, test), np.maximum(enrol, test)])
