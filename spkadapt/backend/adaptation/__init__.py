"""Adaptation of a backend to a domain without speaker labels: of its model, or of the embeddings it is trained on.

Each method is a frozen dataclass of settings in the file of its name. `prepare` does all decompositions, and
`at(strength)` of what it gives is cheap:

    prepared = KaldiAdaptation().prepare(source, TargetStatistics.from_embeddings(calls, sessions))
    models = [prepared.at(strength) for strength in (0, 0.25, 0.5, 1)]

Model adaptations turn a `TwoCovariance` into another; feature adaptations take `SourceStatistics` and give maps.
"""

from spkadapt.backend.adaptation.cluster_retraining import ClusterRetraining
from spkadapt.backend.adaptation.clustering import cluster_sessions
from spkadapt.backend.adaptation.coral import Coral
from spkadapt.backend.adaptation.coral_plus import CoralPlus
from spkadapt.backend.adaptation.coral_plus_plus import CoralPlusPlus
from spkadapt.backend.adaptation.dicn import Dicn
from spkadapt.backend.adaptation.fda import Fda
from spkadapt.backend.adaptation.idvc import Idvc
from spkadapt.backend.adaptation.interface import (
    Adaptation,
    AffineMap,
    FeatureAdaptation,
    FeatureMaps,
    ModelAdaptation,
    PreparedFeatures,
    PreparedModel,
)
from spkadapt.backend.adaptation.interpolation import Cip, Lip
from spkadapt.backend.adaptation.kaldi import KaldiAdaptation
from spkadapt.backend.adaptation.same_recording import SameRecording
from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics

__all__ = [
    "ADAPTATIONS",
    "FEATURE_ADAPTATIONS",
    "MODEL_ADAPTATIONS",
    "Adaptation",
    "AffineMap",
    "Cip",
    "ClusterRetraining",
    "Coral",
    "CoralPlus",
    "CoralPlusPlus",
    "Dicn",
    "Fda",
    "FeatureAdaptation",
    "FeatureMaps",
    "Idvc",
    "KaldiAdaptation",
    "Lip",
    "ModelAdaptation",
    "PreparedFeatures",
    "PreparedModel",
    "SameRecording",
    "SourceStatistics",
    "TargetStatistics",
    "cluster_sessions",
]

MODEL_ADAPTATIONS: dict[str, type[ModelAdaptation]] = {
    "kaldi": KaldiAdaptation,
    "coral_plus": CoralPlus,
    "lip": Lip,
    "cip": Cip,
    "cluster_retraining": ClusterRetraining,
    "same_recording": SameRecording,
}
"""The names of what adapts a `TwoCovariance`."""

FEATURE_ADAPTATIONS: dict[str, type[FeatureAdaptation]] = {
    "coral": Coral,
    "coral_plus_plus": CoralPlusPlus,
    "fda": Fda,
    "idvc": Idvc,
    "dicn": Dicn,
}
"""The names of what adapts embeddings."""

ADAPTATIONS: dict[str, type[Adaptation]] = {**MODEL_ADAPTATIONS, **FEATURE_ADAPTATIONS}
"""The names of all."""
