"""Kaldi's unsupervised adaptation of PLDA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.interface import ModelAdaptation
from spkadapt.backend.adaptation.regularise import covariance_excess
from spkadapt.backend.adaptation.statistics import TargetStatistics
from spkadapt.backend.covariance import TwoCovariance


@dataclass(frozen=True, kw_only=True)
class KaldiAdaptation(ModelAdaptation):
    """Share what the target domain's total covariance has in excess among within and between.

        E = excess of (total + mean_diff_scale · δδᵀ) over the source's total,  δ the difference of the means
        within ← within + within_covar_scale · E,   between ← between + between_covar_scale · E

    (Kaldi, `ivector-adapt-plda`.) The options have its names, the defaults are those of its SRE16 recipe. Follows
    invertible linear maps of all embeddings.

    Raises:
        InputError: a scale below 0.
    """

    mean_diff_scale: float = 1.0
    within_covar_scale: float = 0.75
    between_covar_scale: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("mean_diff_scale", "within_covar_scale", "between_covar_scale"):
            self.require(field, getattr(self, field) >= 0, "a number of at least 0")

    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1: the target domain's mean, and the source's covariances with their share."""
        difference = target_domain.mean - source.mean
        observed = target_domain.total + self.mean_diff_scale * np.outer(difference, difference)
        excess = covariance_excess(observed, source.total)
        between = source.between + self.between_covar_scale * excess
        return TwoCovariance(target_domain.mean, between, source.within + self.within_covar_scale * excess)
