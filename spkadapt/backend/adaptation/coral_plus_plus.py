"""CORAL++: correlation alignment of embeddings, that takes variance from no direction."""

from __future__ import annotations

from dataclasses import dataclass

from spkadapt.backend.adaptation.coral import move_source, recolouring
from spkadapt.backend.adaptation.interface import FeatureAdaptation, FeatureMaps
from spkadapt.backend.adaptation.regularise import covariance_excess
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics


@dataclass(frozen=True, kw_only=True)
class CoralPlusPlus(FeatureAdaptation):
    """CORAL whose colouring is regularised as CORAL+ regularises a model; after Li, Zhang & Chen (2022).

        x → (C_s + scale · excess of C_t over C_s)^½ · C_s^−½ · (x − mean_s) + mean_t

    A direction that varies less in a small target sample than in the source keeps the source's variance.

    Raises:
        InputError: a scale below 0.
    """

    scale: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("scale", self.scale >= 0, "a number of at least 0")

    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1: one of the source, none of the target domain."""
        colour = source.total + self.scale * covariance_excess(target_domain.total, source.total)
        return move_source(recolouring(source.total, colour), source, target_domain)
