"""Losses of class posteriors in the target domain alone: confusion, entropy, mutual information.

The classes are the source domain's: for speakers they are other people than those of the target domain, and the
losses ask that each crop sound like few of them rather than like all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.directions import check_batch, check_positive


def minimum_class_confusion_loss(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """How far the posteriors confuse the classes (minimum class confusion, Jin et al. 2020, equations 2 to 7).

        y_i = softmax(z_i / T),   w_i = n (1 + exp(−H(y_i))) / Σ_i' (1 + exp(−H(y_i')))
        C_jk = Σ_i y_ij w_i y_ik,   L = 1/K Σ_j Σ_{k ≠ j} C_jk / Σ_k' C_jk'

    Since each y_i sums to one, class j's term is 1 − Σ_i w_i y_ij² / Σ_i w_i y_ij: the K × K matrix is never
    formed, memory is O(n K), and sums of logarithms keep a class that no row is likely to be of from dividing by
    zero. The gradient takes the weights w for constants, as the authors' program does. Computed in at least
    float32 whatever the input and autocast.

    Shape: `(batch, num_classes)` → scalar, from 0 (no confusion) to 1 − 1/K

    Raises:
        InputError: logits that are not such a batch, or a `temperature` that is not positive.
    """
    logits = check_batch(logits, "logits")
    check_positive(temperature, "temperature")
    log_posteriors = F.log_softmax(logits / temperature, dim=1)
    log_weights = F.softplus(-_entropies(log_posteriors.detach()))[:, None]  # their common scale cancels
    total = torch.logsumexp(log_weights + log_posteriors, dim=0)
    agreed = torch.logsumexp(log_weights + 2 * log_posteriors, dim=0)
    return -torch.expm1(agreed - total).mean()


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy of the posteriors, in nats (entropy minimisation, Grandvalet & Bengio 2005).

        L = mean over i of H(softmax(z_i))

    Alone it can be made zero by giving all rows one class; see `information_maximisation_loss`. Computed in at
    least float32 whatever the input and autocast.

    Shape: `(batch, num_classes)` → scalar

    Raises:
        InputError: logits that are not such a batch.
    """
    return _entropies(F.log_softmax(check_batch(logits, "logits"), dim=1)).mean()


def information_maximisation_loss(logits: Tensor) -> Tensor:
    """Minus the mutual information of row and class, in nats (SHOT, Liang, Hu & Feng 2020, equation 3).

        L = mean over i of H(softmax(z_i)) − H(mean over i of softmax(z_i))

    Each row should be sure, and the rows of different classes: the second term keeps the first from giving all
    rows one class. Needs no source data, hence for source-free adaptation. From −log K to 0. Computed in at least
    float32 whatever the input and autocast.

    Shape: `(batch, num_classes)` → scalar

    Raises:
        InputError: logits that are not such a batch.
    """
    log_posteriors = F.log_softmax(check_batch(logits, "logits"), dim=1)
    log_mean = torch.logsumexp(log_posteriors, dim=0, keepdim=True) - math.log(len(logits))
    return _entropies(log_posteriors).mean() - _entropies(log_mean).squeeze(0)


def _entropies(log_posteriors: Tensor) -> Tensor:
    """`(batch, num_classes)` → `(batch,)`."""
    return -(log_posteriors.exp() * log_posteriors).sum(dim=1)


class MinimumClassConfusionLoss(nn.Module):
    """`minimum_class_confusion_loss` as a module.

    Raises:
        InputError: `temperature` is not positive.
    """

    def __init__(self, temperature: float = 2.5) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """`(batch, num_classes)` → scalar loss."""
        return minimum_class_confusion_loss(logits, self.temperature)


class EntropyLoss(nn.Module):
    """`entropy_loss` as a module."""

    def forward(self, logits: Tensor) -> Tensor:
        """`(batch, num_classes)` → scalar loss."""
        return entropy_loss(logits)


class InformationMaximisationLoss(nn.Module):
    """`information_maximisation_loss` as a module."""

    def forward(self, logits: Tensor) -> Tensor:
        """`(batch, num_classes)` → scalar loss."""
        return information_maximisation_loss(logits)
