"""The operating points at which evaluations are decided, and detection costs averaged over several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from spkadapt.metrics.curves import Array, compute_act_dcf, compute_error_counts, normalised_costs

MEAN_DCF_DEFINITION = "the normalised costs of the operating points, each at its own threshold, averaged"


@dataclass(frozen=True)
class OperatingPoint:
    """A prior and two costs, which together say what an error costs.

    Raises:
        InputError: a prior that is not between 0 and 1, or a cost that is not above 0.
    """

    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        normalised_costs(self.p_target, self.c_miss, self.c_fa)

    @property
    def costs(self) -> tuple[float, float]:
        """What P_miss and P_fa are multiplied by, where the better trivial system costs 1."""
        return normalised_costs(self.p_target, self.c_miss, self.c_fa)

    @property
    def bayes_threshold(self) -> float:
        """The natural-log likelihood ratio at and above which accepting costs less."""
        miss_cost, false_alarm_cost = self.costs
        return float(np.log(false_alarm_cost / miss_cost))


@dataclass(frozen=True)
class PrimaryCost:
    """An evaluation's cost: the mean over its operating points, and where it is laid down."""

    points: tuple[OperatingPoint, ...]
    source: str


_TWO_POINTS = (OperatingPoint(0.01), OperatingPoint(0.005))
OPERATING_POINTS: Mapping[str, PrimaryCost] = MappingProxyType(
    {
        "sre08": PrimaryCost((OperatingPoint(0.01, c_miss=10.0),), "NIST SRE 2008 evaluation plan"),
        "sre10": PrimaryCost((OperatingPoint(0.001),), "NIST SRE 2010 evaluation plan, core and extended tests"),
        "sre16": PrimaryCost(_TWO_POINTS, "NIST SRE 2016 evaluation plan"),
        "sre18-cmn2": PrimaryCost(_TWO_POINTS, "NIST SRE 2018 evaluation plan, CMN2 (telephone) trials"),
        "sre18-vast": PrimaryCost((OperatingPoint(0.05),), "NIST SRE 2018 evaluation plan, VAST (video) trials"),
        "sre19-cts": PrimaryCost(_TWO_POINTS, "NIST SRE 2019 CTS challenge evaluation plan"),
        "sre19-av": PrimaryCost((OperatingPoint(0.05),), "NIST SRE 2019 multimedia evaluation plan"),
        "sre21-audio": PrimaryCost(
            (OperatingPoint(0.01), OperatingPoint(0.05)), "NIST SRE 2021 evaluation plan, audio track"
        ),
        "voxsrc": PrimaryCost((OperatingPoint(0.05),), "VoxSRC 2019 to 2023, speaker verification tracks"),
    }
)


def compute_mean_min_dcf(scores: Array, is_target: Array, points: tuple[OperatingPoint, ...]) -> float:
    """minDCF averaged over operating points, by `MEAN_DCF_DEFINITION`: the minimum C_primary of the NIST SREs.

    NIST weights the trials too: see `spkadapt.metrics.conditions`.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    counts = compute_error_counts(scores, is_target)
    return mean_min_dcf_of_curve(counts.num_misses, counts.num_false_alarms, points)


def compute_mean_act_dcf(llrs: Array, is_target: Array, points: tuple[OperatingPoint, ...]) -> float:
    """actDCF averaged over operating points, by `MEAN_DCF_DEFINITION`: the actual C_primary of the NIST SREs.

    Args:
        llrs: log-likelihood ratios of target against non-target, in natural log.

    Raises:
        InputError: as `compute_error_counts` does.
    """
    costs = [compute_act_dcf(llrs, is_target, point.p_target, point.c_miss, point.c_fa) for point in points]
    return float(np.mean(costs))


def mean_min_dcf_of_curve(
    misses: np.ndarray, false_alarms: np.ndarray, points: tuple[OperatingPoint, ...]
) -> float:
    """Mean minDCF of a curve from accepting all to rejecting all; counts may be weighted, `(num_points,)` each."""
    p_miss, p_false_alarm = misses / misses[-1], false_alarms / false_alarms[0]
    return float(
        np.mean([(cost[0] * p_miss + cost[1] * p_false_alarm).min() for cost in (p.costs for p in points)])
    )
