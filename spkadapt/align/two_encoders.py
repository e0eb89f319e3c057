"""A separate encoder for the target domain, trained to be taken for the source's (ADDA, Tzeng et al. 2017).

The source's encoder is trained first and then held; a copy of it, the mapper, goes on with the target domain. A
discriminator of the two encoders' embeddings (`adversarial.DomainClassifier`) and the mapper are trained in turn,
each on its own loss with the other held. Both losses are functions of the discriminator's logits of belonging to
the target domain.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spkadapt.align.adversarial import domain_cross_entropy
from spkadapt.errors import InputError


def adda_discriminator_loss(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """What the discriminator descends: the cross-entropy of the domains (Tzeng et al. 2017).

        L = ½ mean over s of −log(1 − p(s)) + ½ mean over t of −log p(t),   p = probability of the target domain

    Shape:
        source_logits: `(num_source,)`, of embeddings held constant
        target_logits: `(num_target,)`, likewise
        returns a scalar

    Raises:
        InputError: logits that are not one-dimensional, are empty or not floating point.
    """
    return domain_cross_entropy(
        _check_logits(source_logits, "source_logits"), _check_logits(target_logits, "target_logits")
    )


def adda_mapper_loss(target_logits: Tensor) -> Tensor:
    """What the mapper descends: the cross-entropy with inverted labels (Tzeng et al. 2017).

        L = mean over t of −log(1 − p(t)),   p = probability of the target domain

    Unlike the negative of the discriminator's loss, it has the largest gradient where the discriminator is surest.

    Shape:
        target_logits: `(num_target,)`, of the mapper's embeddings, the discriminator's weights held constant
        returns a scalar

    Raises:
        InputError: logits that are not one-dimensional, are empty or not floating point.
    """
    return F.softplus(_check_logits(target_logits, "target_logits")).mean()


def _check_logits(logits: Tensor, name: str) -> Tensor:
    if logits.ndim != 1 or not len(logits) or not logits.is_floating_point():
        raise InputError(
            f"{name} has shape {tuple(logits.shape)} and holds {logits.dtype}; "
            "expected (batch,), at least one, of floating point"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
