"""Scores to error rates. Takes NumPy arrays and torch tensors, and knows nothing of models.

`compute_` functions measure trials; `weighted` has the same metrics as objects, for trials that count unequally.
"""

from __future__ import annotations

from spkadapt.metrics.brackets import Brackets, plan_brackets
from spkadapt.metrics.conditions import (
    EQUALISED_DEFINITION,
    ConditionResult,
    bin_labels,
    combine_labels,
    measure_conditions,
    measure_equalised,
    pair_labels,
)
from spkadapt.metrics.curves import (
    ACT_DCF_DEFINITION,
    CLLR_DEFINITION,
    EER_DEFINITION,
    MIN_DCF_DEFINITION,
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
    interpolate_eer,
    normalised_costs,
)
from spkadapt.metrics.operating_points import (
    MEAN_DCF_DEFINITION,
    OPERATING_POINTS,
    OperatingPoint,
    PrimaryCost,
    compute_mean_act_dcf,
    compute_mean_min_dcf,
)
from spkadapt.metrics.pav import (
    MIN_CLLR_DEFINITION,
    ROCCH_EER_DEFINITION,
    compute_min_cllr,
    compute_rocch_eer,
)
from spkadapt.metrics.rates import (
    AUC_DEFINITION,
    FAR_AT_FRR_DEFINITION,
    FRR_AT_FAR_DEFINITION,
    compute_auc,
    compute_far_at_frr,
    compute_frr_at_far,
)
from spkadapt.metrics.streaming import ExactMetrics, TrialCounts
from spkadapt.metrics.weighted import (
    CostMetric,
    CurveMetric,
    Metric,
    measure,
)

__all__ = [
    "ACT_DCF_DEFINITION",
    "AUC_DEFINITION",
    "CLLR_DEFINITION",
    "EER_DEFINITION",
    "EQUALISED_DEFINITION",
    "FAR_AT_FRR_DEFINITION",
    "FRR_AT_FAR_DEFINITION",
    "MEAN_DCF_DEFINITION",
    "MIN_CLLR_DEFINITION",
    "MIN_DCF_DEFINITION",
    "OPERATING_POINTS",
    "ROCCH_EER_DEFINITION",
    "Array",
    "Brackets",
    "ConditionResult",
    "CostMetric",
    "CurveMetric",
    "DetCurve",
    "ErrorCounts",
    "ExactMetrics",
    "Metric",
    "OperatingPoint",
    "PrimaryCost",
    "TrialCounts",
    "as_array",
    "bin_labels",
    "check_trials",
    "combine_labels",
    "compute_act_dcf",
    "compute_auc",
    "compute_cllr",
    "compute_det",
    "compute_eer",
    "compute_error_counts",
    "compute_far_at_frr",
    "compute_frr_at_far",
    "compute_mean_act_dcf",
    "compute_mean_min_dcf",
    "compute_min_cllr",
    "compute_min_dcf",
    "compute_rocch_eer",
    "interpolate_eer",
    "measure",
    "measure_conditions",
    "measure_equalised",
    "normalised_costs",
    "pair_labels",
    "plan_brackets",
]
