"""Cosine scoring: the angle between two embeddings, however long they are."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import count_sessions
from spkadapt.backend.covariance import sum_by_class
from spkadapt.backend.normalise import length_normalise
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError


class CosineScorer(Scorer, BaseEstimator):
    """score(e, t) = e · t / (‖e‖ ‖t‖).

    A model of several utterances is the mean of their unit vectors, so that each counts alike, however long its
    embedding.
    """

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """The unit vector of each model; as in `Scorer`.

        Raises:
            InputError: for embeddings that `length_normalise` refuses, bad model numbers, or a model whose unit
                vectors cancel out.
        """
        units = length_normalise(np.asarray(embeddings, dtype=np.float64))
        if model_of is not None:
            models, counts = count_sessions(model_of, len(units))
            sums = sum_by_class(units, models, len(counts))
            lengths = np.linalg.norm(sums, axis=1)
            cancelled = np.flatnonzero(lengths <= 1e-9 * counts)
            if len(cancelled):
                raise InputError(f"the {counts[cancelled[0]]} utterances of model {cancelled[0]} cancel out")
            units = sums / lengths[:, None]
        return Side(torch.from_numpy(units).float(), torch.zeros(len(units)))

    def test_side(self, embeddings: np.ndarray) -> Side:
        """The unit vector of each utterance.

        Raises:
            InputError: for embeddings that `length_normalise` refuses.
        """
        return self.enrol_side(embeddings)
