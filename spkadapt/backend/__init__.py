"""What comes between the embedding and the score: centring, projections, generative models, calibration.

Each module holds one method, with scikit-learn's `fit` and `transform` on embeddings `(num_embeddings, dim)`.
"""

from spkadapt.backend.lda import Lda
from spkadapt.backend.nap import Nap
from spkadapt.backend.normalise import LengthNormalisation, MeanSubtraction, length_normalise
from spkadapt.backend.plda import Plda
from spkadapt.backend.simplified_plda import SimplifiedPlda
from spkadapt.backend.wccn import Wccn
from spkadapt.backend.whitening import Whitening

__all__ = [
    "Lda",
    "LengthNormalisation",
    "MeanSubtraction",
    "Nap",
    "Plda",
    "SimplifiedPlda",
    "Wccn",
    "Whitening",
    "length_normalise",
]
