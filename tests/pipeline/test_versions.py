"""Simulated versions of the recordings, runs that start from another's model, and terms of every kind."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spkadapt.adapt import TERMS, AdaptConfig, TermConfig, check_terms
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.model import load_model
from spkadapt.pipeline import run, run_recipe
from spkadapt.progress import Progress
from spkadapt.recipe import Recipe
from spkadapt.run_folder import RunFolder
from spkadapt.simulate.call import at_speed, relay_call, simulate_call

MakeRecipe = Callable[..., Recipe]
Tensors = dict[str, torch.Tensor]
NO_PRETRAINING = "pretrain.strategy=none"
VERSIONS = (
    NO_PRETRAINING,
    "simulate.source_copies=2",
    "simulate.target_domain_copies=1",
    "simulate.target_domain_speeds=[0.9, 1.1]",
    "adapt.terms.calls.weight=1",
)
NUM_SOURCE, NUM_POOL = 15, 8
# What a step needs no source for.
TARGET_TERMS = [name for name in TERMS if not check_terms(AdaptConfig({name: TermConfig()}, source="absent"))]


def start(recipe: Recipe, out: Path) -> RunFolder:
    return run_recipe(recipe, out, Progress())


def weights_of(folder: RunFolder, seed: int = 0) -> Tensors:
    model, head = load_model(folder.seed(seed) / "model.safetensors")
    return {**model.state_dict(), **{f"head.{name}": value for name, value in head.items()}}


def changed(first: Tensors, second: Tensors) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def scores_of(folder: RunFolder) -> np.ndarray:
    return folder.load_run().seeds[0].scores["plain"]


def training_of(folder: RunFolder) -> list[dict[str, float]]:
    return json.loads((folder.seed(0) / "training.json").read_text())["training"]


class Killed(BaseException):
    """As abrupt as a signal: no `except Exception` stops it."""


# Simulated versions ------------------------------------------------------------------


def test_each_version_is_made_once_of_the_recordings_it_is_for(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, draws = {"call": 0, "relay": 0, "speed": 0}, []

    def count(name: str, change):
        def counted(waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
            made[name] += 1
            result = change(waveform, generator)
            draws.append(generator.random())
            return result

        return counted

    monkeypatch.setattr(run, "simulate_call", count("call", simulate_call))
    monkeypatch.setattr(run, "relay_call", count("relay", relay_call))
    monkeypatch.setattr(run, "at_speed", lambda speed: count("speed", at_speed(speed)))
    start(make_recipe(*VERSIONS), tmp_path)
    assert made == {"call": 2 * NUM_SOURCE, "relay": NUM_POOL, "speed": 2 * NUM_POOL}
    stores = [FeatureStore.open(folder.parent) for folder in sorted(tmp_path.glob("cache/features-*/store.json"))]
    sizes = sorted(len(store.utterance_ids) for store in stores)
    assert sizes == [NUM_POOL] * 3 + [NUM_SOURCE] * 2 + [29]  # 29 are the recordings themselves
    # No two versions are one another.
    assert len({store.frames.sum().item() for store in stores}) == len(stores)
    # Another run finds them, if its seed of the simulation is the same.
    start(make_recipe(*VERSIONS, "name=other", "seeds=[1]"), tmp_path)
    assert made["call"] == 2 * NUM_SOURCE
    start(make_recipe(*VERSIONS, "name=third", "simulate.seed=1", "simulate.target_domain_copies=0"), tmp_path)
    assert made == {"call": 4 * NUM_SOURCE, "relay": NUM_POOL, "speed": 4 * NUM_POOL}
    assert len(set(draws)) == len(draws) == sum(made.values())  # each utterance, version and seed draws its own


def test_the_pool_has_the_sessions_of_each_voice(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch) -> None:
    """Four sessions in three voices are twelve; relayed calls are no sessions of their own."""
    seen = []
    build = run.MultiTaskObjective

    def note(model, head, adapt, num_recordings: int):
        seen.append(num_recordings)
        return build(model, head, adapt, num_recordings)

    monkeypatch.setattr(run, "MultiTaskObjective", note)
    start(make_recipe(*VERSIONS), tmp_path)
    start(make_recipe(*VERSIONS, "name=fewer", "simulate.target_domain_speeds=[]"), tmp_path)
    assert seen == [12, 4]


def test_versions_are_the_same_bit_for_bit_and_they_matter(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first, second = (start(make_recipe(*VERSIONS), tmp_path / name) for name in "ab")
    assert not changed(weights_of(first), weights_of(second))
    np.testing.assert_array_equal(scores_of(first), scores_of(second))
    stores = [
        {path.parent.name: path.read_bytes() for path in (tmp_path / name).glob("cache/features-*/frames.npy")}
        for name in "ab"
    ]
    assert len(stores[0]) == 6
    assert stores[0] == stores[1]
    for number, other in enumerate(
        ("simulate.seed=1", "simulate.source_copies=1", "simulate.target_domain_copies=0")
    ):
        varied = start(make_recipe(*VERSIONS, other, f"name=other{number}"), tmp_path / "a")
        assert changed(weights_of(first), weights_of(varied)), other


def test_versions_cut_short_go_on_to_the_same_weights(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = start(make_recipe(*VERSIONS), tmp_path / "unbroken")
    calls = []

    def die_in_the_relay(waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        calls.append(len(waveform))
        if len(calls) == 3:
            raise Killed
        return relay_call(waveform, generator)

    def refuse(waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        raise AssertionError("made already")

    with monkeypatch.context() as patch:
        patch.setattr(run, "relay_call", die_in_the_relay)
        with pytest.raises(Killed):
            start(make_recipe(*VERSIONS), tmp_path / "broken")
    assert not (tmp_path / "broken/tiny/seed-0/model.safetensors").exists()
    monkeypatch.setattr(run, "simulate_call", refuse)
    resumed = start(make_recipe(*VERSIONS), tmp_path / "broken")
    assert not changed(weights_of(unbroken), weights_of(resumed))
    monkeypatch.setattr(run, "relay_call", refuse)
    again = start(make_recipe(*VERSIONS, "name=again"), tmp_path / "broken")
    assert not changed(weights_of(unbroken), weights_of(again))


def test_silence_stays_silence(make_recipe: MakeRecipe, tiny_corpus: Path, tmp_path: Path) -> None:
    """No noise has a ratio to it, so that a call of it cannot be made; one silent recording must stop no run."""
    root = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, root)
    with open(root / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "adapt"):
        path = root / next(row["path"] for row in rows if row["split"] == split)
        samples, rate = soundfile.read(path)
        soundfile.write(path, 0 * samples, rate)
    trained = weights_of(start(make_recipe(*VERSIONS, root=root), tmp_path))
    assert all(value.isfinite().all() for value in trained.values())


# A run that starts from another's model ------------------------------------------------------------------


def nothing_moves(*overrides: str) -> tuple[str, ...]:
    """Settings of a run whose steps leave every weight as it is: 1e-30 is lost in its rounding."""
    return (
        "name=next",
        "initial=tiny",
        NO_PRETRAINING,
        "train.learning_rate=1e-30",
        "train.num_steps=1",
        *overrides,
    )


def test_a_run_starts_from_the_initial_runs_model_of_its_seed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    base = start(make_recipe("seeds=[0, 1]"), tmp_path)  # pretrained itself, which is no matter
    after = start(make_recipe(*nothing_moves("seeds=[0, 1]")), tmp_path)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for seed in (0, 1):
        begun, ended = weights_of(base, seed), weights_of(after, seed)
        weights = {name for name in changed(begun, ended) if not name.endswith(statistics)}
        for name in weights:  # zeros may have moved by that little
            torch.testing.assert_close(begun[name], ended[name], rtol=0, atol=1e-25)
    assert changed(weights_of(base, 0), weights_of(base, 1)) >= {"head.weight"}
    description = load_model(after.seed(1) / "model.safetensors")[0].description
    assert (description.history["recipe"], description.history["seed"]) == ("next", 1)
    assert json.loads((after.seed(0) / "training.json").read_text())["pretraining"] == {}


def test_it_goes_on_learning_from_there(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    base = start(make_recipe(NO_PRETRAINING), tmp_path)
    after = start(make_recipe(NO_PRETRAINING, "name=next", "initial=tiny"), tmp_path)
    moved = changed(weights_of(base), weights_of(after))
    assert {"head.weight", "backbone.embedding.weight"} <= moved
    assert not {"feature_mean", "feature_std"} & moved


@pytest.mark.parametrize(("initial", "seeds", "missing"), [("gone", [0], 0), ("tiny", [0, 1], 1)])
def test_an_initial_model_that_is_not_there_stops_the_run_before_it_starts(
    make_recipe: MakeRecipe, tmp_path: Path, initial: str, seeds: list[int], missing: int
) -> None:
    start(make_recipe(NO_PRETRAINING), tmp_path)
    recipe = make_recipe(NO_PRETRAINING, "name=next", f"initial={initial}", f"seeds={seeds}")
    message = "no such model: run the recipe that `initial` names first, with this seed"
    with pytest.raises(InputError, match=message) as refused:
        start(recipe, tmp_path)
    assert refused.value.path == tmp_path / initial / f"seed-{missing}" / "model.safetensors"
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.high_freq=3500", "the initial model's features is not the recipe's"),
        ("vad=null", "the initial model's vad is not the recipe's"),
        ("backbone.name=tdnn", "the initial model's backbone is not the recipe's"),
        ("backbone.dnn.embedding_dim=9", "the initial model's config is not the recipe's"),
        ("corpus.source.where={split: train, gender: f}", "the initial model's speaker_ids is not the recipe's"),
        ("head.margin=0.3", r"the initial model's head is \{.*'margin': 0.2.*\}, the recipe's \{.*'margin': 0.3"),
    ],
)
def test_an_initial_model_of_another_kind(
    make_recipe: MakeRecipe, tmp_path: Path, override: str, message: str
) -> None:
    base = start(make_recipe(NO_PRETRAINING), tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        start(make_recipe(NO_PRETRAINING, "name=next", "initial=tiny", override), tmp_path)
    assert refused.value.path == base.seed(0) / "model.safetensors"


@pytest.mark.parametrize(("source", "term"), [("frozen", "coral"), ("frozen", "adda"), ("absent", "information")])
def test_a_source_that_is_not_trained_on_never_moves_the_head(
    make_recipe: MakeRecipe, tmp_path: Path, source: str, term: str
) -> None:
    base = start(make_recipe(NO_PRETRAINING), tmp_path)
    settings = ("name=next", "initial=tiny", f"adapt.source={source}", f"adapt.terms.{term}.weight=1")
    after = start(make_recipe(NO_PRETRAINING, *settings, "train.learning_rate=0.01"), tmp_path)
    moved = changed(weights_of(base), weights_of(after))
    assert not [name for name in moved if name.startswith("head.")]
    assert {"backbone.embedding.weight", "backbone.pooled_norm.running_mean"} <= moved
    assert all({"speaker"} & logged.keys() == set() for logged in training_of(after))


# Batch normalisation ------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["dnn", "tdnn"])
def test_adabn_changes_the_statistics_alone_once_training_is_over(
    make_recipe: MakeRecipe, tmp_path: Path, backbone: str
) -> None:
    settings = (NO_PRETRAINING, f"backbone.name={backbone}", "adapt.terms.coral.weight=1")
    shared = start(make_recipe(*settings), tmp_path)
    adapted = start(make_recipe(*settings, "name=next", "adapt.batch_norm=adabn"), tmp_path)
    moved = changed(weights_of(shared), weights_of(adapted))
    assert {name.rpartition(".")[2] for name in moved} == {"running_mean", "running_var"}
    assert (scores_of(shared) != scores_of(adapted)).any()


def test_batch_normalisation_per_domain_ends_in_the_plain_network(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    settings = (NO_PRETRAINING, "backbone.name=tdnn", "adapt.terms.coral.weight=1")
    shared = start(make_recipe(*settings), tmp_path)
    apart = start(make_recipe(*settings, "name=next", "adapt.batch_norm=per_domain"), tmp_path)
    moved = changed(weights_of(shared), weights_of(apart))  # which compares the names
    assert {"backbone.norms.0.running_mean", "backbone.norms.0.weight", "head.weight"} <= moved
    assert (scores_of(shared) != scores_of(apart)).any()
    # Another run can start from it.
    start(make_recipe(*nothing_moves("initial=next", "name=last", "backbone.name=tdnn")), tmp_path)


# Terms ------------------------------------------------------------------


def with_terms(names: list[str], schedule: str) -> list[str]:
    return [f"adapt.terms.{name}={{weight: 0.1, schedule: {schedule}}}" for name in names]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_terms_of_every_kind_train_together_and_resume_bit_for_bit(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Four steps with every λ above zero, or with λ = 0 in the first two of them, when the first round begins."""
    recipe = make_recipe(
        NO_PRETRAINING, "train.num_steps=4", "train.log_every=4", *with_terms(list(TERMS), schedule)
    )
    unbroken = start(recipe, tmp_path / "unbroken")
    (logged,) = training_of(unbroken)
    assert {"speaker", *TERMS} <= logged.keys()
    assert all(math.isfinite(value) for value in logged.values())
    show, steps = run.show_terms, []

    def die_after_three(terms) -> str:
        steps.append(terms)
        if len(steps) == 3:
            raise Killed
        return show(terms)

    with monkeypatch.context() as patch:
        patch.setattr(run, "show_terms", die_after_three)
        with pytest.raises(Killed):
            start(recipe, tmp_path / "broken")
    assert (tmp_path / "broken/tiny/seed-0/checkpoint.pt").is_file()
    resumed = start(recipe, tmp_path / "broken")
    assert not changed(weights_of(unbroken), weights_of(resumed))
    assert training_of(resumed) == [logged]


