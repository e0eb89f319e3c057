"""What comes between the embedding and the score: centring, projections, generative models, calibration.

Each module holds one method, with scikit-learn's `fit` and `transform` on embeddings `(num_embeddings, dim)`.
Scorers prepare the two sides of trials for `spkadapt.score`; `adapted` makes whole backends for a domain without
labels.
"""

from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.cosine_projection import CosineProjection
from spkadapt.backend.discriminative import DiscriminativePlda
from spkadapt.backend.heavy_tailed import HeavyTailedPlda
from spkadapt.backend.lda import Lda
from spkadapt.backend.nap import Nap
from spkadapt.backend.neural_plda import NeuralPlda
from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction, length_normalise
from spkadapt.backend.plda import Plda
from spkadapt.backend.score_norm import NormalisedScorer
from spkadapt.backend.simplified_plda import SimplifiedPlda
from spkadapt.backend.spherical import Psda
from spkadapt.backend.wccn import Wccn
from spkadapt.backend.whitening import Whitening

__all__ = [
    "Backend",
    "CosineProjection",
    "CosineScorer",
    "DiscriminativePlda",
    "HeavyTailedPlda",
    "Lda",
    "LengthNormalisation",
    "MeanSubtraction",
    "Nap",
    "NeuralPlda",
    "NormalisedScorer",
    "Plda",
    "Psda",
    "SimplifiedPlda",
    "Wccn",
    "Whitening",
    "length_normalise",
]
