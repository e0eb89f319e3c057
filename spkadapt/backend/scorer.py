"""What turns two embeddings into a score, in the form that a matrix product can compute.

Nearly every score of a pair is bilinear in what each side can compute alone:

    score(e, t) = vectors_e · vectors_t + offsets_e + offsets_t

so a scorer prepares each side once, and a block of trials is one matrix product and two rank-one terms.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Numbers in a chunk of gathered rows: 4 MB a side, which stays within most processors' cache.
_CHUNK_NUMBERS = 1 << 20


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

    def score_listed(self, enrol: Side, test: Side, enrol_rows: Tensor, test_rows: Tensor) -> Tensor:
        """The score of listed rows of `enrol` with listed rows of `test`, in any order.

        Shape:
            enrol_rows, test_rows: `(num_trials,)`, int32 or int64, on the sides' device
            returns `(num_trials,)`
        """
        if type(self).score_pairs is Scorer.score_pairs and enrol.vectors.device.type == "cpu":
            scores = _sampled_product(enrol.vectors, test.vectors, enrol_rows, test_rows)
            return scores.add_(enrol.offsets[enrol_rows]).add_(test.offsets[test_rows])
        scores = enrol.vectors.new_empty(len(enrol_rows))
        step = max(1, _CHUNK_NUMBERS // max(1, enrol.vectors.shape[1]))
        for start in range(0, len(scores), step):
            chunk = slice(start, start + step)
            scores[chunk] = self.score_pairs(enrol.rows(enrol_rows[chunk]), test.rows(test_rows[chunk]))
        return scores


def _sampled_product(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cells of `left @ right.T`; no row is copied, which gathering rows spends most of its time on."""
    if len(rows) >= len(left) * len(right):  # torch keeps no more sampled cells than there are
        return (left @ right.T)[rows, columns]
    in_order = bool((rows[1:] >= rows[:-1]).all())
    order = None if in_order else torch.argsort(rows)
    cells_of_row = torch.bincount(rows, minlength=len(left))
    row_starts = torch.nn.functional.pad(cells_of_row.cumsum(0), (1, 0)).to(columns.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        pattern = torch.sparse_csr_tensor(
            row_starts,
            columns if order is None else columns[order],
            left.new_zeros(len(rows)),
            size=(len(left), len(right)),
            check_invariants=False,  # a cell may be listed twice
        )
        torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0, out=pattern)
    values = pattern.values()
    return values if order is None else torch.empty_like(values).index_copy_(0, order, values)
