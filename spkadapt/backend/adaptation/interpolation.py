"""LIP and CIP: interpolation of a source's model, as it is or aligned, with one of the target domain."""

from __future__ import annotations

from dataclasses import dataclass, field

from spkadapt.backend.adaptation.cluster_retraining import ClusterRetraining
from spkadapt.backend.adaptation.coral import pseudo_in_domain
from spkadapt.backend.adaptation.interface import ModelAdaptation, interpolate
from spkadapt.backend.adaptation.regularise import covariance_excess
from spkadapt.backend.adaptation.same_recording import SameRecording
from spkadapt.backend.adaptation.statistics import TargetStatistics
from spkadapt.backend.covariance import TwoCovariance


@dataclass(frozen=True, kw_only=True)
class Lip(ModelAdaptation):
    """Linear interpolation of PLDA (Garcia-Romero & McCree, 2014), and regularised (Wang et al., 2020).

        Φ ← weight · Φ_in + (1 − weight) · Φ_out,   of within and of between

    Regularised, Γmax(Φ_out, Φ_in) = Φ_in + excess of Φ_out over Φ_in stands for Φ_out: no direction ends with
    less variance than in the target domain. The papers train Φ_in on labels; here an adaptation that needs none
    gives it.

    Attributes:
        in_domain: what estimates Φ_in, in full.
        weight: of Φ_in, from 0 to 1.
        regularised: whether Γmax stands for Φ_out.

    Raises:
        InputError: a weight out of its range.
    """

    in_domain: SameRecording | ClusterRetraining = field(default_factory=ClusterRetraining)
    weight: float = 0.5
    regularised: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("weight", 0 <= self.weight <= 1, "a number from 0 to 1")

    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1.

        Raises:
            InputError: as `in_domain` does.
        """
        inside = self.in_domain.full_model(source, target_domain)
        outside = self.out_of_domain(source, target_domain)
        if self.regularised:
            between = inside.between + covariance_excess(outside.between, inside.between)
            within = inside.within + covariance_excess(outside.within, inside.within)
            outside = TwoCovariance(inside.mean, between, within)
        return interpolate(outside, inside, self.weight)

    def out_of_domain(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """What Φ_in is interpolated with: the source's model about the target domain's mean."""
        return TwoCovariance(target_domain.mean, source.between, source.within)


@dataclass(frozen=True, kw_only=True)
class Cip(Lip):
    """Correlation-alignment-based interpolation (Wang, Okabe, Lee & Koshinaka, 2020), and regularised.

    `Lip` with the pseudo-in-domain model A·Φ_out·Aᵀ for Φ_out, A being CORAL's matrix.
    """

    def out_of_domain(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """What Φ_in is interpolated with: the source's model mapped by CORAL."""
        return pseudo_in_domain(source, target_domain.mean, target_domain.total)
