"""CORAL: whiten with the source's total covariance, colour with the target domain's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.interface import AffineMap, FeatureAdaptation, FeatureMaps
from spkadapt.backend.adaptation.regularise import symmetric, symmetric_power
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics
from spkadapt.backend.covariance import TwoCovariance


@dataclass(frozen=True, kw_only=True)
class Coral(FeatureAdaptation):
    """Correlation alignment (Sun, Feng & Saenko, 2016; of speaker embeddings Alam, Bhattacharya & Kenny, 2018).

        x → (C_t + r·I)^½ · (C_s + r·I)^−½ · (x − mean_s) + mean_t

    of the source's embeddings, with symmetric roots. r is `ridge` times the mean variance of the source, so that
    the paper's C + I for features of unit variance is `ridge = 1`; it bounds the map where a covariance is
    singular. At 0 the mapped source has the target domain's total covariance exactly.

    Raises:
        InputError: a ridge below 0.
    """

    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("ridge", self.ridge >= 0, "a number of at least 0")

    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1: one of the source, none of the target domain."""
        ridge = self.ridge * np.trace(source.total) / len(source.mean) * np.eye(len(source.mean))
        matrix = recolouring(source.total + ridge, target_domain.total + ridge)
        return move_source(matrix, source, target_domain)


def recolouring(source: np.ndarray, target_domain: np.ndarray) -> np.ndarray:
    """The matrix that gives data of covariance `source` another: target_domain^½ · source^−½, symmetric roots."""
    return symmetric_power(target_domain, 0.5) @ symmetric_power(source, -0.5)


def move_source(matrix: np.ndarray, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
    """x → matrix · (x − mean_s) + mean_t of the source's embeddings, and nothing of the target domain's."""
    return FeatureMaps(AffineMap(matrix, target_domain.mean - matrix @ source.mean), None)


def pseudo_in_domain(source: TwoCovariance, mean: np.ndarray, total: np.ndarray) -> TwoCovariance:
    """The model that embeddings mapped by CORAL would have: A·Φ·Aᵀ of each covariance Φ (Lee et al., 2019).

    Shape:
        mean: `(dim,)`, of the target domain
        total: `(dim, dim)`, of the target domain
    """
    matrix = recolouring(source.total, total)
    between, within = (symmetric(matrix @ part @ matrix.T) for part in (source.between, source.within))
    return TwoCovariance(mean, between, within)
