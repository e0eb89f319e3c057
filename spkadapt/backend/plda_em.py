"""Maximum likelihood for the two-covariance model y ~ N(μ, B), x | y ~ N(y, W): the likelihood, and EM steps.

Every step begins in the basis T of `simultaneous_diagonalise`, where W is the identity and B = diag(ψ): a class of
n embeddings with mean m, z = T(m − μ), then has the posterior

    y | x₁ … xₙ ~ N(nψ z / (1 + nψ), ψ / (1 + nψ))      in each dimension by itself,

so that classes of any number of sizes cost one matrix product, and no inverse for each size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spkadapt.backend.covariance import ClassStatistics, TwoCovariance, simultaneous_diagonalise, whiten_range
from spkadapt.errors import InputError, suggest

# A start with a between-class share of zero could never leave it.
LEAST_START = 1e-2


def check_settings(estimator: str, estimators: Sequence[str], num_iterations: int, floor: float) -> None:
    """Refuse settings that no fit can use.

    Raises:
        InputError: an estimator that is none of `estimators`, a negative number of iterations, or a floor that is
            not between 0 and 1.
    """
    if estimator not in estimators:
        raise InputError(f'no estimator "{estimator}": {suggest(estimator, estimators)}')
    if num_iterations < 0 or not 0 < floor < 1:
        found = f"num_iterations {num_iterations} and floor {floor}"
        raise InputError(f"expected num_iterations of at least 0 and a floor between 0 and 1, found {found}")


def log_likelihood(statistics: ClassStatistics, mean: np.ndarray, transform: np.ndarray, psi: np.ndarray) -> float:
    """log p(all embeddings | classes), the exact joint density, in nats.

    The n embeddings of a class, rotated so that the first becomes √n times their mean, are independent: the first
    ~ N(√n μ, W + nB), the others ~ N(0, W). In the basis T that is

        log p = N log|T| − ½ [N dim log 2π + tr(T S Tᵀ) + Σₖ Σ_d (log(1 + nₖψ_d) + nₖ z_kd² / (1 + nₖψ_d))]

    over N embeddings with within-class scatter S. Where T has fewer rows than columns, it is the density in the
    subspace of T's rows.

    Shape:
        mean: `(dim,)`
        transform: T, `(rank, dim)`
        psi: `(rank,)`
    """
    counts = statistics.counts[:, None]
    z = (statistics.means - mean) @ transform.T
    growth = 1 + counts * psi
    log_determinant = np.linalg.slogdet(transform @ transform.T)[1] / 2
    scatter = np.einsum("rd,de,re->", transform, statistics.scatter, transform, optimize=True)
    constant = statistics.num_embeddings * (len(psi) * np.log(2 * np.pi) - 2 * log_determinant)
    return float(-(constant + scatter + np.log(growth).sum() + (counts * z**2 / growth).sum()) / 2)


def step(statistics: ClassStatistics, model: TwoCovariance, *, update_mean: bool, floor: float) -> TwoCovariance:
    """One step of expectation and maximisation; the likelihood never falls.

    With w and v the posterior means and variances of the classes, in the basis T,

        B ← Σₖ (wₖwₖᵀ + vₖ) / num_classes      W ← (S + Σₖ nₖ ((zₖ − wₖ)(zₖ − wₖ)ᵀ + vₖ)) / num_embeddings

    Args:
        update_mean: first move the mean to the best for these covariances, each class mean weighted by its
            precision (B + W/n)⁻¹; else it stays.
        floor: eigenvalues of W below it are raised to it, which is the exact maximum under W ⪰ floor · I: without
            one the likelihood has no bound where a direction varies between classes but not within them.

    Shape:
        model's `within`: positive definite
    """
    transform, psi = simultaneous_diagonalise(model.within, model.between)
    psi = np.maximum(psi, 0)
    counts = statistics.counts[:, None]
    back = model.within @ transform.T  # T⁻¹, as T W Tᵀ = I
    z = (statistics.means - model.mean) @ transform.T
    growth = 1 + counts * psi
    mean = model.mean
    if update_mean:
        shift = (counts / growth * z).sum(axis=0) / (counts / growth).sum(axis=0)
        z = z - shift
        mean = mean + back @ shift
    variances = psi / growth
    posterior = counts * variances * z
    rest = np.sqrt(counts) * (z - posterior)

    between = posterior.T @ posterior / len(counts) + np.diag(variances.mean(axis=0))
    within = (
        rest.T @ rest + np.diag((counts * variances).sum(axis=0)) + transform @ statistics.scatter @ transform.T
    )
    between, within = back @ between @ back.T, back @ within @ back.T / statistics.num_embeddings
    return TwoCovariance(mean, between, floor_within(within, floor) if floor else within)


def floor_within(within: np.ndarray, floor: float) -> np.ndarray:
    """`within` with eigenvalues of at least `floor`; itself where none is below."""
    try:
        np.linalg.cholesky(
            within - floor * np.eye(len(within))
        )  # exists where all are above: cheaper than they are
    except np.linalg.LinAlgError:
        pass
    else:
        return within
    eigenvalues, vectors = np.linalg.eigh(within)
    return (vectors * np.maximum(eigenvalues, floor)) @ vectors.T


def match_moments(statistics: ClassStatistics, floor: float) -> TwoCovariance:
    """The model whose expected scatters are those seen (Searle, Casella & McCulloch, 1992, ch. 4): a start for EM.

    E[S_within] = (N − K) W and E[S_between] = (K − 1) W + (N − Σn²/N) B, for N embeddings in K classes. B so found
    may have negative eigenvalues; relative to W, those below `LEAST_START` are raised to it.
    """
    num_embeddings, num_classes = statistics.num_embeddings, len(statistics.counts)
    within = floor_within(statistics.scatter / (num_embeddings - num_classes), floor)
    effective = num_embeddings - (statistics.counts**2).sum() / num_embeddings
    between = (num_embeddings * statistics.between - (num_classes - 1) * within) / effective
    transform, psi = simultaneous_diagonalise(within, between)
    back = within @ transform.T
    return TwoCovariance(statistics.mean, (back * np.maximum(psi, LEAST_START)) @ back.T, within)


def fit_two_covariance(statistics: ClassStatistics, num_iterations: int, floor: float) -> TwoCovariance:
    """Mean, between- and within-class covariance of maximum likelihood, by `num_iterations` steps of EM.

    It works in the basis in which the total covariance is the identity, so that the result moves with any
    invertible linear map of the embeddings, and `floor` is the least share of the variance in any direction that
    is within classes. Directions without variance are left out there, and have none in the result.

    Shape:
        statistics: some class has two or more embeddings
    """
    whiten, colour = whiten_range(statistics.total)
    whitened = statistics.project(whiten, origin=statistics.mean)
    model = match_moments(whitened, floor)
    for _ in range(num_iterations):
        model = step(whitened, model, update_mean=True, floor=floor)
    mean = statistics.mean + colour @ model.mean
    return TwoCovariance(mean, colour @ model.between @ colour.T, colour @ model.within @ colour.T)


def fit_as_kaldi(statistics: ClassStatistics, num_iterations: int) -> TwoCovariance:
    """What Kaldi's `ivector-compute-plda` finds: the same steps, from other beginnings.

    Both covariances start from the identity, whatever the scale of the embeddings, and the mean is that of the
    class means, each counted once.

    Shape:
        statistics: some class has two or more embeddings
    """
    identity = np.eye(statistics.means.shape[1])
    model = TwoCovariance(statistics.means.mean(axis=0), identity, identity)
    for _ in range(num_iterations):
        model = step(statistics, model, update_mean=False, floor=0.0)
    return model
