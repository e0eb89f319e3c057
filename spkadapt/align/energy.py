"""The energy distance: how far apart two distributions are by the distances between their points alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spkadapt.align.kernel_blocks import PairKernel, kernel_sum, two_sample_weights
from spkadapt.align.mmd import centred_rows
from spkadapt.align.pair import check_pair


def energy_distance_loss(source: Tensor, target_domain: Tensor) -> Tensor:
    """Energy distance between two domains (Székely & Rizzo 2013, equation 1.4 and its V-statistic).

        E = 2 mean ‖s − t‖ − mean ‖s − s'‖ − mean ‖t − t'‖

    over all pairs, a row's with itself included: never negative but for rounding, and zero when the batches are
    equal. It has no bandwidth to choose, and equals the squared MMD with the kernel −‖x − y‖ (Sejdinovic et al.
    2013). The gradient of a distance has length one however near the points are; of coincident points it is zero
    by definition. Blocks, precision and the missing second derivative are as in `mmd_loss`.

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.

    Returns:
        The loss, a scalar, in the unit of the embeddings.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, or the two differ in `dim`.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        weights = two_sample_weights(len(source), len(target_domain))
        return kernel_sum("energy_distance_loss", [rows], [PairKernel(_negative_root)], len(source), weights)


def _negative_root(distances: Tensor) -> tuple[Tensor, Tensor]:
    """−√r and its derivative −1 / (2 √r), which is zero at r = 0."""
    root = distances.sqrt()
    return -root, (-0.5 / root).masked_fill_(root == 0, 0)


class EnergyDistanceLoss(nn.Module):
    """`energy_distance_loss` as a module."""

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss."""
        return energy_distance_loss(source, target_domain)
