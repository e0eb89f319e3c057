"""The feature-distribution adaptor: stretch the source where the target domain varies more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.coral import move_source
from spkadapt.backend.adaptation.interface import FeatureAdaptation, FeatureMaps
from spkadapt.backend.adaptation.regularise import symmetric, symmetric_power
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics


@dataclass(frozen=True, kw_only=True)
class Fda(FeatureAdaptation):
    """Feature-distribution adaptor, after Bousquet & Rouvier (2019).

        C_s^−½ · C_t · C_s^−½ = P · diag(λ) · Pᵀ
        x → C_s^½ · P · diag(max(1, λ))^½ · Pᵀ · C_s^−½ · (x − mean_s) + mean_t

    of the source's embeddings: along the directions in which both domains are uncorrelated, each is stretched to
    the target domain's variance where that is the larger, and else left as it is. A direction in which the source
    does not vary stays so. Follows invertible linear maps of all embeddings.
    """

    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1: one of the source, none of the target domain."""
        whiten, colour = symmetric_power(source.total, -0.5), symmetric_power(source.total, 0.5)
        stretch = np.eye(len(whiten)) + _root_excess(symmetric(whiten @ target_domain.total @ whiten))
        return move_source(colour @ stretch @ whiten, source, target_domain)


def _root_excess(covariance: np.ndarray) -> np.ndarray:
    """V · diag(max(1, λ)^½ − 1) · Vᵀ."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * (np.sqrt(np.maximum(1, values)) - 1)) @ vectors.T
