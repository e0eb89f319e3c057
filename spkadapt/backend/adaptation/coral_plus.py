"""CORAL+: correlation alignment of a model, that takes variance from no direction."""

from __future__ import annotations

from dataclasses import dataclass

from spkadapt.backend.adaptation.coral import pseudo_in_domain
from spkadapt.backend.adaptation.interface import ModelAdaptation
from spkadapt.backend.adaptation.regularise import covariance_excess
from spkadapt.backend.adaptation.statistics import TargetStatistics
from spkadapt.backend.covariance import TwoCovariance


@dataclass(frozen=True, kw_only=True)
class CoralPlus(ModelAdaptation):
    """CORAL+ (Lee, Wang & Koshinaka, 2019), with the mean of the target domain.

        between ← between + between_scale · excess of A·between·Aᵀ over between,   and so within

    where A is CORAL's matrix. The paper calls the scales γ and β.

    Raises:
        InputError: a scale below 0.
    """

    within_scale: float = 0.8
    between_scale: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("within_scale", "between_scale"):
            self.require(field, getattr(self, field) >= 0, "a number of at least 0")

    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1."""
        pseudo = pseudo_in_domain(source, target_domain.mean, target_domain.total)
        between = source.between + self.between_scale * covariance_excess(pseudo.between, source.between)
        within = source.within + self.within_scale * covariance_excess(pseudo.within, source.within)
        return TwoCovariance(target_domain.mean, between, within)
