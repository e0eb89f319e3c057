"""Aligning with a source domain of which only the moments are left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spkadapt.align.directions import check_batch
from spkadapt.align.linear_algebra import covariance, covariance_distance
from spkadapt.errors import InputError


class SourceMomentsLoss(nn.Module):
    """Distance of the target domain's moments from the source's, which were kept (TTT++, Liu et al. 2021).

        L = ‖μ_s − μ_t‖² / d + ‖C_s − C_t‖²_F / (4 d²)

    with the unbiased covariances; the second term is `coral_loss`'s. `add` takes in the source's embeddings, batch
    by batch, before they are given away; the moments are pooled exactly, in float64, and are in `state_dict`. For
    source-free adaptation, which has a model and these moments, and no recording of the source domain. Computed in
    at least float32 whatever the input and autocast.

    Args:
        dim: dimension of the embeddings.

    Raises:
        InputError: `dim` is less than one.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"dim of the source moments is {dim}; expected at least 1")
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(dim, dim, dtype=torch.float64))

    @torch.no_grad()
    def add(self, source: Tensor) -> None:
        """Take in embeddings of the source domain, `(num_source, dim)` (Chan et al. 1979).

        Raises:
            InputError: embeddings that are not such a batch.
        """
        rows = self._check(source, "source").double()
        mean = rows.mean(dim=0)
        centred, shift = rows - mean, mean - self.mean
        total = self.count + len(rows)
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * self.count * len(rows) / total
        self.mean += shift * len(rows) / total
        self.count.copy_(total)

    def forward(self, target_domain: Tensor) -> Tensor:
        """`(num_target, dim)` → scalar loss.

        Raises:
            InputError: embeddings that are not such a batch, or fewer than two of the source were taken in.
        """
        target_domain = self._check(target_domain, "target_domain")
        if self.count < 2:
            raise InputError(f"the source moments are of {int(self.count)} embeddings; add at least two first")
        with torch.autocast(target_domain.device.type, enabled=False):
            dtype = target_domain.dtype
            source_mean, source_covariance = self.mean.to(dtype), (self.scatter / (self.count - 1)).to(dtype)
            means = (target_domain.mean(dim=0) - source_mean).square().mean()
            return means + covariance_distance(covariance(target_domain), source_covariance)

    def _check(self, rows: Tensor, name: str) -> Tensor:
        rows = check_batch(rows, name)
        if rows.shape[1] != len(self.mean):
            raise InputError(f"{name} has dim {rows.shape[1]}; the source moments have {len(self.mean)}")
        return rows
