"""The names of all that a backend file may hold."""

from __future__ import annotations

from typing import Any

from spkadapt.backend.affine import Affine
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.cosine_projection import CosineProjection
from spkadapt.backend.discriminative import DiscriminativePlda
from spkadapt.backend.heavy_tailed import HeavyTailedPlda
from spkadapt.backend.lda import Lda
from spkadapt.backend.nap import Nap
from spkadapt.backend.neural_plda import NeuralPlda
from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction
from spkadapt.backend.plda import Plda
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.simplified_plda import SimplifiedPlda
from spkadapt.backend.spherical import Psda
from spkadapt.backend.wccn import Wccn
from spkadapt.backend.whitening import Whitening

ESTIMATORS: dict[str, type[Any]] = {
    estimator.__name__: estimator
    for estimator in (
        Affine,
        CosineProjection,
        CosineScorer,
        DiscriminativePlda,
        HeavyTailedPlda,
        Lda,
        LengthNormalisation,
        MeanSubtraction,
        Nap,
        NeuralPlda,
        NormalisedScorer,
        Plda,
        Psda,
        SimplifiedPlda,
        Wccn,
        Whitening,
    )
}
