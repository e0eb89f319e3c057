"""The cosine of embeddings after a linear map that was learnt to tell speakers apart.

    s(x, y) = scale · cos(P(x − mean), P(y − mean)) + offset

Metric learning for the cosine (Nguyen & Bai, ACCV 2010), here with the logistic loss over all pairs, as in
discriminative PLDA. Unlike LDA and WCCN, it assumes nothing of how classes are distributed, and labels need not be
speakers: the calls of unlabelled recordings serve as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spkadapt.backend.checks import check_embeddings, check_fitted, require_repeated
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.covariance import number_classes
from spkadapt.backend.normalise import length_normalise
from spkadapt.backend.pairwise import PairwiseLogistic, check_training, minimise
from spkadapt.backend.projection import Projection
from spkadapt.backend.scorer import Side

if TYPE_CHECKING:
    from typing_extensions import Self


class CosineProjection(CosineScorer, Projection):
    """A square map, found by descent from the identity.

    It minimises `PairwiseLogistic` + ½ penalty ‖P − I‖² / dim by L-BFGS, in float64. The objective is not convex,
    but nothing in it is random: the same embeddings give the same map. It takes a time that grows with the square
    of the number of embeddings, and a bounded memory.

    Args:
        penalty: of the mean squared change of P's rows, which start with length 1; in nats, times two.
        target_prior: of a target trial; scores are calibrated best about −logit of it.
        num_iterations: of L-BFGS, at most. With none, it is the cosine of centred embeddings, scaled.

    Attributes:
        mean_, projection_: the map; see `Projection`.
        scale_, offset_: what makes of a cosine a log-likelihood ratio of the pairs it was trained on.
        objectives_: the value before training and after each iteration.

    Shape:
        objectives_: `(num_iterations + 1,)`, or less
    """

    scale_: float
    offset_: float
    objectives_: np.ndarray

    def __init__(self, penalty: float = 10.0, target_prior: float = 0.5, num_iterations: int = 100) -> None:
        self.penalty = penalty
        self.target_prior = target_prior
        self.num_iterations = num_iterations

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn to tell the pairs of `embeddings` apart.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`, the speaker of each, or its call

        Raises:
            InputError: bad embeddings, or one that is their mean; not one label for each, fewer than two classes,
                none with two embeddings, or a setting out of its range.
        """
        check_training(self.penalty, self.num_iterations)
        embeddings = check_embeddings(embeddings)
        numbers, counts = number_classes(labels, len(embeddings))
        require_repeated(counts)
        mean = embeddings.mean(axis=0)
        units = length_normalise(embeddings - mean)
        packed, self.objectives_ = minimise(
            CosineObjective(units, PairwiseLogistic(numbers, self.target_prior), self.penalty),
            np.concatenate([np.eye(len(mean)).ravel(), scale_cosines(units)]),
            self.num_iterations,
        )
        self.mean_, self.projection_ = mean, packed[:-2].reshape(len(mean), len(mean))
        self.scale_, self.offset_ = float(np.exp(packed[-2])), float(packed[-1])
        return self

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """The scaled direction of each model, after the map, as `CosineScorer` averages it; and the offset.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, one that the map takes to zero, bad model
                numbers, or a model whose unit vectors cancel out.
        """
        check_fitted(self, "projection_")
        projected = self.transform(check_embeddings(embeddings, len(self.mean_)))
        side = super().enrol_side(projected, model_of)
        return Side(side.vectors * self.scale_, side.offsets + self.offset_)

    def test_side(self, embeddings: np.ndarray) -> Side:
        """The direction of each utterance, after the map.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or one that the map takes to zero.
        """
        check_fitted(self, "projection_")
        return super().enrol_side(self.transform(check_embeddings(embeddings, len(self.mean_))))


def scale_cosines(units: np.ndarray) -> tuple[float, float]:
    """Log scale and offset that give the cosines of all pairs of unit vectors a mean of 0 and a variance of 1."""
    num_pairs = len(units) * (len(units) - 1)
    mean = (np.square(units.sum(axis=0)).sum() - len(units)) / num_pairs
    mean_square = (np.square(units.T @ units).sum() - len(units)) / num_pairs
    scale = 1 / np.sqrt(max(mean_square - mean**2, 1e-6))
    return float(np.log(scale)), float(-scale * mean)


class CosineObjective:
    """The penalised objective of P, log scale and offset, packed into one vector, and its gradient.

    Args:
        embeddings: centred, of any length.
        pairs: the loss of their scores.
        penalty: as in `CosineProjection`.
    """

    def __init__(self, embeddings: np.ndarray, pairs: PairwiseLogistic, penalty: float) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.pairs = pairs
        self.penalty = penalty / embeddings.shape[1]

    def __call__(self, packed: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient, of the shape of `packed`.

        With u = y/‖y‖ of y = Px, dL/dy = (dL/du − u uᵀ dL/du) / ‖y‖ and dL/dP = Σ dL/dy xᵀ.
        """
        dim = self.embeddings.shape[1]
        projection, (log_scale, offset) = packed[:-2].reshape(dim, dim), packed[-2:]
        projected = self.embeddings @ torch.from_numpy(projection).T
        lengths = torch.linalg.vector_norm(projected, dim=1, keepdim=True)
        units = projected / lengths
        scaled = units * float(np.exp(log_scale))
        loss, total, of_units = 0.0, 0.0, torch.zeros_like(units)
        for rows, columns in self.pairs.blocks():
            scores = (scaled[rows] @ units[columns].T).add_(float(offset))
            part, gradient = self.pairs.evaluate(scores, rows, columns)
            loss, total = loss + part, total + float(gradient.sum())
            of_units[rows] += gradient @ scaled[columns]
            of_units[columns] += gradient.T @ scaled[rows]
        inward = torch.linalg.vecdot(units, of_units)
        of_projected = (of_units - units * inward[:, None]) / lengths
        away = projection - np.eye(dim)
        of_projection = (of_projected.T @ self.embeddings).numpy() + self.penalty * away
        # Σ G s without the offset is half of Σ u · dL/du: every pair is in the latter twice.
        of_log_scale = float(inward.sum()) / 2
        value = loss + self.penalty / 2 * float(np.square(away).sum())
        return value, np.concatenate([of_projection.ravel(), [of_log_scale, total]])
