"""What comes between the embedding and the score: centring, projections, generative models, calibration.

Each module holds one method, with scikit-learn's `fit` and `transform` on embeddings `(num_embeddings, dim)`.
"""

from spkadapt.backend.normalise import MeanSubtraction, length_normalise
from spkadapt.backend.plda import Plda

__all__ = ["MeanSubtraction", "Plda", "length_normalise"]
