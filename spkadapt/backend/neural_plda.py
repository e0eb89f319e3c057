"""Neural PLDA (Ramoji, Krishnan & Ganapathy, Odyssey 2020): the whole chain from embedding to score as a network.

    a = Ax + b        u = √k a/‖a‖        z = Tu + t        s(x, y) = z_xᵀPz_y + z_xᵀQz_x + z_yᵀQz_y + c

with P and Q diagonal is what LDA, length normalisation and Gaussian PLDA do, one after the other. It starts as
that, and then all of it is trained together to tell pairs apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from spkadapt.backend.checks import check_embeddings, check_fitted, count_sessions, require_repeated
from spkadapt.backend.covariance import covariance, number_classes, sum_by_class, whiten_range
from spkadapt.backend.lda import Lda
from spkadapt.backend.normalise import LengthNormalisation
from spkadapt.backend.pairwise import PairwiseLogistic, check_training, minimise
from spkadapt.backend.plda import Plda
from spkadapt.backend.plda_scoring import GaussianPlda
from spkadapt.backend.projection import Projection
from spkadapt.backend.scorer import Scorer, Side
from spkadapt.errors import InputError, suggest

if TYPE_CHECKING:
    from typing_extensions import Self

_LENGTH = LengthNormalisation("sqrt-dim")


class SoftDetectionCost(PairwiseLogistic):
    """The normalised detection cost at the Bayes threshold, with sigmoids for steps, so that it has a gradient:

        L = [π/T Σ_target σ(−α(s + logit π)) + (1 − π)/N Σ_other σ(α(s + logit π))] / min(π, 1 − π)

    Args:
        numbers, target_prior: as in `PairwiseLogistic`.
        warping: α; the larger, the nearer to the cost itself, and the fewer pairs that have a gradient.

    Raises:
        InputError: as `PairwiseLogistic` does, or for a warping that is not above 0.
    """

    def __init__(self, numbers: np.ndarray, target_prior: float, warping: float) -> None:
        super().__init__(numbers, target_prior)
        if not 0 < warping < np.inf:
            raise InputError(f"expected a finite warping above 0, found {warping}")
        self.weights /= min(target_prior, 1 - target_prior)
        self.warping = warping

    def evaluate(self, scores: Tensor, rows: slice, columns: slice) -> tuple[float, Tensor]:
        """As `PairwiseLogistic.evaluate`."""
        is_target = self.numbers[rows, None] == self.numbers[columns]
        weights = torch.where(is_target, self.weights[1], self.weights[0]).triu_(diagonal=1)
        signs = torch.where(is_target, self.signs[1], self.signs[0])
        wrong = scores.add_(self.log_odds).mul_(signs).mul_(self.warping).sigmoid_()
        loss = float(torch.vdot(wrong.flatten(), weights.flatten()))
        return loss, signs.mul_(weights).mul_(self.warping).mul_(wrong).mul_(wrong.neg().add_(1))


# What makes a loss of a prior: from the speakers' numbers, the prior and the warping.
LOSSES = {
    "soft-detection-cost": SoftDetectionCost,
    "cross-entropy": lambda numbers, target_prior, _: PairwiseLogistic(numbers, target_prior),
}


class NeuralPlda(Scorer, BaseEstimator):
    """LDA, length normalisation and PLDA, trained together from where the generative models leave them.

    It minimises the mean of the losses at the target priors + ½ penalty ‖change‖² by L-BFGS, in float64. Change is
    measured where embeddings have unit variance: that of A after whitening, that of T, P and Q in the basis in
    which z has, by the generative model. The objective is not convex, but nothing in it is random: the same
    embeddings give the same network. It takes a time that grows with the square of the number of embeddings, and
    a bounded memory beside the parameters.

    The authors learn a threshold for each prior. Here thresholds stay at −logit π, so that scores stay what they
    begin as, log-likelihood ratios, and what is minimised is the cost of decisions made as Bayes would make them.

    Several utterances of a model are averaged as z.

    Args:
        penalty: of change. Less of it fits few speakers by heart.
        loss: "soft-detection-cost", as the authors have it, or "cross-entropy", which is `PairwiseLogistic`.
        target_priors: of the losses whose mean is minimised.
        warping: of the soft detection cost.
        num_iterations: of L-BFGS, at most. With none, scores are those of the generative chain.

    Attributes:
        first_weight_, first_bias_, second_weight_, second_bias_: A, b, T and t.
        cross_, square_, constant_: the diagonals of P and Q, and c.
        objectives_: the value before training and after each iteration.

    Shape:
        first_weight_, first_bias_: `(new_dim, dim)`, `(new_dim,)`
        second_weight_, second_bias_: `(rank, new_dim)`, `(rank,)`
        cross_, square_: `(rank,)`
        objectives_: `(num_iterations + 1,)`, or less
    """

    first_weight_: np.ndarray
    first_bias_: np.ndarray
    second_weight_: np.ndarray
    second_bias_: np.ndarray
    cross_: np.ndarray
    square_: np.ndarray
    constant_: float
    objectives_: np.ndarray

    def __init__(
        self,
        penalty: float = 0.1,
        loss: str = "soft-detection-cost",
        target_priors: tuple[float, ...] = (0.01, 0.005),
        warping: float = 1.0,
        num_iterations: int = 100,
    ) -> None:
        self.penalty = penalty
        self.loss = loss
        self.target_priors = target_priors
        self.warping = warping
        self.num_iterations = num_iterations

    def fit(
        self, embeddings: np.ndarray, labels: np.ndarray, start: tuple[Projection, GaussianPlda] | None = None
    ) -> Self:
        """Learn to tell the pairs of `embeddings` apart.

        Args:
            start: what to begin with: a projection, such as an `Lda`, and a PLDA of what it gives, scaled to
                length √new_dim. None for an `Lda` and a `Plda` of the same embeddings.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`, the speaker of each

        Raises:
            InputError: bad embeddings, or one that the projection takes to zero; not one label for each, fewer
                than two speakers, none with two embeddings, a start whose parts do not fit, or a setting out of
                its range.
        """
        check_training(self.penalty, self.num_iterations)
        embeddings = check_embeddings(embeddings)
        numbers, counts = number_classes(labels, len(embeddings))
        require_repeated(counts)
        losses = self._make_losses(numbers)
        projection, plda = start or _fit_chain(embeddings, labels)
        self._start_from(projection, plda)
        mean = embeddings.mean(axis=0)
        whiten, _ = whiten_range(covariance(embeddings, mean))
        objective = NetworkObjective(self, embeddings, (embeddings - mean) @ whiten.T, losses, self.penalty)
        packed, self.objectives_ = minimise(objective, np.zeros(objective.num_parameters), self.num_iterations)
        first, bias, second, second_bias, cross, square, constant = objective.unpack(packed)
        self.first_weight_ = self.first_weight_ + first @ whiten
        self.first_bias_ = self.first_bias_ + bias - first @ whiten @ mean
        self.second_weight_, self.second_bias_ = self.second_weight_ + second, self.second_bias_ + second_bias
        self.cross_, self.square_ = self.cross_ + cross, self.square_ + square
        self.constant_ += float(constant[0])
        return self

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """z of each embedding, `(num_embeddings, rank)`, in float64.

        Raises:
            InputError: before `fit`, bad embeddings or another `dim`, or one whose a is zero.
        """
        check_fitted(self, "cross_")
        embeddings = check_embeddings(embeddings, self.first_weight_.shape[1])
        u = _LENGTH.transform(embeddings @ self.first_weight_.T + self.first_bias_)
        return u @ self.second_weight_.T + self.second_bias_

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        """Pz and zᵀQz + c of each model; as in `Scorer`.

        Raises:
            InputError: as `transform` does, or bad model numbers.
        """
        z = self.transform(embeddings)
        models, counts = count_sessions(model_of, len(z))
        z = sum_by_class(z, models, len(counts)) / counts[:, None] if model_of is not None and len(counts) else z
        return _side(z * self.cross_, z**2 @ self.square_ + self.constant_)

    def test_side(self, embeddings: np.ndarray) -> Side:
        """z and zᵀQz of each utterance.

        Raises:
            InputError: as `transform` does.
        """
        z = self.transform(embeddings)
        return _side(z, z**2 @ self.square_)

    def _make_losses(self, numbers: np.ndarray) -> list[PairwiseLogistic]:
        if self.loss not in LOSSES:
            raise InputError(f'no loss "{self.loss}": {suggest(self.loss, LOSSES)}')
        if not len(self.target_priors):
            raise InputError("expected at least one of target_priors, found none")
        return [LOSSES[self.loss](numbers, prior, self.warping) for prior in self.target_priors]

    def _start_from(self, projection: Projection, plda: GaussianPlda) -> None:
        """The network that is the chain; z is in the basis of PLDA scaled by 1/√(1 + ψ)."""
        check_fitted(projection, "projection_")
        check_fitted(plda, "psi_")
        new_dim = len(projection.projection_)
        if plda.transform_.shape[1] != new_dim:
            raise InputError(f"expected a PLDA of {new_dim} dimensions to start, found {plda.transform_.shape[1]}")
        psi = plda.psi_
        self.first_weight_ = projection.projection_.copy()
        self.first_bias_ = -projection.projection_ @ projection.mean_
        self.second_weight_ = plda.transform_ / np.sqrt(1 + psi)[:, None]
        self.second_bias_ = -self.second_weight_ @ plda.mean_
        self.cross_ = psi * (1 + psi) / (1 + 2 * psi)
        self.square_ = -(psi**2) / (1 + 2 * psi) / 2
        self.constant_ = float(np.log((1 + psi) ** 2 / (1 + 2 * psi)).sum() / 2)


class NetworkObjective:
    """The penalised objective of all changes to a network, packed into one vector, and its gradient.

    Args:
        network: what is changed.
        embeddings, whitened: as the network takes them, and in the directions of their variance.
        losses: of the scores; their mean counts.
        penalty: as in `NeuralPlda`.
    """

    def __init__(
        self,
        network: NeuralPlda,
        embeddings: np.ndarray,
        whitened: np.ndarray,
        losses: list[PairwiseLogistic],
        penalty: float,
    ) -> None:
        self.whitened, self.losses, self.penalty = torch.from_numpy(whitened), losses, penalty
        self.projected = torch.from_numpy(embeddings @ network.first_weight_.T + network.first_bias_)
        rest = network.second_weight_, network.second_bias_, network.cross_, network.square_
        self.start = [*map(torch.tensor, rest), torch.tensor([network.constant_], dtype=torch.float64)]
        new_dim = self.projected.shape[1]
        self.shapes = [(new_dim, whitened.shape[1]), (new_dim,), *(tuple(part.shape) for part in self.start)]
        self.num_parameters = sum(map(np.prod, self.shapes))

    def unpack(self, packed: np.ndarray) -> list[np.ndarray]:
        """The changes of A (of whitened embeddings), b, T, t, P, Q and c."""
        parts = np.split(packed, np.cumsum([np.prod(shape) for shape in self.shapes])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, packed: np.ndarray) -> tuple[float, np.ndarray]:
        """The value and the gradient, of the shape of `packed`.

        With G = dL/ds of the pairs i < j, H = G + Gᵀ and h the sums of its rows, by the columns of z,

            dL/dz = P Hz + 2Q diag(h)z,   dL/dP = ½ Σ z ∘ Hz,   dL/dQ = Σ h z²,   dL/dc = Σ G,

        and from z back to A, b, T and t by automatic differentiation.
        """
        first, bias, *changes = (torch.tensor(part) for part in self.unpack(packed))
        weight, second_bias, cross, square, constant = (a + b for a, b in zip(self.start, changes, strict=True))
        inner = [first, bias, weight, second_bias]
        with torch.enable_grad():
            for part in inner:
                part.requires_grad_()
            a = self.projected + self.whitened @ first.T + bias
            u = a * (np.sqrt(a.shape[1]) / torch.linalg.vector_norm(a, dim=1, keepdim=True))
            latent = u @ weight.T + second_bias
        z = latent.detach()
        loss, product, sums = self._evaluate(z, cross, square, constant)
        of_latent = cross * product + 2 * square * z * sums[:, None]
        gradients = [*torch.autograd.grad(latent, inner, of_latent)]
        gradients += [(z * product).sum(dim=0) / 2, sums @ z**2, sums.sum()[None] / 2]
        gradient = torch.cat([part.flatten() for part in gradients]).numpy()
        return loss + self.penalty / 2 * float(packed @ packed), gradient + self.penalty * packed

    def _evaluate(
        self, z: Tensor, cross: Tensor, square: Tensor, constant: Tensor
    ) -> tuple[float, Tensor, Tensor]:
        """The mean loss, Hz and h."""
        scaled, alone = z * cross, z**2 @ square
        loss, product, sums = 0.0, torch.zeros_like(z), torch.zeros_like(alone)
        for rows, columns in self.losses[0].blocks():
            scores = torch.addmm(alone[columns] + constant, scaled[rows], z[columns].T).add_(alone[rows, None])
            for pairs in self.losses:
                part, gradient = pairs.evaluate(scores.clone(), rows, columns)
                loss += part / len(self.losses)
                gradient /= len(self.losses)
                product[rows] += gradient @ z[columns]
                product[columns] += gradient.T @ z[rows]
                sums[rows] += gradient.sum(dim=1)
                sums[columns] += gradient.sum(dim=0)
        return loss, product, sums


def _fit_chain(embeddings: np.ndarray, labels: np.ndarray) -> tuple[Projection, GaussianPlda]:
    projection = Lda().fit(embeddings, labels)
    return projection, Plda().fit(_LENGTH.transform(projection.transform(embeddings)), labels)


def _side(vectors: np.ndarray, offsets: np.ndarray) -> Side:
    return Side(torch.from_numpy(vectors).float(), torch.from_numpy(offsets).float())
