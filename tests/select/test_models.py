"""Choosing among models: ranks by hand, a gate that holds, and what is of no account to either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.intervals import compare_paired
from spkadapt.metrics.weighted import EER
from spkadapt.select import (
    RULE_VALIDATORS,
    VALIDATORS,
    Model,
    SelectionData,
    Validator,
    agree_on_pseudo_speakers,
    choose_model,
    compare_models,
    judge_models,
)
from spkadapt.select.pool_trials import pseudo_speaker_trials

Make = Callable[..., SelectionData]
NAMES = ("source_only", "better", "worse", "noise")


def agreed(models: list[Model], judge: np.ndarray | None = None) -> np.ndarray:
    found = agree_on_pseudo_speakers(models, judge)
    assert found is not None
    return found


@pytest.fixture
def models(make_domains: Make) -> list[Model]:
    """One pool as four models see it: as the source, with noise in one direction, as noise alone; two seeds."""

    def model(name: str, noise: float, shift: float, voices: float = 1.0) -> Model:
        seeds = []
        for seed in (0, 1):
            data = make_domains(noise=0.0, shift=0.0)
            random = np.random.default_rng([seed, int(noise)])
            source = data.source + 0.4 * random.normal(size=data.source.shape)
            pool = voices * data.pool + 0.4 * random.normal(size=data.pool.shape) + shift
            pool[:, 0] += noise * random.normal(size=len(pool))
            seeds.append(replace(data, source=source, pool=pool))
        return Model(name, tuple(seeds))

    return [
        model("source_only", 4.0, 1.0),
        model("better", 0.0, 0.0),
        model("worse", 8.0, 1.5),
        model("noise", 1.0, 3.0, voices=0.0),
    ]


def test_the_better_model_is_chosen_and_passes_the_gate(models: list[Model]) -> None:
    choice = choose_model(models, baseline="source_only")
    assert (choice.chosen, choice.best) == ("better", "better")
    assert choice.gate is not None
    assert choice.gate.opens
    assert choice.gate.interval.high < 0
    assert choice.gate.interval.level == pytest.approx(1 - 0.05 / 3)
    assert [one.validator for one in choice.judgements] == list(RULE_VALIDATORS)
    assert set(choice.ranks) == set(NAMES)
    assert "clearly below the baseline's" in choice.reason


def test_a_gain_that_is_not_clear_changes_nothing(models: list[Model]) -> None:
    """Ranked first, with the same embeddings but for a breath of noise."""
    random = np.random.default_rng(0)
    slight = tuple(
        replace(data, pool=data.pool - 0.1 + 0.01 * random.normal(size=data.pool.shape))
        for data in models[0].seeds
    )
    choice = choose_model([models[0], Model("slight", slight)], baseline="source_only", validators=["mmd"])
    assert (choice.chosen, choice.best) == ("source_only", "slight")
    assert choice.gate is not None
    assert choice.gate.interval.high >= 0
    assert choice.reason == (
        "slight is the first in rank, but its pseudo-speaker EER is not clearly below the baseline's"
    )


def test_a_baseline_that_leads_needs_no_gate(models: list[Model]) -> None:
    choice = choose_model([*models[2:], models[0]], baseline="source_only")
    assert (choice.chosen, choice.gate, choice.reason) == ("source_only", None, "it is the first in rank itself")


def test_the_gate_is_the_paired_test_of_intervals(models: list[Model]) -> None:
    first, second = (Model(one.name, one.seeds[:1]) for one in models[:2])
    found = agreed([first, second])
    gate = compare_models(first, second, found, level=0.9, num_replicates=200, seed=3)
    everyone = [*first.seeds, *second.seeds]
    trials = pseudo_speaker_trials(everyone[0].session_numbers, found)
    test = compare_paired(
        *(trials.score(data) for data in everyone), trials.is_target, trials.first_speakers,
        trials.second_speakers, EER, num_replicates=200, level=0.9, seed=3,
    )  # fmt: skip
    assert (gate.baseline_eer, gate.eer, gate.interval) == (test.first, test.second, test.interval)


def other_callers(models: list[Model]) -> np.ndarray:
    """The pool as one would embed it to whom the calls 1 and 2, 3 and 4, … by number are of one caller."""
    callers = np.random.default_rng(8).normal(size=(17, 7))
    return callers[(models[0].seeds[0].session_numbers + 1) // 2]


def test_a_judge_alone_says_which_calls_are_of_one_speaker(models: list[Model]) -> None:
    judge = other_callers(models)
    found = agreed(models, judge)
    np.testing.assert_array_equal(found, np.maximum(0, (np.arange(30) + 1) // 2 * 2 - 1))
    assert not np.array_equal(found, agreed(models))
    choice = choose_model(models, baseline="source_only", judge=judge)
    data = models[1].seeds[0]
    trials = pseudo_speaker_trials(data.session_numbers, found)
    values = choice.judgements[0].values
    assert values["better"] == pytest.approx(np.mean([trials.eer(one) for one in models[1].seeds]))
    gate = compare_models(models[0], models[1], found)
    assert gate.eer == pytest.approx(values["better"])
    # By callers that no model hears, none is better than another.
    assert choice.chosen == "source_only"


def test_how_long_a_judges_embeddings_are_is_all_one(models: list[Model]) -> None:
    random = np.random.default_rng(3)
    judge = other_callers(models) + 0.5 * random.normal(size=(120, 7))
    lengths = 10.0 ** random.integers(-3, 4, size=(120, 1))
    np.testing.assert_array_equal(agreed(models, lengths * judge), agreed(models, judge))


def test_a_judge_of_other_recordings(models: list[Model]) -> None:
    with pytest.raises(InputError, match=r"expected a judge of the 120 recordings, found shape \(119, 7\)"):
        choose_model(models, baseline="source_only", judge=other_callers(models)[1:])


def test_seeds_are_averaged(models: list[Model]) -> None:
    """In values, and replicate by replicate in the gate: a seed given twice counts no more than once."""
    validator = VALIDATORS["coral"]
    both = judge_models(models, [validator], None)[0].values["better"]
    assert both == pytest.approx(np.mean([validator.compute(data) for data in models[1].seeds]))
    pair = models[:2]
    twice = [Model(one.name, one.seeds * 2) for one in pair]
    once, again = (compare_models(*of_both, agreed(pair), num_replicates=100) for of_both in (pair, twice))
    assert again.interval.low == pytest.approx(once.interval.low)
    assert again.eer == pytest.approx(once.eer)


def test_ranks_follow_the_direction_and_share_ties(models: list[Model]) -> None:
    values = {"source_only": 1.0, "better": 3.0, "worse": 3.0}

    def compute(data: SelectionData) -> float:
        found = next(one.name for one in models for seed in one.seeds if np.array_equal(seed.pool, data.pool))
        if found == "noise":
            raise InputError("of no use here")
        return values[found]

    high, low = judge_models(models, [Validator("high", True, compute), Validator("low", False, compute)], None)
    assert high.ranks == {"source_only": 3, "better": 1.5, "worse": 1.5, "noise": 4}
    assert low.ranks == {"source_only": 1, "better": 2.5, "worse": 2.5, "noise": 4}
    assert high.values == {**values, "noise": None}
    assert high.failures == {"noise": "of no use here"}


def test_the_mean_of_ranks_decides(models: list[Model]) -> None:
    choice = choose_model(models, baseline="source_only", validators=["coral", "mmd", "snd"], shown=["entropy"])
    assert [one.validator for one in choice.judgements] == ["coral", "mmd", "snd", "entropy"]
    for name, rank in choice.ranks.items():
        assert rank == pytest.approx(np.mean([one.ranks[name] for one in choice.judgements[:3]]))
    assert choice.best == min(choice.ranks, key=lambda name: choice.ranks[name])


def test_the_baseline_wins_a_tie(models: list[Model]) -> None:
    twin = Model("a_twin", models[0].seeds)
    choice = choose_model([twin, models[0]], baseline="source_only")
    assert (choice.chosen, choice.gate) == ("source_only", None)
    assert choice.ranks == {"source_only": 1.5, "a_twin": 1.5}


def test_the_order_of_models_and_utterances_is_of_no_account(models: list[Model]) -> None:
    choice = choose_model(models, baseline="source_only")
    backwards = choose_model(models[::-1], baseline="source_only")
    assert (backwards.chosen, backwards.gate, backwards.ranks) == (choice.chosen, choice.gate, choice.ranks)


@pytest.mark.parametrize(
    ("num_sessions", "known"), [(None, "no sessions are known"), (19, "19 sessions are known")]
)
def test_without_enough_calls_the_baseline_stays(
    models: list[Model], num_sessions: int | None, known: str
) -> None:
    sessions = None if num_sessions is None else np.arange(120) % num_sessions
    fewer = [Model(one.name, tuple(replace(data, pool_sessions=sessions) for data in one.seeds)) for one in models]
    choice = choose_model(fewer, baseline="source_only", shown=["source_eer"])
    assert (choice.chosen, choice.gate) == ("source_only", None)
    assert choice.reason == f"{known}, fewer than 20, so nothing can be compared with it"
    assert set(choice.ranks) == set(NAMES)  # shown all the same


def test_a_ranking_that_nothing_can_make_keeps_the_baseline(models: list[Model]) -> None:
    """One utterance a call: no pair within any."""
    sessions = np.arange(120)
    single = [
        Model(one.name, tuple(replace(data, pool_sessions=sessions) for data in one.seeds)) for one in models
    ]
    choice = choose_model(single, baseline="source_only", validators=["same_recording_eer"])
    assert choice.chosen == "source_only"
    assert choice.reason == ("same_recording_eer cannot be computed of any model, so there is no ranking to go by")
    assert set(choice.judgements[0].failures) == set(NAMES)


def test_progress_names_every_validator(models: list[Model]) -> None:
    seen: list[tuple[int, str]] = []
    choose_model(models[:2], baseline="better", on_progress=lambda *step: seen.append(step))
    assert seen == [(0, "pseudo_speaker_eer"), (1, "coral")]


def test_what_is_refused(models: list[Model]) -> None:
    with pytest.raises(InputError, match=r'no model "source" to be the baseline; did you mean "source_only"\?'):
        choose_model(models, baseline="source")
    with pytest.raises(InputError, match="two models have one name: source_only, source_only"):
        choose_model([models[0], models[0]], baseline="source_only")
    with pytest.raises(InputError, match='there is no validator "corall"'):
        choose_model(models, baseline="source_only", validators=["corall"])
    data = models[1].seeds[0]
    others = (
        replace(data, pool=data.pool[:-4], pool_sessions=data.session_numbers[:-4]),
        replace(data, pool_sessions=data.session_numbers),
        replace(data, pool_sessions=None),
        replace(data, source_speakers=data.source_speakers[::-1].copy()),
    )
    for other in others:
        with pytest.raises(InputError, match="expected models of the same recordings, found others in better"):
            choose_model([models[0], Model("better", (other,))], baseline="source_only")
