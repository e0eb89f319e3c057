"""The multi-task objective: min l(D, θ) + λ Ω(θ).

l is the speaker classification loss on labelled source-domain crops, Ω the alignment loss between the
embeddings of source and unlabelled target-domain crops, λ a weight with a schedule. Each term has a name
and is reported by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from spkadapt.align import ALIGNMENTS
from spkadapt.errors import InputError, suggest
from spkadapt.model import SpeakerModel

# What λ is multiplied with when a fraction `progress` of the steps is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    # Ganin et al. (2016), section 5.2.2: the adversary is let in as features become worth aligning.
    "sigmoid": lambda progress: 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0,
}


@dataclass(frozen=True)
class AlignmentConfig:
    """Which alignment loss joins the speaker loss, and how strongly.

    Attributes:
        method: a name in `ALIGNMENTS`, or `none`.
        weight: λ ≥ 0; with 0 the target domain is never looked at, as with `none`.
        schedule: a name in `SCHEDULES`.
    """

    method: str = "none"
    weight: float = 1.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        methods = ["none", *ALIGNMENTS]
        if self.method not in methods:
            raise InputError(f'unknown alignment "{self.method}"; {suggest(self.method, methods)}')
        if self.schedule not in SCHEDULES:
            raise InputError(f'unknown schedule "{self.schedule}"; {suggest(self.schedule, SCHEDULES)}')
        if not 0 <= self.weight < math.inf:
            raise InputError(f"the weight λ is {self.weight}; expected a number ≥ 0")

    @property
    def uses_target_domain(self) -> bool:
        """Whether any step looks at the target domain."""
        return self.method != "none" and self.weight > 0


class MultiTaskObjective(nn.Module):
    """The speaker loss, and the weighted alignment loss where there is one.

    Args:
        model: maps features to embeddings.
        head: maps embeddings and speaker numbers to the speaker loss.
        alignment: which Ω, and λ.
    """

    def __init__(self, model: SpeakerModel, head: nn.Module, alignment: AlignmentConfig) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.config = alignment
        # Built last: an alignment with weights of its own must not shift the draws that model and head start from.
        self.alignment = (
            ALIGNMENTS[alignment.method](model.embedding_dim) if alignment.uses_target_domain else None
        )

    def weight(self, progress: float) -> float:
        """λ when a fraction `progress` of the training is done."""
        if self.alignment is None:
            return 0.0
        return self.config.weight * SCHEDULES[self.config.schedule](progress)

    def forward(
        self,
        source_features: torch.Tensor,
        speakers: torch.Tensor,
        target_domain_features: torch.Tensor | None,
        weight: float,
    ) -> dict[str, torch.Tensor]:
        """The terms of the objective by name; `total` is what is minimised.

        Shape: features `(batch, frames, num_features)`, speakers `(batch,)`, each term a scalar.

        Both domains go through the network in one batch, so that batch normalisation sees in training the
        mixture whose statistics it will use afterwards. When λ is 0 there is no target-domain batch, and
        the step is the source-only step, bit for bit.
        """
        if target_domain_features is None or self.alignment is None:
            speaker_loss = self.head(self._embed(source_features), speakers)
            return {"speaker": speaker_loss, "total": speaker_loss}
        embeddings = self._embed(torch.cat([source_features, target_domain_features]))
        sizes = [len(source_features), len(target_domain_features)]
        source, _ = embeddings.split(sizes)
        speaker_loss = self.head(source, speakers)
        alignment_loss = self.alignment(*_on_sphere(embeddings).split(sizes))
        total = speaker_loss + weight * alignment_loss
        return {"speaker": speaker_loss, self.config.method: alignment_loss, "total": total}

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        return self.model(features, lengths)


def _on_sphere(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings scaled to length √dim, where each dimension has a mean square of about one.

    What is aligned must be what is scored, and cosine scoring sees directions only. Left to its own length, a
    network under an angular softmax could make most alignment losses small by shrinking every embedding.
    """
    precise = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    return nn.functional.normalize(precise) * embeddings.shape[1] ** 0.5
