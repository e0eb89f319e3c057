"""What one step of training shows to the terms of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from spkadapt.heads import SpeakerHead

# Frames of a crop that frame-level terms compare, evenly spaced: neighbours say much the same.
FRAMES_PER_CROP = 16


@dataclass(frozen=True, eq=False)
class Encoded:
    """One domain's crops after the network.

    Attributes:
        frames: `(batch, frames, frame_dim)`, the backbone's last frame layer.
        embeddings: `(batch, dim)`.
    """

    frames: Tensor
    embeddings: Tensor

    def rows(self, level: str) -> Tensor:
        """What is compared between domains at a level, `(rows, dim)`, each row scaled to length √dim."""
        if level == "embedding":
            return on_sphere(self.embeddings)
        num_frames = self.frames.shape[1]
        count = min(FRAMES_PER_CROP, num_frames)
        chosen = (torch.arange(count, device=self.frames.device) * num_frames) // count
        return on_sphere(self.frames[:, chosen].flatten(0, 1))

    def split(self, first: int) -> tuple[Encoded, Encoded]:
        """The first so many crops, and the others."""
        return (
            Encoded(self.frames[:first], self.embeddings[:first]),
            Encoded(self.frames[first:], self.embeddings[first:]),
        )


@dataclass(frozen=True, eq=False)
class StepOutputs:
    """Both domains after the network, and what is known of them.

    Attributes:
        source: None where the source is absent.
        speakers, source_domains: `(num_source,)`, numbers.
        source_features: `(num_source, frames, num_features)`, the crops themselves.
        target_domain: crops two by two of one recording.
        features: `(num_target, frames, num_features)`, the target domain's crops themselves.
        recordings: `(num_target,)`, which recording (call) of the pool each crop is of; crops of one share a
            speaker.
        head: the speaker classifier.
    """

    source: Encoded | None
    speakers: Tensor
    source_domains: Tensor
    source_features: Tensor
    target_domain: Encoded
    features: Tensor
    recordings: Tensor
    head: SpeakerHead

    @cached_property
    def target_logits(self) -> Tensor:
        """Of the source's speakers, `(num_target, num_speakers)`."""
        return self.head.logits(self.target_domain.embeddings)

    @cached_property
    def source_logits(self) -> Tensor:
        """Of the source's speakers, `(num_source, num_speakers)`."""
        assert self.source is not None  # terms that compare domains are refused where there is no source
        return self.head.logits(self.source.embeddings)


def whole_lengths(features: Tensor) -> Tensor:
    """The lengths of crops `(batch, frames, num_features)` that are not padded, `(batch,)`."""
    return torch.full((len(features),), features.shape[1], device=features.device)


def on_sphere(vectors: Tensor) -> Tensor:
    """Vectors scaled to length √dim, where each dimension has a mean square of about one.

    What is aligned must be what is scored, and cosine scoring sees directions only. Left to its own length, a
    network under an angular softmax could make most alignment losses small by shrinking every embedding.
    """
    precise = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return nn.functional.normalize(precise) * vectors.shape[1] ** 0.5
