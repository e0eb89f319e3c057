"""Terms that compare two crops of one recording, most of them by a teacher that follows the network slowly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spkadapt import align
from spkadapt.adapt.outputs import StepOutputs, on_sphere, whole_lengths
from spkadapt.adapt.terms import Term
from spkadapt.errors import InputError, suggest
from spkadapt.model import SpeakerModel

PROJECTED_DIM = 128


def _views(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second crop of each recording: crops come two by two."""
    return rows[::2], rows[1::2]


class MeanTeacherTerm(Term):
    """The network on one crop of a recording, and its running mean on the other, must agree.

    Args:
        model: the network.
        decay: of the running mean.
        compares: `embeddings`, by their cosine, or `predictions`, what the speaker classifier makes of them.
    """

    has_teacher = True

    def __init__(self, model: SpeakerModel, decay: float = 0.99, compares: str = "embeddings") -> None:
        super().__init__()
        losses = {"embeddings": align.CosineConsistencyLoss, "predictions": align.KlConsistencyLoss}
        if compares not in losses:
            raise InputError(f'unknown choice of what it compares "{compares}"; {suggest(compares, losses)}')
        self.teacher = align.EmaTeacher(model, decay)
        self.loss = losses[compares]()
        self.compares = compares

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        theirs = self.teacher(outputs.features, whole_lengths(outputs.features))
        ours = outputs.target_domain.embeddings
        if self.compares == "predictions":
            theirs, ours = outputs.head.logits(theirs), outputs.target_logits
        swapped = torch.stack(_views(theirs)[::-1], dim=1).flatten(0, 1)
        return self.loss(ours, swapped)

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """See `Term.after_step`."""
        self.teacher.update(model)


class SimclrTerm(Term):
    """SimCLR on two crops of each recording (Chen et al. 2020)."""

    def __init__(self, dim: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.head = align.ProjectionHead(dim, output_dim=PROJECTED_DIM)
        self.loss = align.NtXentLoss(temperature)

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        return self.loss(*_views(self.head(outputs.target_domain.rows("embedding"))))


class _TaughtHeadTerm(Term):
    """A head on the network, and running means of both, which teach it."""

    has_teacher = True

    def __init__(self, model: SpeakerModel, head: nn.Module, decay: float) -> None:
        super().__init__()
        self.head = head
        self.teacher = align.EmaTeacher(model, decay)
        self.teacher_head = align.EmaTeacher(head, decay)

    def teach(self, features: Tensor) -> Tensor:
        """What the teachers make of crops."""
        return self.teacher_head(on_sphere(self.teacher(features, whole_lengths(features))))

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """See `Term.after_step`."""
        self.teacher.update(model)
        self.teacher_head.update(self.head)


class MocoTerm(_TaughtHeadTerm):
    """MoCo on two crops of each recording; keys of the same recording are no negatives (He et al. 2020)."""

    def __init__(
        self, model: SpeakerModel, dim: int, decay: float = 0.99, queue_size: int = 1024, temperature: float = 0.1
    ) -> None:
        super().__init__(model, align.ProjectionHead(dim, output_dim=PROJECTED_DIM), decay)
        self.loss = align.MomentumContrastLoss(PROJECTED_DIM, queue_size, temperature)
        self._keys: tuple[Tensor, Tensor] | None = None

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        queries, _ = _views(self.head(outputs.target_domain.rows("embedding")))
        _, features = _views(outputs.features)
        self._keys = self.teach(features), outputs.recordings[::2]
        return self.loss(queries, *self._keys)

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """See `Term.after_step`."""
        assert self._keys is not None
        self.loss.update(*self._keys)
        super().after_step(model, outputs)


class DinoTerm(_TaughtHeadTerm):
    """DINO on two crops of each recording (Caron et al. 2021)."""

    def __init__(self, model: SpeakerModel, dim: int, decay: float = 0.99, num_outputs: int = 512) -> None:
        super().__init__(model, align.DinoHead(dim, num_outputs), decay)
        self.loss = align.DinoLoss(num_outputs)
        self._theirs: tuple[Tensor, Tensor] | None = None

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        self._theirs = _views(self.teach(outputs.features))
        return self.loss(_views(self.head(outputs.target_domain.rows("embedding"))), self._theirs)

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """See `Term.after_step`."""
        assert self._theirs is not None
        self.loss.update(self._theirs)
        super().after_step(model, outputs)
