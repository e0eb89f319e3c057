"""Discrepancies that know classes or several layers: class by class (LMMD), and of layers jointly (JMMD)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from spkadapt.align.classes import check_classes, check_probabilities
from spkadapt.align.kernel_blocks import gaussian_mixture, kernel_sum, two_sample_weights
from spkadapt.align.mmd import centred_rows, check_bandwidths, choose_bandwidths
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


def lmmd_loss(
    source: Tensor,
    target_domain: Tensor,
    source_classes: Tensor,
    target_probabilities: Tensor,
    bandwidths: Sequence[float] | None = None,
) -> Tensor:
    """Local maximum mean discrepancy: the MMD of each class, averaged (DSAN, Zhu et al. 2021, equation 6).

        L = mean over c of ‖Σ_i u_ic φ(s_i) − Σ_j v_jc φ(t_j)‖²,   u_ic = [y_i = c] / n_c,   v_jc = p_jc / Σ_j p_jc

    with φ the feature map of the kernel of `mmd_loss`. The mean runs over the classes in both batches, as in the
    authors' code: those of a source row that are the most probable class of a target row. Without one the loss is
    zero and so is its gradient. With one-hot probabilities this is the class-conditional MMD of pseudo-labels.

    The probabilities are constants, no gradient flows into them. Blocks, precision and the missing second
    derivative are as in `mmd_loss`; memory grows as rows · (dim + num_classes).

    Args:
        source: `(num_source, dim)`.
        target_domain: `(num_target, dim)`.
        source_classes: `(num_source,)`, integers.
        target_probabilities: p, `(num_target, num_classes)`, such as the classifier's softmax.
        bandwidths: as in `mmd_loss`.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: a batch is not `(batch, dim)` or is empty, the two differ in `dim`, a class or a probability is
            missing or out of range, or a bandwidth is not positive.
        RuntimeError: on the way back under `create_graph`.
    """
    source, target_domain = check_pair(source, target_domain)
    check_bandwidths(bandwidths)
    check_probabilities("target_probabilities", target_probabilities)
    if len(target_probabilities) != len(target_domain):
        raise InputError(
            f"target_probabilities has {len(target_probabilities)} rows; expected {len(target_domain)}, "
            "as target_domain"
        )
    check_classes("source_classes", source_classes, len(source), target_probabilities.shape[1])
    with torch.autocast(source.device.type, enabled=False):
        rows = centred_rows(source, target_domain)
        shares = _class_shares(source_classes, target_probabilities.detach().to(rows.dtype))
        kernel = gaussian_mixture(choose_bandwidths(rows, bandwidths))
        return kernel_sum("lmmd_loss", [rows], [kernel], len(source), lambda i, j: shares[i] @ shares[j].T)


def _class_shares(source_classes: Tensor, probabilities: Tensor) -> Tensor:
    """What each row counts in each class found in both batches, `(num_source + num_target, num_common)`.

    The target domain's are negative, and all are over the square root of the number of classes: the weight of a
    pair of rows in the loss is the inner product of theirs.
    """
    is_source = torch.zeros_like(probabilities[0], dtype=torch.bool).index_fill_(0, source_classes.long(), True)
    is_target = torch.zeros_like(is_source).index_fill_(0, probabilities.argmax(dim=1), True)
    common = (is_source & is_target).nonzero().squeeze(1)
    ones = (source_classes[:, None] == common).to(probabilities.dtype)
    soft = probabilities[:, common]
    shares = torch.cat([ones / ones.sum(dim=0), -soft / soft.sum(dim=0)])
    return shares / max(len(common), 1) ** 0.5


def joint_mmd_loss(
    sources: Sequence[Tensor],
    target_domains: Sequence[Tensor],
    bandwidths: Sequence[Sequence[float] | None] | None = None,
) -> Tensor:
    """Joint maximum mean discrepancy of several layers (JAN, Long et al. 2017, equation 9).

        JMMD² = mean k(s, s') + mean k(t, t') − 2 mean k(s, t),   k(x, y) = Π over layers l of k_l(x^l, y^l)

    with the kernel of `mmd_loss` for each layer, say the embeddings and the classifier's probabilities: what is
    compared is how the layers go together, not each alone. The V-statistic; never negative but for rounding.
    Blocks, precision and the missing second derivative are as in `mmd_loss`.

    Args:
        sources: of each layer `(num_source, dim_l)`.
        target_domains: of each layer `(num_target, dim_l)`.
        bandwidths: of each layer, as in `mmd_loss`.

    Returns:
        The loss, a scalar.

    Raises:
        InputError: the numbers of layers differ or are zero, a batch is not `(batch, dim)` or is empty, the two of
            a layer differ in `dim`, the layers differ in rows, or a bandwidth is not positive.
        RuntimeError: on the way back under `create_graph`.
    """
    num_layers = len(sources)
    if not num_layers or len(target_domains) != num_layers:
        raise InputError(
            f"{num_layers} source and {len(target_domains)} target_domain layers; expected as many, at least one"
        )
    _check_layer_bandwidths(bandwidths, num_layers)
    pairs = [check_pair(*layer) for layer in zip(sources, target_domains, strict=True)]
    sizes = [(len(source), len(target_domain)) for source, target_domain in pairs]
    if len(set(sizes)) > 1:
        raise InputError(f"layers have (source, target_domain) rows {sizes}; expected the same rows in each")
    dtype = reduce(torch.promote_types, (source.dtype for source, _ in pairs))
    with torch.autocast(pairs[0][0].device.type, enabled=False):
        layers = [centred_rows(source.to(dtype), target_domain.to(dtype)) for source, target_domain in pairs]
        kernels = [
            gaussian_mixture(choose_bandwidths(rows, given))
            for rows, given in zip(layers, bandwidths or [None] * num_layers, strict=True)
        ]
        return kernel_sum("joint_mmd_loss", layers, kernels, sizes[0][0], two_sample_weights(*sizes[0]))


def _check_layer_bandwidths(bandwidths: Sequence[Sequence[float] | None] | None, num_layers: int) -> None:
    if bandwidths is None:
        return
    if len(bandwidths) != num_layers:
        raise InputError(f"bandwidths of {len(bandwidths)} layers; expected those of {num_layers}")
    for given in bandwidths:
        check_bandwidths(given)


class LmmdLoss(nn.Module):
    """`lmmd_loss` as a module; the argument is its own.

    Raises:
        InputError: a bandwidth is not positive.
    """

    def __init__(self, bandwidths: Sequence[float] | None = None) -> None:
        super().__init__()
        check_bandwidths(bandwidths)
        self.bandwidths = bandwidths

    def forward(
        self, source: Tensor, target_domain: Tensor, source_classes: Tensor, target_probabilities: Tensor
    ) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)`, `(num_source,)`, `(num_target, num_classes)` → scalar loss."""
        return lmmd_loss(source, target_domain, source_classes, target_probabilities, self.bandwidths)


class JointMmdLoss(nn.Module):
    """`joint_mmd_loss` as a module; the argument is its own.

    Raises:
        InputError: a bandwidth is not positive.
    """

    def __init__(self, bandwidths: Sequence[Sequence[float] | None] | None = None) -> None:
        super().__init__()
        _check_layer_bandwidths(bandwidths, len(bandwidths or ()))
        self.bandwidths = bandwidths

    def forward(self, sources: Sequence[Tensor], target_domains: Sequence[Tensor]) -> Tensor:
        """Of each layer `(num_source, dim_l)`, `(num_target, dim_l)` → scalar loss."""
        return joint_mmd_loss(sources, target_domains, self.bandwidths)
