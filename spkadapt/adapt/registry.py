"""Every term by its name in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from spkadapt import align
from spkadapt.adapt.config import AdaptConfig, TermConfig
from spkadapt.adapt.outputs import StepOutputs
from spkadapt.adapt.recording_terms import CallTerm, PrototypeTerm, PseudoSpeakerTerm
from spkadapt.adapt.teacher_terms import DinoTerm, MeanTeacherTerm, MocoTerm, SimclrTerm
from spkadapt.adapt.terms import (
    AddaTerm,
    LossTerm,
    PairTerm,
    ReconstructionTerm,
    SourceMomentsTerm,
    Term,
    TermContext,
    as_layers,
    by_speaker,
    construct,
    target_logits,
    target_posteriors,
    with_classes,
    with_predictions,
    with_recordings,
)
from spkadapt.backbone import DnnConfig
from spkadapt.errors import InputError, suggest
from spkadapt.features import FeatureConfig
from spkadapt.model import ModelDescription, SpeakerModel

Loss = Callable[..., nn.Module]
Builder = Callable[[TermContext, TermConfig], Term]


def _pair(loss: Loss) -> Builder:
    return lambda context, config: PairTerm(
        lambda dim: construct(loss, config.options, {"dim": dim}), context, config
    )


def _loss(
    loss: Loss, looks_at: Callable[[StepOutputs], tuple[Any, ...]], *, compares_domains: bool = False
) -> Builder:
    """A loss built with what its constructor asks for of the context."""

    def build(context: TermContext, config: TermConfig) -> Term:
        made = construct(loss, config.options, context.sizes())
        return LossTerm(made, looks_at, compares_domains=compares_domains)

    return build


def _term(cls: Callable[..., Term]) -> Builder:
    """A term that is built as it is, with what its constructor asks for of the context."""

    def build(context: TermContext, config: TermConfig) -> Term:
        term = construct(cls, config.options, {**context.sizes(), "model": context.model})
        assert isinstance(term, Term)
        return term

    return build


TERMS: dict[str, Builder] = {
    # Between rows of the source and rows of the target domain; of frames too.
    "coral": _pair(align.CoralLoss),
    "log_coral": _pair(align.LogCoralLoss),
    "mean": _pair(align.MeanLoss),
    "cmd": _pair(align.CmdLoss),
    "homm": _pair(align.HommLoss),
    "mmd": _pair(align.MmdLoss),
    "linear_mmd": _pair(align.LinearMmdLoss),
    "polynomial_mmd": _pair(align.PolynomialMmdLoss),
    "random_feature_mmd": _pair(align.RandomFeatureMmdLoss),
    "energy": _pair(align.EnergyDistanceLoss),
    "sliced_wasserstein": _pair(align.SlicedWassersteinLoss),
    "max_sliced_wasserstein": _pair(align.MaxSlicedWassersteinLoss),
    "sinkhorn": _pair(align.SinkhornLoss),
    "spectral": _pair(align.BatchSpectralPenalty),
    "dann": _pair(align.DomainAdversarialLoss),
    "wasserstein_critic": _pair(align.WassersteinCriticLoss),
    "vdann": _pair(align.VdannLoss),
    "infovdann": _pair(align.InfoVdannLoss),
    "domain_separation": _pair(align.DomainSeparationLoss),
    "adda": _term(AddaTerm),
    "reconstruction": _term(ReconstructionTerm),
    "joint_mmd": _loss(align.JointMmdLoss, as_layers, compares_domains=True),
    # Knowing speakers of the source and recordings of the target domain, or what the classifier predicts.
    "within_covariance": _loss(align.WithinCovarianceLoss, with_classes, compares_domains=True),
    "between_covariance": _loss(align.BetweenCovarianceLoss, with_classes, compares_domains=True),
    "cdan": _loss(align.ConditionalDomainAdversarialLoss, with_predictions, compares_domains=True),
    "lmmd": _loss(align.LmmdLoss, by_speaker, compares_domains=True),
    # What the speaker classifier makes of the target domain.
    "entropy": _loss(align.EntropyLoss, target_logits),
    "class_confusion": _loss(align.MinimumClassConfusionLoss, target_logits),
    "information": _loss(align.InformationMaximisationLoss, target_logits),
    "nuclear_norm": _loss(align.BatchNuclearNormLoss, target_posteriors),
    # Of the target domain alone; `source_moments` has seen the source once.
    "source_moments": _term(SourceMomentsTerm),
    "contrastive": _loss(align.SameRecordingContrastiveLoss, with_recordings),
    "prototypical": _loss(align.AngularPrototypicalLoss, with_recordings),
    "calls": _term(CallTerm),
    "prototypes": _term(PrototypeTerm),
    "pseudo_speakers": _term(PseudoSpeakerTerm),
    "mean_teacher": _term(MeanTeacherTerm),
    "simclr": _term(SimclrTerm),
    "moco": _term(MocoTerm),
    "dino": _term(DinoTerm),
}
"""What a recipe's `adapt.terms` may name → what builds it."""


def build_term(name: str, config: TermConfig, context: TermContext) -> Term:
    """A term of the objective.

    Raises:
        InputError: there is no such term; it has no such option, no frame level, or nothing to compare with.
    """
    if name not in TERMS:
        raise InputError(f'there is no term "{name}"; {suggest(name, TERMS)}')
    try:
        term = TERMS[name](context, config)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if config.level != "embedding" and not term.has_levels:
        raise InputError(f"{name}: level is {config.level}, and this term compares embeddings only")
    if config.per_source_domain and not term.has_levels:
        raise InputError(f"{name}: per_source_domain is set, and this term does not take a part of the source")
    if term.compares_domains and not context.has_source:
        raise InputError(f"{name}: compares the target domain with the source, and adapt.source is absent")
    return term


def check_terms(config: AdaptConfig) -> list[str]:
    """What is wrong with the terms of a recipe, found by building them for a network of a few weights."""
    shape = DnnConfig(left_context=0, right_context=0, hidden_dims=(2,), embedding_dim=2)
    model = SpeakerModel(ModelDescription(FeatureConfig(), None, 2, "dnn", shape))
    context = TermContext(model, num_speakers=1000, num_recordings=1000, has_source=config.source != "absent")
    problems = []
    for name, term in config.terms.items():
        try:
            build_term(name, term, context)
        except InputError as error:
            problems.append(str(error))
    return problems
