"""Speaker classifiers: what turns embeddings and speaker labels into the loss that a backbone learns from.

The domain classifier and its gradient reversal are in `align.adversarial`, beside the loss they make up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spkadapt.errors import InputError, suggest


class SpeakerHead(nn.Module):
    """A classifier of speakers on top of embeddings: its loss, its logits, its accuracy.

    Args:
        dim: dimension of the embeddings.
        num_speakers: number of training speakers; they are numbered from 0.

    Raises:
        InputError: `dim` or `num_speakers` is less than one.
    """

    def __init__(self, dim: int, num_speakers: int) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("num_speakers", num_speakers)):
            if value < 1:
                raise InputError(f"{name} of the speaker head is {value}; expected at least 1")
        self.dim = dim
        self.num_speakers = num_speakers
        self.weight = nn.Parameter(torch.empty(num_speakers, dim))
        nn.init.xavier_uniform_(self.weight)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings `(batch, dim)` → logits `(batch, num_speakers)`; the largest is the speaker recognised."""
        raise NotImplementedError

    def training_logits(self, embeddings: Tensor, speakers: Tensor) -> Tensor:
        """The logits whose cross-entropy is the loss: with the margin on the own speaker's, where there is one.

        Shape and errors: as for `forward`, but `(batch, num_speakers)` is returned.
        """
        self._check(embeddings, speakers)
        return self.logits(embeddings)

    def forward(self, embeddings: Tensor, speakers: Tensor) -> Tensor:
        """Mean loss, a scalar, of embeddings `(batch, dim)` with their speakers `(batch,)`, int64.

        Raises:
            InputError: shapes or dtypes are other than these, or the batch is empty. On the CPU also when a
                speaker is outside `0 … num_speakers − 1` (on an accelerator the check would hold up the queue).
        """
        return F.cross_entropy(self.training_logits(embeddings, speakers), speakers)

    @torch.no_grad()
    def accuracy(self, embeddings: Tensor, speakers: Tensor) -> float:
        """Fraction of embeddings whose largest logit is their own speaker's. Raises what `forward` raises."""
        self._check(embeddings, speakers)
        return (self.logits(embeddings).argmax(dim=1) == speakers).double().mean().item()

    def _check(self, embeddings: Tensor, speakers: Tensor) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim or not len(embeddings):
            raise InputError(f"embeddings have shape {tuple(embeddings.shape)}; expected (batch, {self.dim})")
        if speakers.shape != embeddings.shape[:1] or speakers.dtype != torch.int64:
            raise InputError(
                f"speakers have shape {tuple(speakers.shape)} and hold {speakers.dtype}; "
                f"expected ({len(embeddings)},) of torch.int64"
            )
        if speakers.device.type == "cpu" and not 0 <= speakers.min() <= speakers.max() < self.num_speakers:
            raise InputError(
                f"speakers run from {int(speakers.min())} to {int(speakers.max())}; "
                f"expected numbers from 0 to {self.num_speakers - 1}"
            )


class SoftmaxHead(SpeakerHead):
    """A linear layer and the cross-entropy of its softmax.

        L = −log softmax(W e + b)[speaker]

    Arguments and errors are `SpeakerHead`'s.
    """

    def __init__(self, dim: int, num_speakers: int) -> None:
        super().__init__(dim, num_speakers)
        self.bias = nn.Parameter(torch.zeros(num_speakers))

    def logits(self, embeddings: Tensor) -> Tensor:
        """`W e + b`, `(batch, num_speakers)`, in the dtype of the weights."""
        return F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias).to(self.weight.dtype)


class AamHead(SpeakerHead):
    """Additive angular margin softmax (ArcFace, Deng et al. 2019; for speakers, Xiang et al. 2019).

        L = −log softmax(z)[speaker],   z_j = scale · cos θ_j, but scale · cos(θ + margin) for the speaker's own

    with θ_j the angle between the embedding and the weights of speaker j. Beyond θ = π − margin, where
    cos(θ + margin) would rise again, the own logit continues as scale · (cos θ − margin · sin margin), which
    keeps it falling: the further from its speaker, the larger the loss. (At π − margin it drops by
    scale · (cos margin + margin · sin margin − 1).)

    Cosines are computed in the dtype of the weights even under autocast, since a cosine near one in half precision
    has lost its angle. sin θ is kept from zero by the rounding error, so that the gradient is finite at
    cos θ = ±1.

    Args:
        dim: dimension of the embeddings.
        num_speakers: number of training speakers; they are numbered from 0.
        margin: in radians, 0 ≤ margin < π/2.
        scale: the inverse temperature of the softmax, positive.

    Raises:
        InputError: an argument is outside its range.
    """

    def __init__(self, dim: int, num_speakers: int, margin: float = 0.2, scale: float = 30.0) -> None:
        super().__init__(dim, num_speakers)
        if not 0 <= margin < math.pi / 2:
            raise InputError(f"margin is {margin} radians; expected 0 ≤ margin < π/2")
        if not 0 < scale < math.inf:
            raise InputError(f"scale is {scale}; expected a positive, finite number")
        self.margin = margin
        self.scale = scale

    def logits(self, embeddings: Tensor) -> Tensor:
        """`scale · cos θ`, `(batch, num_speakers)`, without the margin, which is for training alone."""
        return self.scale * self._cosines(embeddings)

    def training_logits(self, embeddings: Tensor, speakers: Tensor) -> Tensor:
        """See `SpeakerHead.training_logits`."""
        self._check(embeddings, speakers)
        cosines = self._cosines(embeddings)
        own = speakers[:, None]
        with_margin = cosines.scatter(1, own, self._add_margin(cosines.gather(1, own)))
        return self.scale * with_margin

    def _cosines(self, embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(F.normalize(embeddings.to(self.weight.dtype)), F.normalize(self.weight))

    def _add_margin(self, cosines: Tensor) -> Tensor:
        """cos θ → cos(θ + margin), and its continuation beyond θ = π − margin."""
        cos_margin, sin_margin = math.cos(self.margin), math.sin(self.margin)
        sines = (1 - cosines.square()).clamp(min=2 * torch.finfo(cosines.dtype).eps).sqrt()
        margined = cosines * cos_margin - sines * sin_margin
        return torch.where(cosines > -cos_margin, margined, cosines - self.margin * sin_margin)


HEADS: dict[str, Callable[[int, int], SpeakerHead]] = {"softmax": SoftmaxHead, "aam": AamHead}
"""A recipe's name of a speaker head → what builds it from `dim` and `num_speakers`."""


@dataclass(frozen=True)
class HeadConfig:
    """Which speaker classifier.

    Attributes:
        name: a name in `HEADS`.
        margin: in radians, of `aam` alone.
        scale: of `aam` alone.
    """

    name: str = "aam"
    margin: float = 0.2
    scale: float = 30.0

    def __post_init__(self) -> None:
        if self.name not in HEADS:
            raise InputError(f'unknown speaker head "{self.name}"; {suggest(self.name, HEADS)}')
        build_head(self, 1, 1)  # says so if margin or scale are out of range


def build_head(config: HeadConfig, dim: int, num_speakers: int) -> SpeakerHead:
    """The configured classifier for embeddings `(batch, dim)` and so many speakers."""
    if config.name == "aam":
        return AamHead(dim, num_speakers, config.margin, config.scale)
    return HEADS[config.name](dim, num_speakers)
