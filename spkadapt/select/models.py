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
from spkadapt.select.data import SelectionData, unit_rows
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
    judge: np.ndarray | None = None,
    num_replicates: int = _NUM_REPLICATES,
    seed: int = 0,
    on_progress: Callable[[int, str], None] | None = None,
) -> ModelChoice:
    """Choose by `MODEL_CHOICE_RULE`, or by other validators and the same gate.

    Models that all hear the channel agree on pseudo-speakers that share one. Another extractor's embeddings of the
    pool, if there are any, are a judge that owes the models nothing.

    Args:
        models: of the same pool and source recordings, each under its own name.
        baseline: the name of the one that was not adapted.
        validators: to rank by; the mean of their ranks counts.
        shown: further validators to ask, of no account for the choice.
        judge: the pool as another extractor embeds it, which then finds the pseudo-speakers alone.
        num_replicates, seed: of the gate's bootstrap.
        on_progress: called with how many validators have been asked, and the next one's name.

    Shape:
        judge: `(num_pool, any dim)`

    Raises:
        InputError: no such baseline or validator, two models of one name, models of different recordings, or a
            judge of others.
    """
    _check(models, baseline)
    # The baseline first, so that it wins where ranks are equal.
    models = sorted(models, key=lambda model: model.name != baseline)
    names = list(dict.fromkeys((*validators, *shown)))
    pseudo_speakers = agree_on_pseudo_speakers(models, judge)
    judgements = judge_models(models, [find_validator(name) for name in names], pseudo_speakers, on_progress)
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
        assert pseudo_speakers is not None  # there are sessions
        level = 1 - (1 - GATE_LEVEL) / (len(models) - 1)
        rival = next(model for model in models if model.name == best)
        gate = compare_models(
            models[0], rival, pseudo_speakers, level=level, num_replicates=num_replicates, seed=seed
        )
        chosen, reason = (best, _OPEN) if gate.opens else (baseline, f"{best} {_SHUT}")
    return ModelChoice(chosen, best, reason, ranks, tuple(judgements), gate)


_OPEN = "it is the first in rank, and its pseudo-speaker EER is clearly below the baseline's"
_SHUT = "is the first in rank, but its pseudo-speaker EER is not clearly below the baseline's"


def agree_on_pseudo_speakers(models: Sequence[Model], judge: np.ndarray | None = None) -> np.ndarray | None:
    """The pseudo-speaker of each session, as all models find them together, or a judge; None without sessions.

    Args:
        judge: as for `choose_model`.

    Shape:
        judge: `(num_pool, any dim)`
        returns `(num_sessions,)`

    Raises:
        InputError: a judge of other recordings.
    """
    first = models[0].seeds[0]
    if judge is not None and (judge.ndim != 2 or len(judge) != len(first.pool)):
        raise InputError(f"expected a judge of the {len(first.pool)} recordings, found shape {judge.shape}")
    if first.pool_sessions is None or len(np.unique(first.pool_sessions)) < 2:
        return None
    pools = [data.unit_pool for model in models for data in model.seeds] if judge is None else [unit_rows(judge)]
    return find_pseudo_speakers(pools, first.session_numbers)


def judge_models(
    models: Sequence[Model],
    validators: Sequence[Validator],
    pseudo_speakers: np.ndarray | None,
    on_progress: Callable[[int, str], None] | None = None,
) -> list[Judgement]:
    """Ask every validator about every model, all models held against these pseudo-speakers."""
    models = [
        Model(model.name, tuple(replace(data, pseudo_speakers=pseudo_speakers) for data in model.seeds))
        for model in models
    ]
    judgements = []
    for number, validator in enumerate(validators):
        if on_progress is not None:
            on_progress(number, validator.name)
        judgements.append(_judge(models, validator))
    return judgements


def compare_models(
    baseline: Model,
    model: Model,
    pseudo_speakers: np.ndarray,
    *,
    level: float = GATE_LEVEL,
    num_replicates: int = _NUM_REPLICATES,
    seed: int = 0,
) -> Gate:
    """How a model's pseudo-speaker EER differs from the baseline's, pseudo-speakers drawn anew, seeds averaged.

    Args:
        pseudo_speakers: of each session, as `agree_on_pseudo_speakers` says.
        level: of the interval.

    Raises:
        InputError: sessions are not known, or too few for pseudo-speakers.
    """
    trials = pseudo_speaker_trials(baseline.seeds[0].session_numbers, pseudo_speakers)
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
