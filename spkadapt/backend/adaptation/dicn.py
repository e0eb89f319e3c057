"""Dataset-invariant covariance normalisation: whiten by what varies within and between the domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.interface import AffineMap, FeatureAdaptation, FeatureMaps
from spkadapt.backend.adaptation.regularise import symmetric_power
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics


@dataclass(frozen=True, kw_only=True)
class Dicn(FeatureAdaptation):
    """Dataset-invariant covariance normalisation, after Rahman, Kanagasundaram, Dean & Sridharan (2015, 2018).

        Σ = ½ · (C_s + C_t) + ¼ · δδᵀ,   x → (Σ / σ²)^−½ · x   of both domains

    Σ is the covariance of both domains about their common mean, each with half the weight, δ the difference of
    their means. The root is symmetric, which a backend cannot tell from the paper's Cholesky factor, and σ² the
    mean variance in Σ: so the map is the nearest to the identity, and partial strengths make sense.
    """

    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1, the same for both domains."""
        difference = target_domain.mean - source.mean
        pooled = (source.total + target_domain.total) / 2 + np.outer(difference, difference) / 4
        matrix = np.sqrt(np.trace(pooled) / len(pooled)) * symmetric_power(pooled, -0.5)
        normalisation = AffineMap(matrix, np.zeros(len(matrix)))
        return FeatureMaps(normalisation, normalisation)
