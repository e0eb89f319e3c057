"""Random Fourier features: the maximum mean discrepancy as a distance between two mean vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spkadapt.align.first_order import attach_gradient, needs_gradient
from spkadapt.align.kernel_blocks import BLOCK_ROWS
from spkadapt.align.mmd import centred_rows, check_bandwidths, choose_bandwidths
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


def draw_frequencies(dim: int, num_frequencies: int, seed: int) -> Tensor:
    """Standard normal frequencies `(dim, num_frequencies)`, the same for a seed everywhere.

    Raises:
        InputError: a size is less than one.
    """
    for name, value in (("dim", dim), ("num_frequencies", num_frequencies)):
        if value < 1:
            raise InputError(f"{name} of the random features is {value}; expected at least 1")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dim, num_frequencies, generator=generator, dtype=torch.float32)


def random_feature_mmd_loss(
    source: Tensor,
    target_domain: Tensor,
    frequencies: Tensor,
    bandwidths: Sequence[float] | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy on random Fourier features (Rahimi & Recht 2007; Zhao & Meng 2015).

        MMD² ≈ ‖mean φ(s) − mean φ(t)‖²,   φ(x) = D^−½ (cos ω_j·x, sin ω_j·x)_{j=1..D},   ω_j = w_j √(2 / γ_j)

    This is the V-statistic of the kernel mean over j of cos(ω_j·(x − y)), whose expectation over w_j ~ N(0, I) is
    exp(−‖x − y‖² / γ) and whose standard deviation is at most (2 D)^−½. The frequencies take the bandwidths of
    `mmd_loss` in turn, so that the mixture has its kernel. The cost is n · dim · D, linear in the rows, in which
    that of `mmd_loss` is quadratic; the features are formed in blocks. Never negative, and zero when the batches
    are equal. The gradient takes the bandwidths as constants; there is no second derivative. Computed in at least
    float32 whatever the input and autocast.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        frequencies: w, `(dim, num_frequencies)`, drawn once (`draw_frequencies`).
        bandwidths: as in `mmd_loss`.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, the frequencies have
            another `dim` or are fewer than the bandwidths, or a bandwidth is not positive.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    check_bandwidths(bandwidths)
    if frequencies.ndim != 2 or len(frequencies) != source.shape[1]:
        raise InputError(
            f"frequencies have shape {tuple(frequencies.shape)}; expected ({source.shape[1]}, num_frequencies), "
            "the dim of the embeddings"
        )
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        gammas = choose_bandwidths(rows, bandwidths)
        num_frequencies = frequencies.shape[1]
        if num_frequencies < len(gammas):
            raise InputError(f"{num_frequencies} frequencies for {len(gammas)} bandwidths; expected one of each")
        turn = torch.arange(num_frequencies, device=rows.device) % len(gammas)
        return _mean_distance(rows, len(source), frequencies.detach().to(rows.dtype) * (2 / gammas[turn]).sqrt())


def _mean_distance(rows: Tensor, num_source: int, omega: Tensor) -> Tensor:
    """‖mean φ(s) − mean φ(t)‖² and its gradient, in blocks of rows: no feature of a whole batch is held.

    With c_j and s_j the differences of the mean cosines and sines, a source row's gradient is
    2 / (D n_s) Σ_j (s_j cos(ω_j·x) − c_j sin(ω_j·x)) ω_j.
    """
    source, target_domain = rows.detach().split([num_source, len(rows) - num_source])
    (cos_s, sin_s), (cos_t, sin_t) = _mean_waves(source, omega), _mean_waves(target_domain, omega)
    cosine, sine = cos_s - cos_t, sin_s - sin_t
    value = (cosine.square() + sine.square()).mean()
    if not needs_gradient(rows):
        return value
    halves = [
        _gradient_of_mean(source, omega, cosine, sine) / len(source),
        _gradient_of_mean(target_domain, omega, cosine, sine) / -len(target_domain),
    ]
    return attach_gradient("random_feature_mmd_loss", value, [rows], [torch.cat(halves)])


def _mean_waves(batch: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """The means over rows of cos(ω_j·x) and of sin(ω_j·x), each `(num_frequencies,)`."""
    cosine, sine = (omega.new_zeros(omega.shape[1]) for _ in range(2))
    for block in batch.split(BLOCK_ROWS):
        phases = block @ omega
        cosine += phases.cos().sum(dim=0)
        sine += phases.sin().sum(dim=0)
    return cosine / len(batch), sine / len(batch)


def _gradient_of_mean(batch: Tensor, omega: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """2 / D Σ_j (s_j cos(ω_j·x) − c_j sin(ω_j·x)) ω_j of each row x."""
    gradient = torch.empty_like(batch)
    for block, out in zip(batch.split(BLOCK_ROWS), gradient.split(BLOCK_ROWS), strict=True):
        phases = block @ omega
        torch.matmul(phases.cos() * sine - phases.sin() * cosine, omega.T, out=out)
    return gradient.mul_(2 / omega.shape[1])


class RandomFeatureMmdLoss(nn.Module):
    """`random_feature_mmd_loss` with frequencies drawn once from a seed; a buffer, saved with the model.

    Args:
        dim: dimension of the embeddings.
        num_frequencies: D; the features are twice as many.
        bandwidths: as in `mmd_loss`.
        seed: of the frequencies.

    Raises:
        InputError: a size is less than one, or a bandwidth is not positive.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        num_frequencies: int = 1024,
        bandwidths: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_bandwidths(bandwidths)
        self.register_buffer("frequencies", draw_frequencies(dim, num_frequencies, seed))
        self.bandwidths = bandwidths

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return random_feature_mmd_loss(source, target_domain, self.frequencies, self.bandwidths)
