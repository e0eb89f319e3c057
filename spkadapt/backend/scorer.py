"""What turns two embeddings into a score, in the form that a matrix product can compute.

Nearly every score of a pair is bilinear in what each side can compute alone:

    score(e, t) = vectors_e · vectors_t + offsets_e + offsets_t

so a scorer prepares each side once, and a block of trials is one matrix product and two rank-one terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the trials, ready to be multiplied.

    Attributes:
        vectors: what is multiplied.
        offsets: what is added to every score of the row.

    Shape:
        vectors: `(num_rows, width)`
        offsets: `(num_rows,)`
    """

    vectors: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, which: slice | Tensor) -> Side:
        """Some of the rows: a slice (a view), or their numbers (a copy)."""
        return Side(self.vectors[which], self.offsets[which])

    def to(self, device: str | torch.device) -> Side:
        """The same side on another device."""
        return Side(self.vectors.to(device), self.offsets.to(device))


class Scorer(ABC):
    """Scores pairs of embeddings; the higher, the likelier one speaker.

    `enrol_side` and `test_side` compute in float64 and give float32. A scorer whose score is not bilinear
    overrides `score_block` and `score_pairs`.
    """

    @abstractmethod
    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """The enrolment side, one row a speaker model.

        Args:
            embeddings: of the enrolment utterances.
            model_of: the number of the model that each utterance enrols, from 0, each model at least once; None
                where every utterance is a model of its own.

        Shape:
            embeddings: `(num_embeddings, dim)`
            model_of: `(num_embeddings,)`
        """

    @abstractmethod
    def test_side(self, embeddings: np.ndarray) -> Side:
        """The test side, one row an utterance, of `embeddings (num_embeddings, dim)`."""

    def score_block(self, enrol: Side, test: Side) -> Tensor:
        """The score of every row of `enrol` with every row of `test`: `(len(enrol), len(test))`."""
        scores = torch.addmm(test.offsets, enrol.vectors, test.vectors.T)
        return scores.add_(enrol.offsets[:, None])

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        """The score of each row of `enrol` with the same row of `test`: `(len(enrol),)`."""
        return torch.linalg.vecdot(enrol.vectors, test.vectors).add_(enrol.offsets).add_(test.offsets)
