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
        remembers_source: whether it looks at the source domain once, before the first step.
        has_teacher: whether it keeps a copy of the network.
    """

    compares_domains = False
    has_levels = False
    has_rounds = False
    remembers_source = False
    has_teacher = False

    def forward(self, outputs: StepOutputs) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError

    def after_step(self, model: SpeakerModel, outputs: StepOutputs) -> None:
        """Follow the network, once the optimiser has moved it."""

    def remember_source(self, embeddings: Tensor) -> None:
        """Take in some of the source domain's embeddings, `(batch, dim)`, under the initial network."""

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


class LossTerm(Term):
    """A loss of a step's outputs.

    Args:
        loss: of what `looks_at` gives.
        looks_at: the loss's arguments, from the outputs.
        compares_domains: whether the source domain is among them.
    """

    def __init__(
        self, loss: nn.Module, looks_at: Callable[[StepOutputs], tuple[Any, ...]], *, compares_domains: bool
    ) -> None:
        super().__init__()
        self.loss = loss
        self.looks_at = looks_at
        self.compares_domains = compares_domains

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        return self.loss(*self.looks_at(outputs))


def both_domains(outputs: StepOutputs) -> tuple[Tensor, Tensor]:
    """The embeddings of source and target domain, as they are compared."""
    assert outputs.source is not None
    return outputs.source.rows("embedding"), outputs.target_domain.rows("embedding")


def with_classes(outputs: StepOutputs) -> tuple[Tensor, ...]:
    """Each domain's embeddings and classes: the source's speakers, the target domain's recordings."""
    source, target_domain = both_domains(outputs)
    return source, outputs.speakers, target_domain, outputs.recordings


def with_predictions(outputs: StepOutputs) -> tuple[Tensor, ...]:
    """Each domain's embeddings, and the speaker classifier's logits of them."""
    source, target_domain = both_domains(outputs)
    return source, outputs.source_logits, target_domain, outputs.target_logits


def by_speaker(outputs: StepOutputs) -> tuple[Tensor, ...]:
    """Both domains' embeddings, the source's speakers, and those the classifier takes the target domain's for."""
    return *both_domains(outputs), outputs.speakers, outputs.target_logits.softmax(dim=1)


def as_layers(outputs: StepOutputs) -> tuple[list[Tensor], ...]:
    """Mean frames and embeddings of each domain, as two layers of one network."""
    assert outputs.source is not None
    domains = outputs.source, outputs.target_domain
    return tuple([on_sphere(one.frames.mean(dim=1)), one.rows("embedding")] for one in domains)


def target_logits(outputs: StepOutputs) -> tuple[Tensor]:
    """What the speaker classifier makes of the target domain's crops."""
    return (outputs.target_logits,)


def target_posteriors(outputs: StepOutputs) -> tuple[Tensor]:
    """The same as probabilities."""
    return (outputs.target_logits.softmax(dim=1),)


def with_recordings(outputs: StepOutputs) -> tuple[Tensor, Tensor]:
    """The target domain's embeddings, and which recording each is of."""
    return outputs.target_domain.rows("embedding"), outputs.recordings


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
        source, target = both_domains(outputs)
        constant = {name: value.detach() for name, value in self.classifier.named_parameters()}
        return align.adda_discriminator_loss(
            self.classifier(source.detach()), self.classifier(target.detach())
        ) + align.adda_mapper_loss(functional_call(self.classifier, constant, (target,)))


class SourceMomentsTerm(Term):
    """Distance of the target domain's moments from the source's under the initial network (Liu et al. 2021).

    Those are taken once, before the first step. Meant for `adapt.source: absent`: a model and these moments are
    all that its giver must hand out.
    """

    remembers_source = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.loss = align.SourceMomentsLoss(dim)

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        return self.loss(outputs.target_domain.rows("embedding"))

    def remember_source(self, embeddings: Tensor) -> None:
        """See `Term.remember_source`."""
        self.loss.add(embeddings)


class ReconstructionTerm(Term):
    """Each crop's features, averaged over time, decoded from its embedding (DRCN, Ghifary et al. 2016).

    What is decoded are the means and the standard deviations of its standardised features.

    Args:
        model: the network, whose standardisation it is.
        hidden_dim: as for `align.ReconstructionLoss`.
    """

    compares_domains = True
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, model: SpeakerModel, hidden_dim: int = 256) -> None:
        super().__init__()
        self.register_buffer("feature_mean", model.feature_mean.clone())
        self.register_buffer("feature_std", model.feature_std.clone())
        self.loss = align.ReconstructionLoss(model.embedding_dim, 2 * len(model.feature_mean), hidden_dim)

    def forward(self, outputs: StepOutputs) -> Tensor:
        """See `Term.forward`."""
        source, target = both_domains(outputs)
        return self.loss(
            source, self._summarise(outputs.source_features), target, self._summarise(outputs.features)
        )

    def _summarise(self, features: Tensor) -> Tensor:
        deviations, means = torch.std_mean((features - self.feature_mean) / self.feature_std, dim=1, correction=0)
        return torch.cat([means, deviations], dim=1)


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
