"""Conditional domain-adversarial training: domains told apart by embedding and predicted speaker together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spkadapt.align.adversarial import (
    DomainClassifier,
    check_reversal,
    domain_cross_entropy,
    reverse_gradient,
)
from spkadapt.align.directions import check_batch
from spkadapt.align.pair import check_pair
from spkadapt.errors import InputError

LARGEST_MAP = 4096
"""Products of an embedding and a prediction are all formed up to this many, and drawn at random beyond."""


class ConditionalDomainAdversarialLoss(nn.Module):
    """Domain-adversarial loss on embedding ⊗ prediction (CDAN and CDAN+E, Long et al. 2018).

        L = domain_cross_entropy of D(T(f, p)),   T(f, p) = f ⊗ p, flattened;   p = softmax(logits)

    A domain classifier that sees embedding and prediction together can tell domains apart whose speakers are
    aligned crosswise, where one that sees embeddings alone could not. Where dim · num_classes exceeds 4096, the
    randomised map T(f, p) = (f R) ∘ (p Q) / √num_random takes its place, R and Q standard normal and fixed, whose
    inner products are ⟨f, f'⟩ ⟨p, p'⟩ in expectation. With `entropy_weighted` (CDAN+E) a row weighs
    1 + exp(−H(p)) within its domain: what the speaker classifier is sure of counts up to double.

    Predictions and weights are constants to the gradient, as in the authors' code: the adversary changes the
    embeddings, not the speaker classifier. The logits of both domains should be made alike, without the margin of
    the true speaker, or the margin tells the domains apart. Computed in the classifier's own precision whatever
    the input and autocast.

    Args:
        dim: dimension of the embeddings.
        num_classes: of the predictions.
        hidden_dim: hidden units of the domain classifier.
        scale: strength of the reversed gradient that the embeddings receive, relative to the classifier's own.
        entropy_weighted: CDAN+E instead of CDAN.
        num_random: outputs of the randomised map, where there is one.
        seed: of the randomised map.

    Raises:
        InputError: a size is less than one, or `scale` is negative.
    """

    embedding_map: Tensor | None
    prediction_map: Tensor | None

    def __init__(
        self,
        dim: int,
        num_classes: int,
        hidden_dim: int = 256,
        scale: float = 1.0,
        entropy_weighted: bool = True,
        num_random: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("num_classes", num_classes), ("num_random", num_random)):
            if value < 1:
                raise InputError(f"{name} of the conditional domain adversary is {value}; expected at least 1")
        check_reversal(scale)
        self.dim, self.num_classes = dim, num_classes
        self.scale = scale
        self.entropy_weighted = entropy_weighted
        is_random = dim * num_classes > LARGEST_MAP
        generator = torch.Generator().manual_seed(seed)
        for name, size in (("embedding_map", dim), ("prediction_map", num_classes)):
            drawn = torch.randn(size, num_random, generator=generator) if is_random else None
            self.register_buffer(name, drawn)
        self.classifier = DomainClassifier(num_random if is_random else dim * num_classes, hidden_dim)

    def forward(
        self, source: Tensor, source_logits: Tensor, target_domain: Tensor, target_logits: Tensor
    ) -> Tensor:
        """Embeddings and speaker logits of each domain → scalar loss.

        Shape:
            source, source_logits: `(num_source, dim)`, `(num_source, num_classes)`
            target_domain, target_logits: `(num_target, dim)`, `(num_target, num_classes)`

        Raises:
            InputError: other shapes or dtypes than these.
        """
        source, target_domain = check_pair(source, target_domain)
        if source.shape[1] != self.dim:
            raise InputError(
                f"embeddings have dim {source.shape[1]}; the conditional domain adversary has {self.dim}"
            )
        predictions = [
            self._predictions(logits, len(rows), name)
            for logits, rows, name in (
                (source_logits, source, "source_logits"),
                (target_logits, target_domain, "target_logits"),
            )
        ]
        dtype = self.classifier.hidden.weight.dtype
        with torch.autocast(source.device.type, enabled=False):
            rows = reverse_gradient(torch.cat([source, target_domain]).to(dtype), self.scale)
            logits = self.classifier(self.multilinear_map(rows, torch.cat(predictions).to(dtype)))
            weights = [certainty(p).to(dtype) for p in predictions] if self.entropy_weighted else []
            return domain_cross_entropy(*logits.split([len(source), len(target_domain)]), *weights)

    def multilinear_map(self, embeddings: Tensor, predictions: Tensor) -> Tensor:
        """T `(batch, dim · num_classes)`, or `(batch, num_random)`, of `(batch, dim)`, `(batch, num_classes)`."""
        if self.embedding_map is None or self.prediction_map is None:
            return (embeddings[:, :, None] * predictions[:, None]).flatten(1)
        product = (embeddings @ self.embedding_map) * (predictions @ self.prediction_map)
        return product / self.embedding_map.shape[1] ** 0.5

    def _predictions(self, logits: Tensor, num_rows: int, name: str) -> Tensor:
        logits = check_batch(logits, name)
        if logits.shape != (num_rows, self.num_classes):
            raise InputError(
                f"{name} has shape {tuple(logits.shape)}; expected ({num_rows}, {self.num_classes}), "
                "a row of each embedding and a column of each class"
            )
        return logits.detach().softmax(dim=1)


def certainty(predictions: Tensor) -> Tensor:
    """1 + exp(−H(p)), H the entropy: 2 of what is certain, and at least 1; `(batch, num_classes)` → `(batch,)`."""
    return 1 + torch.exp(-torch.special.entr(predictions).sum(dim=1))
