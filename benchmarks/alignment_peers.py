"""What others offer in the place of an alignment loss, and the memory that each takes.

Direct forms hold the n × n × d tensor of differences, as TLlib's kernels do (which form it anew for each of five;
here it is formed once). The rest are the losses of pytorch-adapt, skada and POT; one that is not installed is left
out. Sizes of kernels' mixtures, projections and iterations are ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spkadapt.align.mmd import BANDWIDTH_MULTIPLES

DIM = 512
NUM_CLASSES = 64
NUM_PROJECTIONS = 128


@dataclass(frozen=True, eq=False)
class Batch:
    """Embeddings of both domains, which want gradients, and what some losses know besides."""

    source: Tensor
    target_domain: Tensor
    source_classes: Tensor
    target_recordings: Tensor
    source_probabilities: Tensor
    target_probabilities: Tensor

    def rows(self) -> Tensor:
        """Of both domains, `(2 * num_rows, DIM)`."""
        return torch.cat([self.source, self.target_domain])


Loss = Callable[[Batch], Tensor]


def make_batch(num_rows: int) -> Batch:
    """`num_rows` a domain, the target domain's shifted a little; about eight rows a recording."""
    generator = torch.Generator().manual_seed(0)
    source, target_domain = torch.randn(2, num_rows, DIM, generator=generator)
    logits = torch.randn(2, num_rows, NUM_CLASSES, generator=generator)
    return Batch(
        source.requires_grad_(),
        (target_domain + 0.1).requires_grad_(),
        torch.randint(NUM_CLASSES, (num_rows,), generator=generator),
        torch.arange(num_rows) // 8,
        *logits.softmax(dim=2),
    )


@dataclass(frozen=True)
class Peer:
    """A loss beside ours.

    Attributes:
        name: whose it is.
        loss: None where it is not installed.
        matrices: how many n × n matrices of float32 forward and backward hold at their peak, as measured.
    """

    name: str
    loss: Loss | None
    matrices: float = 0

    def num_bytes(self, num_rows: int) -> float:
        """What it needs, but for memory that grows as the rows do."""
        return 4 * self.matrices * num_rows**2


def direct(loss: Loss) -> Peer:
    """Four tensors of the size of all differences."""
    return Peer("direct n×n×d", loss, 4 * 2 * 2 * DIM)


def direct_distances(rows: Tensor) -> Tensor:
    return (rows[:, None] - rows[None]).square().sum(dim=2)


def direct_kernel(rows: Tensor) -> Tensor:
    distances = direct_distances(rows)
    found = distances.detach()
    median = found[found > 0].median()
    kernels = [torch.exp(-distances / (median * multiple)) for multiple in BANDWIDTH_MULTIPLES]
    return torch.stack(kernels).mean(dim=0)


def two_sample_mean(kernel: Tensor) -> Tensor:
    n = len(kernel) // 2
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def direct_mmd(batch: Batch) -> Tensor:
    return two_sample_mean(direct_kernel(batch.rows()))


def direct_energy(batch: Batch) -> Tensor:
    return two_sample_mean(-(direct_distances(batch.rows()) + 1e-12).sqrt())


def direct_joint_mmd(batch: Batch) -> Tensor:
    probabilities = torch.cat([batch.source_probabilities, batch.target_probabilities])
    return two_sample_mean(direct_kernel(batch.rows()) * direct_kernel(probabilities))


def direct_lmmd(batch: Batch) -> Tensor:
    ones = F.one_hot(batch.source_classes, NUM_CLASSES).float()
    soft = batch.target_probabilities
    shares = torch.cat([ones / ones.sum(dim=0).clamp_min(1), -soft / soft.sum(dim=0)])
    return (direct_kernel(batch.rows()) * (shares @ shares.T)).sum() / NUM_CLASSES


