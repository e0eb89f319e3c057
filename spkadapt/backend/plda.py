"""Gaussian PLDA as the two-covariance model (Ioffe, 2006; Brümmer & de Villiers, 2010)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spkadapt.backend.checks import check_embeddings, require_repeated
from spkadapt.backend.covariance import TwoCovariance, class_statistics, shrink
from spkadapt.backend.plda_em import check_settings, fit_as_kaldi, fit_two_covariance
from spkadapt.backend.plda_scoring import GaussianPlda
from spkadapt.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

ESTIMATORS = ("em", "kaldi")


class Plda(GaussianPlda):
    """The two-covariance model: a speaker y ~ N(mean, between), his embeddings x | y ~ N(y, within).

    Fewer embeddings than dimensions, speakers with a single one, constant dimensions and duplicates are all well
    defined under "em": directions in which the embeddings do not vary take no part in scores, and in those that
    vary only between speakers `floor` bounds how sure the model is. A bound is no estimate: where there are few
    embeddings for the dimensions, shrink (or project first, `Lda`, `Whitening`).

    Args:
        estimator: "em" maximises the likelihood, from a start of matched moments; "kaldi" is EM as Kaldi's
            `ivector-compute-plda` does it, started from the identity, its mean that of the speaker means. Kaldi's
            start has a scale: give it embeddings of length √dim.
        num_iterations: steps of EM. "kaldi" takes 10 there.
        floor: the least share of the variance in any direction that "em" takes to be within speakers.
        shrinkage: draws both covariances, once estimated, towards multiples of the identity; see `shrink`.
        enrolment, normalise_length: see `GaussianPlda`.
    """

    def __init__(
        self,
        estimator: str = "em",
        num_iterations: int = 10,
        floor: float = 1e-4,
        shrinkage: float = 0.0,
        enrolment: str = "average",
        normalise_length: bool = False,
    ) -> None:
        self.estimator = estimator
        self.num_iterations = num_iterations
        self.floor = floor
        self.shrinkage = shrinkage
        self.enrolment = enrolment
        self.normalise_length = normalise_length

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Learn the model from embeddings whose speakers are known.

        Shape:
            embeddings: `(num_embeddings, dim)`
            labels: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings, not one label for each, fewer than two speakers, no speaker with two
                embeddings, embeddings that are all equal, or a setting out of its range.
        """
        check_settings(self.estimator, ESTIMATORS, self.num_iterations, self.floor)
        if not 0 <= self.shrinkage <= 1:
            raise InputError(f"expected shrinkage to be from 0 to 1, found {self.shrinkage}")
        statistics = class_statistics(check_embeddings(embeddings), labels)
        require_repeated(statistics.counts)
        if self.estimator == "kaldi":
            model = fit_as_kaldi(statistics, self.num_iterations)
        else:
            model = fit_two_covariance(statistics, self.num_iterations, self.floor)
        between, within = (shrink(part, self.shrinkage) for part in (model.between, model.within))
        self._set_model(TwoCovariance(model.mean, between, within))
        return self

    @classmethod
    def from_model(
        cls, model: TwoCovariance, *, enrolment: str = "average", normalise_length: bool = False
    ) -> Self:
        """A backend that scores with a model found elsewhere: adapted, or clustered.

        Raises:
            InputError: the total covariance is not positive semi-definite, or zero.
        """
        plda = cls(enrolment=enrolment, normalise_length=normalise_length)
        plda._set_model(model)
        return plda

    @classmethod
    def from_kaldi(
        cls,
        mean: np.ndarray,
        transform: np.ndarray,
        psi: np.ndarray,
        *,
        enrolment: str = "by-the-book",
        normalise_length: bool = True,
    ) -> Self:
        """A backend that scores as Kaldi does with the `Plda` object in its file; options as Kaldi has them.

        Shape:
            mean: `(dim,)`
            transform: `(dim, dim)`
            psi: `(dim,)`

        Raises:
            InputError: shapes that do not agree, a singular transform, or a psi below zero.
        """
        mean, transform, psi = (np.asarray(part, dtype=np.float64) for part in (mean, transform, psi))
        dim = mean.size
        if mean.shape != (dim,) or transform.shape != (dim, dim) or psi.shape != (dim,):
            found = f"mean {mean.shape}, transform {transform.shape} and psi {psi.shape}"
            raise InputError(f"expected Kaldi's mean, square transform and psi of one dimension, found {found}")
        if not (psi >= 0).all() or not np.linalg.cond(transform) < 1 / np.finfo(np.float64).eps:
            raise InputError("expected Kaldi's psi to be at least 0 and its transform invertible")
        back = np.linalg.inv(transform)
        plda = cls(estimator="kaldi", enrolment=enrolment, normalise_length=normalise_length)
        plda.mean_, plda.between_, plda.within_ = mean, (back * psi) @ back.T, back @ back.T
        order = np.argsort(-psi, kind="stable")
        plda.transform_, plda.psi_ = transform[order], psi[order]
        return plda

    def to_kaldi(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, transform and psi, as Kaldi's `Plda` object has them.

        Raises:
            InputError: before `fit`, or where embeddings have directions without variance: Kaldi's transform is
                square.
        """
        model = self.model_
        rank, dim = self.transform_.shape
        if rank < dim:
            raise InputError(f"Kaldi's PLDA needs variance in all {dim} dimensions, found {rank}: project first")
        return model.mean, self.transform_, self.psi_
