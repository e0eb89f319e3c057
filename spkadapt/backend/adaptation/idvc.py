"""Inter-dataset variability compensation: remove the directions in which the means of datasets differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.interface import AffineMap, FeatureAdaptation, FeatureMaps
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics

# Means that agree differ by this share of a standard deviation, and that must not choose a direction.
ROUNDING = 1e-10


@dataclass(frozen=True, kw_only=True)
class Idvc(FeatureAdaptation):
    """IDVC (Aronowitz, 2014): x → x − V·Vᵀ·x, of both domains.

    V holds the principal directions of the means of the datasets: the source's subsets, and the target domain.

    Attributes:
        num_directions: how many to remove at most; None for all in which the means differ.

    Raises:
        InputError: fewer than 1 direction.
    """

    num_directions: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.num_directions is None or self.num_directions >= 1
        self.require("num_directions", valid, "a whole number of at least 1, or None")

    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1, the same for both domains."""
        means = np.vstack([source.subsets.means, target_domain.mean])
        _, lengths, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
        removed = directions[lengths > ROUNDING * np.sqrt(np.trace(source.total))][: self.num_directions]
        projection = AffineMap(np.eye(means.shape[1]) - removed.T @ removed, np.zeros(means.shape[1]))
        return FeatureMaps(projection, projection)
