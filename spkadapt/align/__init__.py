"""What pulls two domains together: losses between a batch of the source and one of the target domain.

Every loss takes `source (num_source, dim)` and `target_domain (num_target, dim)`, of unequal sizes if need be, and
gives a scalar. They are torch only and know nothing of audio or speakers. Half precision is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from spkadapt.align.adversarial import DomainAdversarialLoss, DomainClassifier, reverse_gradient
from spkadapt.align.coral import CoralLoss, coral_loss
from spkadapt.align.mmd import MmdLoss, mmd_loss

__all__ = [
    "ALIGNMENTS",
    "CoralLoss",
    "DomainAdversarialLoss",
    "DomainClassifier",
    "MmdLoss",
    "coral_loss",
    "mmd_loss",
    "reverse_gradient",
]

ALIGNMENTS: dict[str, Callable[[int], nn.Module]] = {
    "coral": lambda dim: CoralLoss(),
    "mmd": lambda dim: MmdLoss(),
    "dann": DomainAdversarialLoss,
}
"""A recipe's name of an alignment → what builds it for embeddings of a given dimension."""
