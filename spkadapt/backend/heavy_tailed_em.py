"""Variational EM for heavy-tailed PLDA: y ~ N(mean, between), λ ~ Gamma(ν/2, ν/2), x | y, λ ~ N(y, within/λ).

The posterior is taken to be q(y) Π q(λ) (Kenny, 2010; Silnova et al., 2018). Each part is then in closed form: in
the basis T of `simultaneous_diagonalise`, where within = I, between = diag(ψ) and z = T(x − mean) of D dimensions,

    q(y) = N(ψ Σ λ̄z / (1 + ψ Σ λ̄), ψ / (1 + ψ Σ λ̄))      in each of the d dimensions with ψ > 0 by itself,
    q(λ) = Gamma((ν + D)/2, (ν + δ)/2),   δ = E‖z − y‖²,   of mean λ̄ = (ν + D)/(ν + δ).

With q(λ) at its best, the bound on the log-likelihood is Σ log t(δ) − Σ KL(q(y) ‖ p(y)), t being the density of a
Student-t variable at squared distance δ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from spkadapt.backend.covariance import TwoCovariance, simultaneous_diagonalise, sum_by_class
from spkadapt.backend.plda_em import floor_within
from spkadapt.backend.plda_scoring import LEAST_PSI


@dataclass(frozen=True, eq=False)
class Posterior:
    """q(y) of every speaker, in the basis T.

    Shape:
        means, variances: `(num_speakers, speaker_dim)`
    """

    means: np.ndarray
    variances: np.ndarray


def log_student(distances: np.ndarray, dim: int, degrees_of_freedom: float) -> np.ndarray:
    """The log-density of a Student-t variable with the identity for scale, at squared distances from its mean."""
    nu = degrees_of_freedom
    if np.isinf(nu):
        return -(dim * np.log(2 * np.pi) + distances) / 2
    constant = gammaln((nu + dim) / 2) - gammaln(nu / 2) - dim / 2 * np.log(nu * np.pi)
    return constant - (nu + dim) / 2 * np.log1p(distances / nu)


def infer_speakers(z: np.ndarray, numbers: np.ndarray, weights: np.ndarray, psi: np.ndarray) -> Posterior:
    """q(y), given the mean λ̄ of every q(λ).

    Shape:
        z: `(num_embeddings, dim)`
        numbers: `(num_embeddings,)`, the speaker of each, from 0
        weights: `(num_embeddings,)`
        psi: `(speaker_dim,)`
    """
    totals = np.bincount(numbers, weights)
    sums = sum_by_class(z[:, : len(psi)] * weights[:, None], numbers, len(totals))
    variances = psi / (1 + totals[:, None] * psi)
    return Posterior(variances * sums, variances)


def measure_distances(z: np.ndarray, numbers: np.ndarray, speakers: Posterior) -> np.ndarray:
    """δ = E‖z − y‖² of every embedding, `(num_embeddings,)`."""
    speaker_dim = speakers.means.shape[1]
    distances = np.square(z[:, :speaker_dim] - speakers.means[numbers]).sum(axis=1)
    distances += np.square(z[:, speaker_dim:]).sum(axis=1)
    return distances + speakers.variances.sum(axis=1)[numbers]


def measure_divergence(speakers: Posterior, psi: np.ndarray) -> float:
    """Σ KL(q(y) ‖ N(0, diag(ψ)))."""
    ratios = speakers.variances / psi
    return float((speakers.means**2 / psi + ratios - 1 - np.log(ratios)).sum() / 2)


def maximise(z: np.ndarray, numbers: np.ndarray, weights: np.ndarray, speakers: Posterior) -> TwoCovariance:
    """The best model for this posterior, in the basis T.

    Embeddings are regressed on [y, 1], each with its weight λ̄; then the model moves so that y has the mean and
    covariance of its posterior, which climbs faster than to leave them (minimum divergence; Brümmer, 2010).
    """
    means = speakers.means
    totals = np.bincount(numbers, weights)
    weighted = z * weights[:, None]
    regressors = np.hstack([means, np.ones((len(means), 1))])
    second = (regressors * totals[:, None]).T @ regressors
    second[np.diag_indices(means.shape[1])] += totals @ speakers.variances
    first = regressors.T @ sum_by_class(weighted, numbers, len(totals))
    coefficients = np.linalg.solve(second, first)
    within = weighted.T @ z - first.T @ coefficients
    loadings, constant = coefficients[:-1].T, coefficients[-1]

    mean = means.mean(axis=0)
    spread = (means - mean).T @ (means - mean) / len(means) + np.diag(speakers.variances.mean(axis=0))
    return TwoCovariance(
        constant + loadings @ mean, loadings @ spread @ loadings.T, (within + within.T) / 2 / len(z)
    )


def reduce_rank(model: TwoCovariance, speaker_dim: int) -> TwoCovariance:
    """The model whose `between` keeps only the dimensions in which it most exceeds `within`."""
    transform, psi = simultaneous_diagonalise(model.within, model.between)
    back = model.within @ transform[:speaker_dim].T
    return TwoCovariance(model.mean, (back * np.maximum(psi[:speaker_dim], 0)) @ back.T, model.within)


def fit_heavy_tailed(
    embeddings: np.ndarray,
    numbers: np.ndarray,
    start: TwoCovariance,
    *,
    speaker_dim: int,
    degrees_of_freedom: float,
    num_iterations: int,
    floor: float,
) -> tuple[TwoCovariance, np.ndarray]:
    """A model that locally maximises the bound, and the bound in nats on the way, which never falls.

    Args:
        start: whose `between` has a rank of at most `speaker_dim`, and whose `within` respects `floor`.
        floor: eigenvalues of `within` below it are raised to it, as in `plda_em.step`.

    Shape:
        embeddings: `(num_embeddings, dim)`
        numbers: `(num_embeddings,)`, the speaker of each, from 0
        returns a model and `(num_iterations + 1,)`
    """
    dim, nu = embeddings.shape[1], degrees_of_freedom
    model, weights, bounds = start, np.ones(len(embeddings)), []
    for iteration in range(num_iterations + 1):
        transform, psi = simultaneous_diagonalise(model.within, model.between)
        psi = psi[:speaker_dim][psi[:speaker_dim] > LEAST_PSI]
        z = (embeddings - model.mean) @ transform.T
        speakers = infer_speakers(z, numbers, weights, psi)
        distances = measure_distances(z, numbers, speakers)
        density = len(z) * np.linalg.slogdet(transform)[1] + log_student(distances, dim, nu).sum()
        bounds.append(density - measure_divergence(speakers, psi))
        if iteration == num_iterations:
            break
        if not np.isinf(nu):
            weights = (nu + dim) / (nu + distances)
        back = model.within @ transform.T  # T⁻¹, as T within Tᵀ = I
        best = maximise(z, numbers, weights, speakers)
        within = floor_within(back @ best.within @ back.T, floor)
        model = TwoCovariance(model.mean + back @ best.mean, back @ best.between @ back.T, within)
    return model, np.array(bounds)
