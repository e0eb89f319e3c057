"""Retraining on clusters: speakers guessed in the target domain, then taken at their word."""

from __future__ import annotations

from dataclasses import dataclass

from spkadapt.backend.adaptation.clustering import cluster_sessions
from spkadapt.backend.adaptation.coral import pseudo_in_domain
from spkadapt.backend.adaptation.interface import ModelAdaptation
from spkadapt.backend.adaptation.regularise import shrink
from spkadapt.backend.adaptation.statistics import TargetStatistics
from spkadapt.backend.covariance import TwoCovariance, covariance
from spkadapt.backend.plda_em import fit_two_covariance
from spkadapt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ClusterRetraining(ModelAdaptation):
    """Cluster the sessions of the target domain into speakers, and train the model on the clusters.

    Garcia-Romero, McCree, Shum, Brümmer & Vaquero (2014). What clusters is the source's model, mapped by CORAL
    onto the mean and covariance of the session means (shrunk towards the source's): those vary less than single
    embeddings, and a model of single embeddings would take them all for few speakers. `cluster_sessions` says
    where it stops. Partial strengths interpolate with the source, as in the paper.

    Attributes:
        threshold: the log-likelihood ratio above which clusters merge.
        num_iterations: steps of EM on the clusters, from matched moments.
        floor: the least share of the variance in any direction that is within speakers.

    Raises:
        InputError: a value out of its range.
    """

    threshold: float = 0.0
    num_iterations: int = 10
    floor: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("num_iterations", self.num_iterations >= 0, "a whole number of at least 0")
        self.require("floor", 0 < self.floor < 1, "a number between 0 and 1")

    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1.

        Raises:
            InputError: one session or too many, all in one cluster, or no cluster of two embeddings.
        """
        means, num_sessions = target_domain.sessions.means, target_domain.num_sessions
        if num_sessions < 2:
            raise InputError(f"expected two or more sessions to cluster, found {num_sessions}")
        observed = shrink(covariance(means), source.total, num_sessions - 1)
        model = pseudo_in_domain(source, means.mean(axis=0), observed)
        speakers = target_domain.merge_sessions(cluster_sessions(model, means, self.threshold))
        if not 1 < speakers.num_sessions < speakers.num_embeddings:
            found = f"{speakers.num_sessions} speakers in {num_sessions} sessions"
            raise InputError(
                f"clustering found {found}; expected two or more, one of them with two of "
                f"{speakers.num_embeddings} embeddings"
            )
        return fit_two_covariance(speakers.sessions, self.num_iterations, self.floor)