def test_terms_of_the_target_domain_train_without_a_source(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    assert {"entropy", "calls", "pseudo_speakers", "prototypes", "moco", "dino"} <= set(TARGET_TERMS)
    assert not {"coral", "dann", "lmmd", "cdan"} & set(TARGET_TERMS)
    base = start(make_recipe(NO_PRETRAINING), tmp_path)
    settings = ("name=next", "initial=tiny", "adapt.source=absent", "train.num_steps=2")
    after = start(make_recipe(NO_PRETRAINING, *settings, *with_terms(TARGET_TERMS, "constant")), tmp_path)
    (logged,) = training_of(after)
    assert set(TARGET_TERMS) <= logged.keys()
    assert "head.weight" not in changed(weights_of(base), weights_of(after))


def test_a_term_may_rest_while_others_train(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """With λ = 0 a teacher's term is not asked, and has nothing to follow yet."""
    names = ["mean_teacher", "moco", "dino", "prototypes", "pseudo_speakers"]
    settings = (NO_PRETRAINING, "adapt.terms.mmd.weight=1", *with_terms(names, "linear"))
    rested = start(make_recipe(*settings, "train.num_steps=3", "train.log_every=1"), tmp_path)
    first, second, _ = training_of(rested)
    assert not set(names) & first.keys()
    assert {"mmd", *names} <= second.keys()
