"""A backend for a domain without speaker labels, by any method and at any strength.

Every one but `none` centres on the target domain's own recordings (by recording domain where these are known) and
scales to unit length; all but `none` and `centred` also normalise scores against those recordings. Methods:

    none                    cosine, as though there were no target domain
    centred                 cosine
    same_recording_wccn     cosine after W^(−½), W the covariance within calls, drawn to the identity by
                            1 − strength; at strength 0 cosine: only centring and score normalisation are adapted
    a name in ADAPTATIONS   PLDA of the source domain, its model or the embeddings that it is trained on adapted;
                            at strength 0 the source's PLDA
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from spkadapt.backend.adaptation import ADAPTATIONS, FEATURE_ADAPTATIONS, MODEL_ADAPTATIONS
from spkadapt.backend.adaptation.interface import FeatureMaps
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics
from spkadapt.backend.affine import Affine
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.covariance import TwoCovariance, shrink
from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction
from spkadapt.backend.plda import Plda
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.scorer import Scorer
from spkadapt.backend.wccn import Wccn
from spkadapt.errors import InputError, suggest

COSINE_METHOD = "same_recording_wccn"
NO_ADAPTATION, CENTRED = "none", "centred"
COSINE_METHODS = (NO_ADAPTATION, CENTRED, COSINE_METHOD)
METHODS = (*COSINE_METHODS, *ADAPTATIONS)

# Of a PLDA's covariances towards the identity; a few thousand embeddings do not fill a few hundred dimensions.
PLDA_SHRINKAGE = 0.7
# Each side is normalised by its 100 nearest of at most 5,000 recordings of the target domain.
NUM_NEAREST, MOST_COHORT = 100, 5000


@dataclass(frozen=True, eq=False)
class SourceData:
    """The labelled domain.

    Shape:
        embeddings: `(num_embeddings, dim)`
        speakers: `(num_embeddings,)`
    """

    embeddings: np.ndarray
    speakers: np.ndarray

    @cached_property
    def scaled(self) -> np.ndarray:
        """The embeddings centred on their mean and scaled to unit length, in float64."""
        steps = MeanSubtraction().fit(self.embeddings), LengthNormalisation()
        return Backend(steps, CosineScorer()).transform(self.embeddings)

    @cached_property
    def model(self) -> TwoCovariance:
        """The two-covariance model of greatest likelihood of the scaled embeddings, fitted once for all."""
        return Plda().fit(self.scaled, self.speakers).model_


@dataclass(frozen=True, eq=False)
class TargetDomainData:
    """The unlabelled domain: a type with no room for a speaker.

    Attributes:
        sessions: the call or recording session of each embedding, where known.
        domains: the recording condition of each, such as its kind of telephone, where known.

    Shape:
        embeddings: `(num_embeddings, dim)`
        sessions, domains: `(num_embeddings,)`
    """

    embeddings: np.ndarray
    sessions: np.ndarray | None = None
    domains: np.ndarray | None = None

    def select(self, kept: np.ndarray) -> TargetDomainData:
        """Some of the embeddings, by row numbers or a mask."""
        sessions = None if self.sessions is None else self.sessions[kept]
        domains = None if self.domains is None else self.domains[kept]
        return TargetDomainData(self.embeddings[kept], sessions, domains)


@dataclass(frozen=True, eq=False)
class PreparedBackend:
    """One method with its decompositions done; `at` makes a backend of any strength.

    Attributes:
        common: centring and scaling, fitted on the target domain.
        steps_at: the method's own steps and its scorer, at a strength.
        cohort: embeddings of the target domain, as they came, to normalise scores against; None for no such thing.
        domains: theirs.
    """

    common: tuple[Any, ...]
    steps_at: Callable[[float], tuple[tuple[Any, ...], Scorer]]
    cohort: np.ndarray | None
    domains: np.ndarray | None

    def at(self, strength: float) -> Backend:
        """The backend at a strength from 0, nothing but centring and score normalisation, to 1.

        Raises:
            InputError: another strength, and what the steps raise.
        """
        steps, scorer = self.steps_at(strength)
        plain = Backend((*self.common, *steps), scorer)
        if self.cohort is None:
            return plain
        cohort = plain.transform(self.cohort, self.domains)
        return replace(plain, scorer=NormalisedScorer(scorer, "as-norm", NUM_NEAREST).fit(cohort))


def fit_common(target_domain: TargetDomainData) -> tuple[Any, ...]:
    """Centring on the target domain, by recording domain where these are known, and scaling to unit length."""
    centring = MeanSubtraction().fit(target_domain.embeddings, target_domain.domains)
    return centring, LengthNormalisation()


def prepare_backend(
    method: str,
    source: SourceData,
    target_domain: TargetDomainData,
    *,
    common: tuple[Any, ...] | None = None,
) -> PreparedBackend:
    """Do all of a method's decompositions.

    Args:
        method: one of `METHODS`.
        source: the labelled domain.
        target_domain: the unlabelled one.
        common: centring and scaling fitted elsewhere, as on more of the same domain.

    Raises:
        InputError: an unknown method, data of two extractors, or too little data for the method.
    """
    if method not in METHODS:
        raise InputError(f'there is no backend adaptation "{method}"; {suggest(method, METHODS)}')
    if source.embeddings.shape[1] != target_domain.embeddings.shape[1]:
        dims = f"{source.embeddings.shape[1]} and {target_domain.embeddings.shape[1]}"
        raise InputError(f"expected embeddings of one extractor, found {dims} dimensions")
    if method == NO_ADAPTATION:
        return PreparedBackend((), lambda _: ((), CosineScorer()), None, None)
    common = fit_common(target_domain) if common is None else common
    if method == CENTRED:
        return PreparedBackend(common, lambda _: ((), CosineScorer()), None, None)
    inside = Backend(common, CosineScorer()).transform(target_domain.embeddings, target_domain.domains)
    if method == COSINE_METHOD:
        steps_at = _prepare_wccn(inside, target_domain.sessions)
    else:
        steps_at = _prepare_plda(method, source, inside, target_domain.sessions)
    spread = np.linspace(0, len(inside) - 1, min(len(inside), MOST_COHORT)).astype(int)
    chosen = target_domain.select(spread)
    return PreparedBackend(common, steps_at, chosen.embeddings, chosen.domains)


def _prepare_wccn(
    embeddings: np.ndarray, sessions: np.ndarray | None
) -> Callable[[float], tuple[tuple[Any, ...], Scorer]]:
    def steps_at(strength: float) -> tuple[tuple[Any, ...], Scorer]:
        if strength == 0:
            return (), CosineScorer()
        if sessions is None:
            raise InputError(f"{COSINE_METHOD} needs to know which recordings are of one call: name the sessions")
        return (Wccn(shrinkage=1 - strength).fit(embeddings, sessions),), CosineScorer()

    return steps_at


def _prepare_plda(
    method: str, source: SourceData, embeddings: np.ndarray, sessions: np.ndarray | None
) -> Callable[[float], tuple[tuple[Any, ...], Scorer]]:
    statistics = TargetStatistics.from_embeddings(embeddings, sessions)
    if method in FEATURE_ADAPTATIONS:
        maps = FEATURE_ADAPTATIONS[method]().prepare(SourceStatistics.from_embeddings(source.scaled), statistics)
        return lambda strength: _mapped_plda(maps.at(strength), source.model)
    # Shrunk at the end and not before: to a model that varies in every direction, all calls are of one speaker.
    models = MODEL_ADAPTATIONS[method]().prepare(source.model, statistics)
    return lambda strength: ((), Plda.from_model(_shrunk(models.at(strength))))


def _mapped_plda(maps: FeatureMaps, model: TwoCovariance) -> tuple[tuple[Any, ...], Scorer]:
    """PLDA of mapped embeddings: the model of greatest likelihood is mapped as they are."""
    if maps.source is not None:
        matrix = maps.source.matrix
        between, within = (matrix @ part @ matrix.T for part in (model.between, model.within))
        model = TwoCovariance(matrix @ model.mean + maps.source.offset, between, within)
    steps = () if maps.target_domain is None else (Affine.from_map(maps.target_domain),)
    return steps, Plda.from_model(_shrunk(model))


def _shrunk(model: TwoCovariance) -> TwoCovariance:
    between, within = (shrink(part, PLDA_SHRINKAGE) for part in (model.between, model.within))
    return TwoCovariance(model.mean, between, within)
