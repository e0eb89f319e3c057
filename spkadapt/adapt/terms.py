"""The terms that a recipe can add to the speaker loss, by name.

A term is built for the networks at hand and maps a step's `StepOutputs` to a scalar. The losses are `align`'s;
here is only which of a step's outputs each looks at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spkadapt import align
from spkadapt.adapt.config import TermConfig
from spkadapt.adapt.outputs import Encoded, StepOutputs, on_sphere
from spkadapt.errors import InputError, suggest
from spkadapt.model import SpeakerModel


@dataclass(frozen=True)
class TermContext:
    """What terms are built for.

    Attributes:
        model: the network, as it starts.
        num_speakers: of the source domain.
        num_recordings: of the target domain's pool.
        has_source: whether steps have a source batch.
    """

    model: SpeakerModel
    num_speakers: int
    num_recordings: int
    has_source: bool

    def dim(self, level: str) -> int:
        """The width of what is compared at a level."""
        return self.model.embedding_dim if level == "embedding" else self.model.frame_dim

    def sizes(self) -> dict[str, int]:
        """By the names that constructors have for them."""
        return {
            "dim": self.model.embedding_dim,
            "num_speakers": self.num_speakers,
            "num_classes": self.num_speakers,
            "num_recordings": self.num_recordings,
        }


class Term(nn.Module):
    """What all terms share.

    Attributes:
        compares_domains: whether it looks at the source domain too.
        has_levels: whether it can look at frames, and at one domain of the source by itself.
        has_rounds: whether it looks at the whole pool from time to time.
        has_teacher: whether it keeps a copy of the network.
    """

    compares_domains = False
    has_levels = False
    has_rounds = False
    has_teacher = False

    def forward(self, outputs: StepOutputs) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """Follow the network, once the optimiser has moved it."""

    def start_round(self, embeddings: Tensor, recordings: Tensor) -> None:
        """Look at the whole pool, `(num_utterances, dim)` and `(num_utterances,)`."""


class PairTerm(Term):
    """A loss between rows of the source and rows of the target domain: embeddings, frames, or the mean of both."""

    compares_domains = True
    has_levels = True

    def __init__(self, build: Callable[[int], nn.Module], context: TermContext, config: TermConfig) -> None:
        super().__init__()
        levels = ("embedding", "frame") if config.level == "both" else (config.level,)
        self.losses = nn.ModuleDict({level: build(context.dim(level)) for level in levels})
        self.per_source_domain = config.per_source_domain

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        parts = [outputs.source]
        if self.per_source_domain:
            members = (outputs.source_domains == number for number in outputs.source_domains.unique())
            parts = [Encoded(outputs.source.frames[own], outputs.source.embeddings[own]) for own in members]
        values = [
            loss(part.rows(level), outputs.target_domain.rows(level))
            for level, loss in self.losses.items()
            for part in parts
        ]
        return torch.stack(values).mean()


class ClassPairTerm(Term):
    """A loss between the two domains' embeddings that knows the source's speakers and the target's recordings."""

    compares_domains = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        source, target = outputs.source.rows("embedding"), outputs.target_domain.rows("embedding")
        return self.loss(source, outputs.speakers, target, outputs.recordings)


class PredictionPairTerm(Term):
    """A loss between the two domains' embeddings that knows what the speaker classifier makes of them."""

    compares_domains = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        source, target = outputs.source.rows("embedding"), outputs.target_domain.rows("embedding")
        return self.loss(source, outputs.source_logits, target, outputs.target_logits)


class ClassConditionalTerm(Term):
    """A loss between the domains that knows the source's speakers, and believes the classifier of the target's."""

    compares_domains = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        source, target = outputs.source.rows("embedding"), outputs.target_domain.rows("embedding")
        return self.loss(source, target, outputs.speakers, outputs.target_logits.softmax(dim=1).detach())


class PredictionTerm(Term):
    """A loss on what the speaker classifier makes of the target domain's crops: its logits, or its posteriors."""

    def __init__(self, loss: nn.Module, *, of_posteriors: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.of_posteriors = of_posteriors

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        logits = outputs.target_logits
        return self.loss(logits.softmax(dim=1) if self.of_posteriors else logits)


class JointTerm(Term):
    """A loss between the domains' mean frames and embeddings taken together, as two layers of one network."""

    compares_domains = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        domains = outputs.source, outputs.target_domain
        return self.loss(*([on_sphere(one.frames.mean(dim=1)), one.rows("embedding")] for one in domains))


class AddaTerm(Term):
    """Adversarial discriminative adaptation (ADDA, Tzeng et al. 2017): two losses, each of one player alone.

    The domain classifier descends its cross-entropy on embeddings held constant, the network the cross-entropy of
    inverted labels under a classifier held constant. Meant for `adapt.source: frozen`.
    """

    compares_domains = True

    def __init__(self, dim: int, hidden_dim: int = 256) -> None:
        super().__init__()
        self.classifier = align.DomainClassifier(dim, hidden_dim)

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        assert outputs.source is not None
        source, target = outputs.source.rows("embedding"), outputs.target_domain.rows("embedding")
        constant = {name: value.detach() for name, value in self.classifier.named_parameters()}
        return align.adda_discriminator_loss(
            self.classifier(source.detach()), self.classifier(target.detach())
        ) + align.adda_mapper_loss(functional_call(self.classifier, constant, (target,)))


class RecordingTerm(Term):
    """A loss on the target domain's embeddings and which recording each is of."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        return self.loss(outputs.target_domain.rows("embedding"), outputs.recordings)


def construct(cls: Callable[..., nn.Module], options: Mapping[str, Any], known: Mapping[str, Any]) -> nn.Module:
    """A loss with the arguments of its constructor that are `known`, and those that the recipe gives.

    Raises:
        InputError: the constructor has no argument of an option's name, or refuses its value.
    """
    names = list(inspect.signature(cls).parameters)
    given = {name: value for name, value in known.items() if name in names}
    free = [name for name in names if name not in given]
    for name in options:
        if name not in free:
            hint = suggest(name, free) if free else "it has none"
            raise InputError(f'there is no option "{name}"; {hint}')
    try:
        return cls(**given, **options)
    except TypeError as error:
        raise InputError(f"options {dict(options)}: {error}") from error
