"""Penalties on singular values: of the embeddings of both domains, and of the target domain's predictions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spkadapt.align.classes import check_probabilities
from spkadapt.align.first_order import attach_gradient
from spkadapt.align.linear_algebra import symmetric_eigen
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


def batch_spectral_penalty(source: Tensor, target_domain: Tensor, num_values: int = 1) -> Tensor:
    """Batch spectral penalisation (BSP, Chen et al. 2019, equation 8).

        L = Σ_{i=1..k} σ_i(S)² + σ_i(T)²,   σ_i(X) the i-th largest singular value of the matrix of rows

    Beside an adversarial loss it keeps a few dominant directions, which transfer best, from burying those that
    tell classes apart; alone it aligns nothing. The rows are not centred, and the loss grows with their number, as
    in the paper.

    The gradient is 2 X V Vᵀ with V the k leading right singular vectors: that of the subspace, which exists also
    where singular values are equal, and not through the vectors of a decomposition, which does not. If the k-th
    equals the next it is a subgradient. The vectors are found in float64, from the smaller of X Xᵀ and Xᵀ X. There
    is no second derivative.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        num_values: k; where a batch has fewer singular values, all of them.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, or `num_values` is less
            than one.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    _check_num_values(num_values)
    with torch.autocast(source.device.type, enabled=False), torch.no_grad():
        parts = [_leading_part(batch, num_values) for batch in (source, target_domain)]
        # Of a projection P of rank k, ‖P X‖² is the sum of the k squares, and its derivative 2 P X.
        value = parts[0].square().sum() + parts[1].square().sum()
        gradients = [2 * part for part in parts]
    return attach_gradient("batch_spectral_penalty", value, [source, target_domain], gradients)


def _leading_part(batch: Tensor, num_values: int) -> Tensor:
    """The best approximation of rank `num_values` of the matrix of rows."""
    wide = batch.shape[0] < batch.shape[1]
    _, vectors = symmetric_eigen(batch @ batch.T if wide else batch.T @ batch)
    leading = vectors[:, -num_values:].to(batch.dtype)
    return leading @ (leading.T @ batch) if wide else (batch @ leading) @ leading.T


def _check_num_values(num_values: int) -> None:
    if num_values < 1:
        raise InputError(f"num_values of the batch spectral penalty is {num_values}; expected at least 1")


def batch_nuclear_norm_loss(probabilities: Tensor) -> Tensor:
    """Batch nuclear-norm maximisation (BNM, Cui et al. 2020, equation 10), of the target domain's predictions.

        L = −‖P‖_* / n,   ‖P‖_* the sum of the singular values of the matrix of probabilities

    Minimising it makes predictions certain, as an entropy would, and of many classes, which an entropy does not;
    it is at least −√(min(n, num_classes) / n). The gradient is −U Vᵀ / n over the singular vectors of values
    beyond rounding error; there is no second derivative. Computed in at least float32.

    Args:
        probabilities: P, `(batch, num_classes)`, of a softmax.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: `probabilities` is not `(batch, num_classes)`, is empty, or a row does not sum to one.
        RuntimeError: on the way back under `create_graph`.
    """
    check_probabilities("probabilities", probabilities)
    matrix = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    with torch.autocast(matrix.device.type, enabled=False), torch.no_grad():
        if matrix.isfinite().all():
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            rounding = values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
            value, gradient = -values.sum() / len(matrix), -(left * (values > rounding)) @ right / len(matrix)
        else:  # a diverged batch shows in the loss instead of stopping the run in LAPACK
            value, gradient = matrix.new_full((), torch.nan), torch.full_like(matrix, torch.nan)
    return attach_gradient("batch_nuclear_norm_loss", value, [matrix], [gradient])


class BatchSpectralPenalty(nn.Module):
    """`batch_spectral_penalty` as a module; the argument is its own.

    Raises:
        InputError: `num_values` is less than one.
    """

    def __init__(self, num_values: int = 1) -> None:
        super().__init__()
        _check_num_values(num_values)
        self.num_values = num_values

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return batch_spectral_penalty(source, target_domain, self.num_values)


class BatchNuclearNormLoss(nn.Module):
    """`batch_nuclear_norm_loss` as a module."""

    def forward(self, probabilities: Tensor) -> Tensor:
        """`(batch, num_classes)` → scalar loss."""
        return batch_nuclear_norm_loss(probabilities)
