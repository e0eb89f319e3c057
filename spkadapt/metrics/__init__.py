"""Scores to error rates. Takes NumPy arrays and torch tensors, and knows nothing of models."""

from __future__ import annotations

from spkadapt.metrics.curves import (
    ACT_DCF_DEFINITION,
    CLLR_DEFINITION,
    EER_DEFINITION,
    MIN_DCF_DEFINITION,
    ROCCH_EER_DEFINITION,
    Array,
    DetCurve,
    ErrorCounts,
    as_array,
    check_trials,
    compute_act_dcf,
    compute_cllr,
    compute_det,
    compute_eer,
    compute_error_counts,
    compute_min_dcf,
    compute_rocch_eer,
    interpolate_eer,
    normalised_costs,
)

__all__ = [
    "ACT_DCF_DEFINITION",
    "CLLR_DEFINITION",
    "EER_DEFINITION",
    "MIN_DCF_DEFINITION",
    "ROCCH_EER_DEFINITION",
    "Array",
    "DetCurve",
    "ErrorCounts",
    "as_array",
    "check_trials",
    "compute_act_dcf",
    "compute_cllr",
    "compute_det",
    "compute_eer",
    "compute_error_counts",
    "compute_min_dcf",
    "compute_rocch_eer",
    "interpolate_eer",
    "normalised_costs",
]
