"""Terms in which the recordings of the target domain, or pseudo-speakers found among them, are classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spkadapt import align
from spkadapt.adapt.outputs import StepOutputs
from spkadapt.adapt.terms import Term
from spkadapt.errors import InputError, suggest
from spkadapt.heads import AamHead
from spkadapt.model import SpeakerModel
from spkadapt.pseudo_labels import (
    cluster_agglomerative,
    cluster_infomap,
    cluster_kmeans,
    fit_loss_gate,
    recording_means,
)


class CallTerm(Term):
    """Additive-margin classification of which recording an unlabelled crop is of.

    Every recording of the pool is a class of its own, so that two of one speaker are told apart too. That costs
    something and is often worth it: but for their channel, the speaker is what recordings differ in.

        Ω = L(t; calls ∪ speakers) + L(s; speakers ∪ calls) − L(s; speakers)

    with L the cross-entropy over the named classes, so that with λ = 1 and the speaker loss L(s; speakers) the
    objective is one classification of both domains. Not `joint`, Ω = L(t; calls).

    Args:
        dim, num_recordings: of the embeddings and the pool.
        joint: whether the source's speakers and the calls are rivals.
        margin, scale: as for `heads.AamHead`.
    """

    def __init__(
        self, dim: int, num_recordings: int, joint: bool = True, margin: float = 0.2, scale: float = 30.0
    ) -> None:
        super().__init__()
        self.joint = joint
        self.head = AamHead(dim, num_recordings, margin, scale)

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        embeddings, recordings = outputs.target_domain.embeddings, outputs.recordings
        if not self.joint:
            return self.head(embeddings, recordings)
        logits = torch.cat([self.head.training_logits(embeddings, recordings), outputs.target_logits], dim=1)
        loss = nn.functional.cross_entropy(logits, recordings)
        if outputs.source is None:
            return loss
        of_source = outputs.head.training_logits(outputs.source.embeddings, outputs.speakers)
        with_calls = torch.cat([of_source, self.head.logits(outputs.source.embeddings)], dim=1)
        # What the calls add to the source's loss: the logarithm of what they add to its sum.
        return loss + (with_calls.logsumexp(dim=1) - of_source.logsumexp(dim=1)).mean()


class PrototypeTerm(Term):
    """The same with a running mean of each recording for its class, and without the nearest recordings as rivals.

    Args:
        dim, num_recordings: of the embeddings and the pool.
        temperature, decay: as for `align.RecordingPrototypes`.
        num_nearest: so many of each recording's nearest may be of its speaker, and are not told apart.
    """

    has_rounds = True
    similar: Tensor

    def __init__(
        self,
        dim: int,
        num_recordings: int,
        temperature: float = 0.05,
        decay: float = 0.9,
        num_nearest: int = 3,
    ) -> None:
        super().__init__()
        self.prototypes = align.RecordingPrototypes(dim, num_recordings, temperature, decay)
        if not 0 <= num_nearest < num_recordings:
            raise InputError(f"num_nearest is {num_nearest} of {num_recordings} recordings; expected fewer")
        self.num_nearest = num_nearest
        self.register_buffer("similar", torch.zeros(num_recordings, num_recordings, dtype=torch.bool))

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        return self.prototypes(outputs.target_domain.rows("embedding"), outputs.recordings, self.similar)

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """See `Term.after_step`."""
        self.prototypes.update(outputs.target_domain.rows("embedding").detach(), outputs.recordings)

    def start_round(self, embeddings: Tensor, recordings: Tensor) -> None:
        """See `Term.start_round`."""
        self.prototypes.update(embeddings - embeddings.mean(dim=0), recordings)
        self.similar.copy_(self.prototypes.similar(self.num_nearest))


CLUSTERINGS = ("agglomerative", "kmeans", "infomap")


class _PartHead(AamHead):
    """A classifier of as many classes as this round has."""

    num_used: Tensor

    def __init__(self, dim: int, num_speakers: int, margin: float, scale: float) -> None:
        super().__init__(dim, num_speakers, margin, scale)
        self.register_buffer("num_used", torch.tensor(num_speakers))

    def _cosines(self, embeddings: Tensor) -> Tensor:
        return super()._cosines(embeddings)[:, : self.num_used]


class PseudoSpeakerTerm(Term):
    """Additive-margin classification of pseudo-speakers: recordings clustered anew in every round.

    The classifier starts each round from the clusters' means. From the second round on, recordings whose mean
    loss under it does not pass the loss gate are left out (Tao et al. 2022; Han et al. 2022).

    Args:
        dim, num_recordings: of the embeddings and the pool.
        clustering: a name in `CLUSTERINGS`.
        share: for k-means, the number of clusters as a fraction of that of the recordings.
        gated: whether there is a gate.
        margin, scale: as for `heads.AamHead`.
    """

    has_rounds = True
    labels: Tensor
    is_reliable: Tensor

    def __init__(
        self,
        dim: int,
        num_recordings: int,
        clustering: str = "agglomerative",
        share: float = 0.5,
        gated: bool = True,
        margin: float = 0.2,
        scale: float = 30.0,
    ) -> None:
        super().__init__()
        if clustering not in CLUSTERINGS:
            raise InputError(f'unknown clustering "{clustering}"; {suggest(clustering, CLUSTERINGS)}')
        if not 0 < share <= 1:
            raise InputError(f"share is {share}; expected above 0, and at most 1")
        self.clustering, self.share, self.gated = clustering, share, gated
        self.head = _PartHead(dim, num_recordings, margin, scale)
        self.register_buffer("labels", torch.full((num_recordings,), -1))
        self.register_buffer("is_reliable", torch.ones(num_recordings, dtype=torch.bool))

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        kept = self.is_reliable[outputs.recordings].nonzero().squeeze(1)
        embeddings = outputs.target_domain.embeddings
        if not len(kept):
            return (embeddings * 0).sum()
        return self.head(embeddings[kept], self.labels[outputs.recordings[kept]])

    def start_round(self, embeddings: Tensor, recordings: Tensor) -> None:
        """See `Term.start_round`."""
        if self.gated and self.labels[0] >= 0:
            self.is_reliable.copy_(self._passes_gate(embeddings, recordings))
        centred = (embeddings - embeddings.mean(dim=0)).double().cpu().numpy()
        means, _ = recording_means(centred, recordings.cpu().numpy())
        labels = torch.from_numpy(self._cluster(means)).to(self.labels)
        self.labels.copy_(labels)
        sums = torch.zeros_like(self.head.weight)
        sums.index_add_(0, labels[recordings], nn.functional.normalize(embeddings))
        self.head.num_used.fill_(int(labels.max()) + 1)
        with torch.no_grad():
            self.head.weight[: self.head.num_used] = nn.functional.normalize(sums[: self.head.num_used])

    def _cluster(self, means: np.ndarray) -> np.ndarray:
        if self.clustering == "agglomerative":
            return cluster_agglomerative(means)
        if self.clustering == "infomap":
            return cluster_infomap(means)
        return cluster_kmeans(means, max(1, round(self.share * len(means))))

    def _passes_gate(self, embeddings: Tensor, recordings: Tensor) -> Tensor:
        """Whether the mean loss of each recording, under last round's labels, is that of a right label."""
        losses = nn.functional.cross_entropy(
            self.head.logits(embeddings), self.labels[recordings], reduction="none"
        ).double()
        sums = torch.zeros(len(self.labels), dtype=torch.float64, device=losses.device)
        counts = torch.bincount(recordings, minlength=len(self.labels))
        means = (sums.index_add(0, recordings, losses) / counts.clamp_min(1)).cpu().numpy()
        passed = fit_loss_gate(means).is_reliable(means) if len(means) > 1 else np.ones(1, dtype=bool)
        return torch.from_numpy(passed).to(self.is_reliable.device)
