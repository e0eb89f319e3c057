"""Discriminative PLDA (Burget, Plchot, Cumani, Glembek, Matějka & Brümmer, ICASSP 2011): the score of PLDA, but
with coefficients that tell the pairs of the training data apart, instead of those that follow from a likelihood.

The log-likelihood ratio of Gaussian PLDA is a quadratic form in the two embeddings,

    s(x, y) = xᵀΛy + xᵀΓx + yᵀΓy + cᵀ(x + y) + k,

linear in Λ, Γ (both symmetric), c and k, so that logistic regression on all pairs is convex in them. Training
starts at a generative model and is drawn back to it: few speakers cannot set so many coefficients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions, require_repeated
from spkadapt.backend.covariance import TwoCovariance, number_classes, sum_by_class
from spkadapt.backend.pairwise import PairwiseLogistic, check_training, minimise
from spkadapt.backend.plda import Plda
from spkadapt.backend.scorer import Scorer, Side

if TYPE_CHECKING:
    from typing_extensions import Self


class DiscriminativePlda(Scorer, BaseEstimator):
    """Logistic regression on pairs, in the basis where embeddings have unit variance by the generative model.

    It minimises `PairwiseLogistic` + ½ penalty (‖Λ − Λ₀‖² + ‖Γ − Γ₀‖² + ‖c‖² + (k − k₀)²) by L-BFGS, in float64,
    from the generative model's Λ₀, Γ₀, 0 and k₀; for a positive penalty the minimum is unique. It takes a time
    that grows with the square of the number of embeddings, and a bounded memory beside the coefficients.

    Several utterances of a model are averaged: there is no model of them that could say better.

    Args:
        penalty: what a change of Λ that adds a variance of 1 to the scores of strangers costs, in nats, times two.
        target_prior: of a target trial; scores are calibrated best about −logit of it.
        num_iterations: of L-BFGS, at most. With none, scores are those of the generative model.

    Attributes:
        mean_, transform_: embeddings x enter as transform (x − mean).
        cross_, square_, linear_, constant_: Λ, Γ, c and k.
        objectives_: the value before training and after each iteration.

    Shape:
        mean_: `(dim,)`
        transform_: `(rank, dim)`
        cross_, square_: `(rank, rank)`
        linear_: `(rank,)`
        objectives_: `(num_iterations + 1,)`, or less
    """

    mean_: np.ndarray
    transform_: np.ndarray
    cross_: np.ndarray
    square_: np.ndarray
    linear_: np.ndarray
    constant_: float
    objectives_: np.ndarray

    def __init__(self, penalty: float = 1.0, target_prior: float = 0.5, num_iterations: int = 100) -> None:
        self.penalty = penalty
        self.target_prior = target_prior
        self.num_iterations = num_iterations

    def fit(self, embeddings: np.ndarray, labels: np.ndarray, start: TwoCovariance | None = None) -> Self:
        """Learn to tell the pairs of `embeddings` apart.

        Args:
            start: the generative model to begin with; None for that of `Plda` on the same embeddings.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`, the speaker of each

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two speakers, no speaker with two
                embeddings, a start of another dimension or without variance, or a setting out of its range.
        """
        check_training(self.penalty, self.num_iterations)
        embeddings = check_embeddings(embeddings, None if start is None else len(start.mean))
        numbers, counts = number_classes(labels, len(embeddings))
        require_repeated(counts)
        generative = Plda().fit(embeddings, labels) if start is None else Plda.from_model(start)
        self._start_from(generative)
        objective = QuadraticObjective(
            (embeddings - self.mean_) @ self.transform_.T,
            PairwiseLogistic(numbers, self.target_prior),
            pack(self.cross_, self.square_, self.linear_, self.constant_),
            self.penalty,
        )
        coefficients, self.objectives_ = minimise(objective, objective.centre, self.num_iterations)
        self.cross_, self.square_, self.linear_, self.constant_ = unpack(coefficients, len(self.linear_))
        return self

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """Λx and xᵀΓx + cᵀx + k of the mean embedding of each model; as in `Scorer`.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or bad model numbers.
        """
        check_fitted(self, "cross_")
        embeddings = check_embeddings(embeddings, len(self.mean_))
        models, counts = count_sessions(model_of, len(embeddings))
        x = self._transform(sum_by_class(embeddings, models, len(counts)) / counts[:, None])
        return _side(x @ self.cross_, self._alone(x) + self.constant_)

    def test_side(self, embeddings: np.ndarray) -> Side:
        """y and yᵀΓy + cᵀy of each utterance.

        Raises:
            InputError: before `fit`, or bad embeddings or another `dim`.
        """
        check_fitted(self, "cross_")
        y = self._transform(check_embeddings(embeddings, len(self.mean_)))
        return _side(y, self._alone(y))

    def _transform(self, embeddings: np.ndarray) -> np.ndarray:
        return (embeddings - self.mean_) @ self.transform_.T

    def _alone(self, x: np.ndarray) -> np.ndarray:
        return ((x @ self.square_ + self.linear_) * x).sum(axis=1)

    def _start_from(self, plda: Plda) -> None:
        """The coefficients of Gaussian PLDA, in its basis scaled by 1/√(1 + ψ), where they are diagonal."""
        psi = plda.psi_
        self.mean_, self.transform_ = plda.mean_, plda.transform_ / np.sqrt(1 + psi)[:, None]
        self.cross_ = np.diag(psi * (1 + psi) / (1 + 2 * psi))
        self.square_ = np.diag(-(psi**2) / (1 + 2 * psi) / 2)
        self.linear_ = np.zeros(len(psi))
        self.constant_ = float(np.log((1 + psi) ** 2 / (1 + 2 * psi)).sum() / 2)


class QuadraticObjective:
    """The penalised objective of the coefficients, packed into one vector, and its gradient.

    Args:
        embeddings: in the basis in which the penalty is taken.
        pairs: the loss of their scores.
        centre: the coefficients without penalty.
        penalty: as in `DiscriminativePlda`.
    """

    def __init__(
        self, embeddings: np.ndarray, pairs: PairwiseLogistic, centre: np.ndarray, penalty: float
    ) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.pairs = pairs
        self.centre = centre
        self.penalty = penalty

    def __call__(self, coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient, of the shape of `coefficients`.

        With G = dL/ds of the pairs i < j, and g the sums of its rows and of its columns together,

            dL/dΛ = ½(XᵀGX + XᵀGᵀX)      dL/dΓ = Xᵀ diag(g) X      dL/dc = Xᵀg      dL/dk = Σ G
        """
        x = self.embeddings
        cross, square, linear, constant = unpack(coefficients, x.shape[1])
        projected = x @ torch.from_numpy(cross)
        alone = torch.linalg.vecdot(x @ torch.from_numpy(square) + torch.from_numpy(linear), x)
        loss, product, sums = 0.0, torch.zeros_like(x), torch.zeros_like(alone)
        for rows, columns in self.pairs.blocks():
            scores = torch.addmm(alone[columns] + constant, projected[rows], x[columns].T)
            part, gradient = self.pairs.evaluate(scores.add_(alone[rows, None]), rows, columns)
            loss += part
            product[rows] = gradient @ x[columns]
            sums[rows] += gradient.sum(dim=1)
            sums[columns] += gradient.sum(dim=0)
        of_cross = (x.T @ product).numpy()
        of_square = (x.T @ (x * sums[:, None])).numpy()
        gradient_ = pack((of_cross + of_cross.T) / 2, of_square, (x.T @ sums).numpy(), float(sums.sum()) / 2)
        away = coefficients - self.centre
        return loss + self.penalty / 2 * float(away @ away), gradient_ + self.penalty * away


def pack(cross: np.ndarray, square: np.ndarray, linear: np.ndarray, constant: float) -> np.ndarray:
    """Λ, Γ, c and k in one vector."""
    return np.concatenate([cross.ravel(), square.ravel(), linear, [constant]])


def unpack(coefficients: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Λ, Γ, c and k again."""
    cross, square, linear, constant = np.split(coefficients, [dim**2, 2 * dim**2, 2 * dim**2 + dim])
    return cross.reshape(dim, dim), square.reshape(dim, dim), linear, float(constant[0])


def _side(vectors: np.ndarray, offsets: np.ndarray) -> Side:
    return Side(torch.from_numpy(vectors).float(), torch.from_numpy(offsets).float())
