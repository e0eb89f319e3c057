"""Correlation alignment: bring the covariances of two domains together, as matrices or in their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spkadapt.align.first_order import attach_gradient
from spkadapt.align.linear_algebra import covariance, covariance_distance, symmetric_eigen
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


def coral_loss(source: Tensor, target_domain: Tensor) -> Tensor:
    """Squared distance between the covariances of two domains (Deep CORAL, Sun & Saenko 2016, equation 1).

        L = ‖C_s − C_t‖²_F / (4 d²)

    with the unbiased covariance C = Σ (x − x̄)(x − x̄)ᵀ / (n − 1); the covariance of a single row is zero. The
    means play no part: a constant shift between the domains costs nothing. Computed in at least float32 whatever
    the input and autocast; the gradient is finite everywhere and zero where the covariances agree.

    The covariances are formed as such even where n < d. The n × n Gram form ‖C_s‖² + ‖C_t‖² − 2 tr(C_s C_t) saves
    two milliseconds at n = 64, d = 512 on one CPU core, but is a difference of large numbers, which loses digits
    just where the domains come together.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, or the two differ in `dim`.
    """
    source, target_domain = check_pair(source, target_domain)
    with torch.autocast(source.device.type, enabled=False):
        return covariance_distance(covariance(source), covariance(target_domain))


def log_coral_loss(source: Tensor, target_domain: Tensor, regularisation: float = 1e-3) -> Tensor:
    """Squared log-Euclidean distance between the covariances of two domains (Log D-CORAL, Wang et al. 2017).

        L = ‖log(C_s + ε I) − log(C_t + ε I)‖²_F / (4 d²)

    with the covariances of `coral_loss` and the matrix logarithm. It follows the geometry of covariances: what
    counts is by which factor a variance differs, so that weak directions weigh as much as strong ones (Morerio et
    al. 2018, "Minimal-entropy correlation alignment"), and scaling or rotating both domains changes nothing. It
    wants more rows than dimensions: where there are fewer, ε alone speaks for the directions without rows.

    ε is `regularisation` times the mean variance of both domains, and differentiated with it. It is at least
    float64's rounding error of the mean square, so that constant features leave a loss of zero. The gradient
    through the logarithm is the Daleckii-Krein formula, finite also where eigenvalues are equal. The eigenvalues
    are found in float64, once for the value and the gradient. There is no second derivative.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        regularisation: ε relative to the mean variance.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or `regularisation` is not
            positive.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_regularisation(regularisation)
    with torch.autocast(source.device.type, enabled=False):
        first, second = covariance(source).double(), covariance(target_domain).double()
        mean_variance = (first.trace() + second.trace()) / (2 * len(first))
        mean_square = (source.detach().square().mean() + target_domain.detach().square().mean()) / 2
        smallest = torch.finfo(torch.float64).eps * mean_square.double() + 1e-100
        ridge = torch.maximum(regularisation * mean_variance, smallest) * torch.eye(len(first)).to(first)
        return _log_distance(first + ridge, second + ridge).to(source.dtype)


def _log_distance(first: Tensor, second: Tensor) -> Tensor:
    """‖log A − log B‖²_F / (4 d²) of two symmetric positive definite matrices, with its gradient."""
    (values_a, vectors_a), (values_b, vectors_b) = _positive_eigen(first), _positive_eigen(second)
    log_a, log_b = (vectors_a * values_a.log()) @ vectors_a.T, (vectors_b * values_b.log()) @ vectors_b.T
    in_log = (log_a - log_b) / (2 * len(first) ** 2)
    gradients = [_through_log(values_a, vectors_a, in_log), _through_log(values_b, vectors_b, -in_log)]
    return attach_gradient("log_coral_loss", covariance_distance(log_a, log_b), [first, second], gradients)


def _positive_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a positive definite matrix; what rounding left below zero is raised above it."""
    values, vectors = symmetric_eigen(matrix)
    return torch.maximum(values, values[-1] * len(values) * torch.finfo(values.dtype).eps), vectors


def _through_log(values: Tensor, vectors: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in A of a function whose gradient in log A is given (Daleckii & Krein 1965).

        G ↦ V (F ∘ Vᵀ G V) Vᵀ,   F_ij = (log λ_i − log λ_j) / (λ_i − λ_j),   F_ij = 1 / λ_i where they are equal

    With λ ≥ μ and r = λ / μ − 1, F = (log(1 + r) / r) / μ, which loses no digits where λ and μ are close.
    """
    larger, smaller = torch.maximum(values[:, None], values), torch.minimum(values[:, None], values)
    ratio = (larger - smaller) / smaller
    divided = torch.where(ratio == 0, 1.0, ratio.log1p() / ratio) / smaller
    return vectors @ (divided * (vectors.T @ gradient @ vectors)) @ vectors.T


def _check_regularisation(regularisation: float) -> None:
    if not 0 < regularisation < math.inf:
        raise InputError(f"regularisation of log-CORAL is {regularisation}; expected a positive, finite number")


class CoralLoss(nn.Module):
    """`coral_loss` as a module."""

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return coral_loss(source, target_domain)


class LogCoralLoss(nn.Module):
    """`log_coral_loss` as a module; the argument is its own.

    Raises:
        InputError: `regularisation` is not positive.
    """

    def __init__(self, regularisation: float = 1e-3) -> None:
        super().__init__()
        _check_regularisation(regularisation)
        self.regularisation = regularisation

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return log_coral_loss(source, target_domain, self.regularisation)