def pytorch_adapt_peers() -> dict[str, Peer]:
    """Its MMD and joint MMD (unbiased), CORAL, spectral penalty and sliced distance."""
    # The package's first import fails where its torchmetrics, which wants setuptools < 81, does. What is used here
    # stands before that and stays loaded.
    with suppress(ImportError):
        importlib.import_module("pytorch_adapt.layers")
    scales = torch.tensor([1 / multiple for multiple in BANDWIDTH_MULTIPLES])
    mmd = _make("pytorch_adapt.layers.mmd_loss", "MMDLoss", kernel_scales=scales, mmd_type="quadratic")
    coral = _make("pytorch_adapt.layers.coral_loss", "CORALLoss")
    spectral = _make("pytorch_adapt.layers.batch_spectral_loss", "BatchSpectralLoss")
    sliced = _make("pytorch_adapt.layers.sliced_wasserstein", "SlicedWasserstein", m=NUM_PROJECTIONS)
    losses: dict[str, tuple[Any, Loss, float]] = {
        "MMD": (mmd, lambda b: mmd(b.source, b.target_domain), 30),
        "JMMD": (
            mmd,
            lambda b: mmd([b.source, b.source_probabilities], [b.target_domain, b.target_probabilities]),
            38,
        ),
        "CORAL": (coral, lambda b: coral(b.source, b.target_domain), 0),
        "BSP": (spectral, lambda b: spectral(b.source) + spectral(b.target_domain), 0),
        "sliced Wasserstein": (sliced, lambda b: sliced(b.source, b.target_domain), 0),
    }
    return {name: Peer("pytorch-adapt", made and loss, count) for name, (made, loss, count) in losses.items()}


def skada_peers() -> dict[str, Peer]:
    """Its deep CORAL, and its DAN, whose kernels are of the distances and not their squares."""
    coral, dan = _find("skada.deep.losses", "deepcoral_loss"), _find("skada.deep.losses", "dan_loss")
    # Distances of 512 unit normals are about 32.
    bandwidths = [32 * multiple for multiple in BANDWIDTH_MULTIPLES]
    return {
        "MMD": Peer("skada", dan and (lambda b: dan(b.source, b.target_domain, bandwidths)), 28),
        "CORAL": Peer("skada", coral and (lambda b: coral(b.source, b.target_domain))),
    }


def pot_peers() -> dict[str, Peer]:
    """Its sliced distance; its max-sliced one, the best of random directions without an ascent; its Sinkhorn.

    Sinkhorn's is the sharp divergence, of the costs without the entropy, differentiated through the iterations.
    """
    sliced = _find("ot", "sliced_wasserstein_distance")
    max_sliced = _find("ot", "max_sliced_wasserstein_distance")
    sinkhorn = _find("ot.bregman", "empirical_sinkhorn_divergence")

    def sinkhorn_like_ours(batch: Batch) -> Tensor:
        source, target_domain = batch.source.detach(), batch.target_domain.detach()
        squares = [rows.square().sum(dim=1).mean() for rows in (source, target_domain)]
        mean_cost = squares[0] + squares[1] - 2 * source.mean(dim=0) @ target_domain.mean(dim=0)
        options = {
            "numIterMax": 100,
            "stopThr": 1e-3 / len(source) ** 0.5,  # of the root of the sum of squares of what we take the sum of
            "warn": False,
        }
        return sinkhorn(batch.source, batch.target_domain, 0.2 * mean_cost.item(), **options)

    def of_projections(loss: Any) -> Loss | None:
        return loss and (lambda b: loss(b.source, b.target_domain, n_projections=NUM_PROJECTIONS))

    return {
        "sliced Wasserstein": Peer("POT", of_projections(sliced)),
        "max-sliced Wasserstein": Peer("POT", of_projections(max_sliced)),
        "Sinkhorn": Peer("POT", sinkhorn and sinkhorn_like_ours, 22),
    }


def make_peers() -> dict[str, list[Peer]]:
    """Those of each loss, by its name in `alignment`."""
    peers = {
        "MMD": [direct(direct_mmd)],
        "energy distance": [direct(direct_energy)],
        "LMMD": [direct(direct_lmmd)],
        "JMMD": [direct(direct_joint_mmd)],
    }
    for found in (pytorch_adapt_peers(), skada_peers(), pot_peers()):
        for name, peer in found.items():
            peers.setdefault(name, []).append(peer)
    return peers


def _find(module: str, name: str) -> Any:
    """An attribute of a module; None where the module, or what it needs, is not installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None


def _make(module: str, name: str, **options: object) -> Any:
    made = _find(module, name)
    return None if made is None else made(**options)
