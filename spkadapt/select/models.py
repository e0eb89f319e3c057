"""Choosing among models of one pool without labels, and whether any is better than not to adapt at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from spkadapt.errors import InputError, suggest
from spkadapt.intervals import Interval, bootstrap_metrics, percentile_interval
from spkadapt.metrics import compute_eer
from spkadapt.metrics.weighted import EER
from spkadapt.select.backends import FEWEST_SESSIONS
from spkadapt.select.data import SelectionData
from spkadapt.select.pool_trials import find_pseudo_speakers, pseudo_speaker_trials
from spkadapt.select.validators import Validator, find_validator

RULE_VALIDATORS = ("pseudo_speaker_eer", "coral")
MODEL_CHOICE_RULE = (
    "the least mean of the ranks by pseudo_speaker_eer, of pseudo-speakers common to all models, and by coral; it "
    "replaces the baseline only where its pseudo-speaker EER is below the baseline's by a confidence interval of "
    "the paired difference, pseudo-speakers drawn anew, that leaves out zero, at 95 % for all other models "
    "together (Bonferroni)"
)
GATE_LEVEL = 0.95
_NUM_REPLICATES = 1000


@dataclass(frozen=True, eq=False)
class Model:
    """One model that could be chosen: what each of its seeds makes of the same recordings."""

    name: str
    seeds: tuple[SelectionData, ...]


@dataclass(frozen=True)
class Judgement:
    """What one validator says of every model.

    Attributes:
        validator: its name.
        values: of each model by name, a mean over its seeds; None where it cannot be computed.
        ranks: 1 is best; ties share their mean rank, and models without a value the last.
        failures: why a model has no value, by its name.
    """

    validator: str
    values: dict[str, float | None]
    ranks: dict[str, float]
    failures: dict[str, str]


@dataclass(frozen=True)
class Gate:
    """How a model compares with the baseline on the pool's pseudo-speakers.

    Attributes:
        baseline_eer, eer: means over seeds; pseudo-speaker EERs rank, and say no more.
        interval: of eer less baseline_eer.
    """

    baseline_eer: float
    eer: float
    interval: Interval

    @property
    def opens(self) -> bool:
        """Whether the model may replace the baseline."""
        return self.interval.high < 0


@dataclass(frozen=True)
class ModelChoice:
    """What was chosen, and why.

    Attributes:
        chosen: the name of the model.
        best: the name of the first in rank, whether or not it was chosen.
        reason: in words.
        ranks: mean rank of each model by the validators that it was chosen by.
        judgements: of all validators that were asked.
        gate: the first in rank against the baseline; None where they are the same, or nothing can be compared.
    """

    chosen: str
    best: str
    reason: str
    ranks: dict[str, float]
    judgements: tuple[Judgement, ...]
    gate: Gate | None = None


def choose_model(
    models: Sequence[Model],
    *,
    baseline: str,
    validators: Sequence[str] = RULE_VALIDATORS,
    shown: Sequence[str] = (),
    num_replicates: int = _NUM_REPLICATES,
    seed: int = 0,
    on_progress: Callable[[int, str], None] | None = None,
) -> ModelChoice:
    """Choose by `MODEL_CHOICE_RULE`, or by other validators and the same gate.

    Args:
        models: of the same pool and source recordings, each under its own name.
        baseline: the name of the one that was not adapted.
        validators: to rank by; the mean of their ranks counts.
        shown: further validators to ask, of no account for the choice.
        num_replicates, seed: of the gate's bootstrap.
        on_progress: called with how many validators have been asked, and the next one's name.

    Raises:
        InputError: no such baseline or validator, two models of one name, or models of different recordings.
    """
    _check(models, baseline)
    # The baseline first, so that it wins where ranks are equal.
    models = sorted(models, key=lambda model: model.name != baseline)
    names = list(dict.fromkeys((*validators, *shown)))
    judgements = judge_models(models, [find_validator(name) for name in names], on_progress)
    asked = [one for one in judgements if one.validator in validators]
    ranks = {model.name: float(np.mean([one.ranks[model.name] for one in asked])) for model in models}
    best = min(ranks, key=ranks.__getitem__)
    lacking = [one.validator for one in asked if all(value is None for value in one.values.values())]
    chosen, reason, gate = baseline, "it is the first in rank itself", None
    sessions = models[0].seeds[0].pool_sessions
    num_sessions = 0 if sessions is None else len(np.unique(sessions))
    if num_sessions < FEWEST_SESSIONS:
        known = f"{num_sessions or 'no'} sessions are known, fewer than {FEWEST_SESSIONS}"
        reason = f"{known}, so nothing can be compared with it"
    elif lacking:
        reason = f"{', '.join(lacking)} cannot be computed of any model, so there is no ranking to go by"
    elif best != baseline:
        level = 1 - (1 - GATE_LEVEL) / (len(models) - 1)
        rival = next(model for model in models if model.name == best)
        gate = compare_models(models[0], rival, models, level=level, num_replicates=num_replicates, seed=seed)
        chosen, reason = (best, _OPEN) if gate.opens else (baseline, f"{best} {_SHUT}")
    return ModelChoice(chosen, best, reason, ranks, tuple(judgements), gate)


_OPEN = "it is the first in rank, and its pseudo-speaker EER is clearly below the baseline's"
_SHUT = "is the first in rank, but its pseudo-speaker EER is not clearly below the baseline's"


def judge_models(
    models: Sequence[Model],
    validators: Sequence[Validator],
    on_progress: Callable[[int, str], None] | None = None,
) -> list[Judgement]:
    """Ask every validator about every model, all models held against common pseudo-speakers."""
    models, judgements = _share_pseudo_speakers(models), []
    for number, validator in enumerate(validators):
        if on_progress is not None:
            on_progress(number, validator.name)
        judgements.append(_judge(models, validator))
    return judgements


def compare_models(
    baseline: Model,
    model: Model,
    judges: Sequence[Model],
    *,
    level: float = GATE_LEVEL,
    num_replicates: int = _NUM_REPLICATES,
    seed: int = 0,
) -> Gate:
    """How a model's pseudo-speaker EER differs from the baseline's, pseudo-speakers drawn anew, seeds averaged.

    Args:
        judges: the models that say together which calls are of one pseudo-speaker.
        level: of the interval.

    Raises:
        InputError: sessions are not known, or too few for pseudo-speakers.
    """
    everyone = [data for judge in judges for data in judge.seeds]
    trials = pseudo_speaker_trials(everyone[0].session_numbers, find_pseudo_speakers(everyone))
    scores = np.stack([trials.score(data) for data in (*baseline.seeds, *model.seeds)])
    drawn = bootstrap_metrics(
        scores, trials.is_target, trials.first_speakers, trials.second_speakers, [EER],
        num_replicates=num_replicates, seed=seed,
    )[EER.name]  # fmt: skip
    eers = [compute_eer(row, trials.is_target) for row in scores]
    num_first = len(baseline.seeds)
    differences = drawn[num_first:].mean(axis=0) - drawn[:num_first].mean(axis=0)
    interval = percentile_interval(differences, level)
    return Gate(float(np.mean(eers[:num_first])), float(np.mean(eers[num_first:])), interval)


def _judge(models: Sequence[Model], validator: Validator) -> Judgement:
    values: dict[str, float | None] = {}
    failures: dict[str, str] = {}
    for model in models:
        try:
            values[model.name] = float(np.mean([validator.compute(data) for data in model.seeds]))
        except InputError as error:
            values[model.name], failures[model.name] = None, str(error)
    sign = -1 if validator.higher_is_better else 1
    costs = [math.inf if value is None else sign * value for value in values.values()]
    ranks = dict(zip(values, rankdata(costs).tolist(), strict=True))
    return Judgement(validator.name, values, ranks, failures)


def _share_pseudo_speakers(models: Sequence[Model]) -> list[Model]:
    """The models, each to be held against the pseudo-speakers that all of them find together."""
    everyone = [data for model in models for data in model.seeds]
    if everyone[0].pool_sessions is None or len(np.unique(everyone[0].pool_sessions)) < 2:
        return list(models)
    found = find_pseudo_speakers(everyone)
    return [
        Model(model.name, tuple(replace(data, pseudo_speakers=found) for data in model.seeds)) for model in models
    ]


def _check(models: Sequence[Model], baseline: str) -> None:
    names = [model.name for model in models]
    if baseline not in names:
        raise InputError(f'there is no model "{baseline}" to be the baseline; {suggest(baseline, names)}')
    if len(set(names)) < len(names):
        raise InputError(f"two models have one name: {', '.join(names)}")
    first = models[0].seeds[0]
    for model in models:
        for data in model.seeds:
            same = len(data.pool) == len(first.pool) and _equal(data.pool_sessions, first.pool_sessions)
            if not (same and _equal(data.source_speakers, first.source_speakers)):
                raise InputError(f"expected models of the same recordings, found others in {model.name}")


def _equal(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is second or (first is not None and second is not None and np.array_equal(first, second))
