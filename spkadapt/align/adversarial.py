"""Domain-adversarial training: features from which no classifier can tell the domain (Ganin & Lempitsky 2015).

Gradient reversal and the domain classifier live here, beside the loss that is made of them; `heads` holds the
speaker classifiers alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output * -ctx.scale, None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """`x` unchanged, of any shape; on the way back the gradient is multiplied by −`scale`.

    Whatever learns from the output descends its loss while whatever made `x` ascends it (Ganin & Lempitsky 2015).
    Can be differentiated any number of times.
    """
    return _ReverseGradient.apply(x, scale)


class DomainClassifier(nn.Module):
    """Tells the domain of an embedding: one hidden layer of rectified linear units, one logit.

    Args:
        dim: dimension of the embeddings.
        hidden_dim: number of hidden units.

    Raises:
        InputError: a dimension is less than one.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise InputError(f"{name} of the domain classifier is {value}; expected at least 1")
        self.hidden = nn.Linear(dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings `(batch, dim)` → logits `(batch,)` of belonging to the target domain."""
        return self.output(F.relu(self.hidden(embeddings))).squeeze(1)

    def slopes(self, embeddings: Tensor) -> Tensor:
        """The derivative of each logit in its own embedding, `(batch, dim)` → `(batch, dim)`.

        Written out, so that a loss of it needs no second backward pass, and can be had without a graph.
        """
        is_active = (self.hidden(embeddings) > 0).to(self.output.weight.dtype)
        return (is_active * self.output.weight) @ self.hidden.weight


def domain_cross_entropy(
    source_logits: Tensor,
    target_logits: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the logits of belonging to the target domain; each domain weighs half, whatever its size.

        L = ½ Σ_s w_s log(1 + exp(logit_s)) / Σ w_s + ½ Σ_t w_t log(1 + exp(−logit_t)) / Σ w_t

    Shape:
        source_logits, source_weights: `(num_source,)`; without weights, all rows weigh the same
        target_logits, target_weights: `(num_target,)`
        returns a scalar
    """
    sides = (F.softplus(source_logits), source_weights), (F.softplus(-target_logits), target_weights)
    means = [
        costs.mean() if weights is None else (weights * costs).sum() / weights.sum() for costs, weights in sides
    ]
    return (means[0] + means[1]) / 2


def check_width(rows: Tensor, classifier: DomainClassifier) -> None:
    """Raise `InputError` unless the rows are as wide as what the classifier takes."""
    num_inputs = classifier.hidden.in_features
    if rows.shape[1] != num_inputs:
        raise InputError(f"embeddings have dim {rows.shape[1]}; the domain classifier has {num_inputs}")


def check_reversal(scale: float) -> None:
    """Raise `InputError` unless `scale` of a reversed gradient is a number of zero or more."""
    if not scale >= 0:
        raise InputError(f"scale of the reversed gradient is {scale}; expected zero or more")


class DomainAdversarialLoss(nn.Module):
    """Cross-entropy of a domain classifier behind a gradient reversal (DANN, Ganin & Lempitsky 2015).

        L = ½ mean over s of −log(1 − p(s)) + ½ mean over t of −log p(t),   p = probability of the target domain

    Each domain weighs half whatever the batch sizes, so that a classifier that knows nothing is at log 2.
    Minimising the loss trains the classifier to tell the domains apart and, through the reversal, the features to
    prevent it. Computed in the classifier's own precision whatever the input and autocast.

    Args:
        dim: dimension of the embeddings.
        hidden_dim: hidden units of the domain classifier.
        scale: strength of the reversed gradient that the features receive, relative to the classifier's own.

    Raises:
        InputError: a dimension is less than one, or `scale` is negative.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        check_reversal(scale)
        self.classifier = DomainClassifier(dim, hidden_dim)
        self.scale = scale

    def forward(self, source: Tensor, target_domain: Tensor) -> Tensor:
        """`(num_source, dim)`, `(num_target, dim)` → scalar loss.

        Raises:
            InputError: a batch is not `(batch, dim)` or is empty, or its `dim` is not the classifier's.
        """
        return domain_cross_entropy(*self._logits(source, target_domain))

    @torch.no_grad()
    def accuracy(self, source: Tensor, target_domain: Tensor) -> float:
        """Fraction of embeddings whose domain the classifier tells, the mean of both domains' (chance is 0.5)."""
        source_logits, target_logits = self._logits(source, target_domain)
        return ((source_logits < 0).double().mean() + (target_logits >= 0).double().mean()).item() / 2

    def _logits(self, source: Tensor, target_domain: Tensor) -> tuple[Tensor, Tensor]:
        source, target_domain = check_pair(source, target_domain)
        check_width(source, self.classifier)
        with torch.autocast(source.device.type, enabled=False):
            rows = torch.cat([source, target_domain]).to(self.classifier.hidden.weight.dtype)
            logits = self.classifier(reverse_gradient(rows, self.scale))
        return logits[: len(source)], logits[len(source) :]
