"""The rules that keep results honest, held bit for bit."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spkadapt.backend.chain import Backend
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.model import load_model
from spkadapt.pipeline import run_recipe
from spkadapt.pipeline.corpus import load_corpus
from spkadapt.pipeline.run_backends import score_corpus
from spkadapt.progress import Progress

Rows = list[dict[str, str]]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    model, head = load_model(folder / "seed-0" / "model.safetensors")
    return {**model.state_dict(), **{f"head.{name}": value for name, value in head.items()}}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def differ(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(first[name], second[name]) for name in first)


def change_manifest(root: Path, copy: Path, change: Callable[[Rows], None]) -> Path:
    """A corpus of the same audio whose manifest has been changed; the audio itself is linked, not copied."""
    copy.mkdir()
    (copy / "wav").symlink_to(root / "wav")
    shutil.copy(root / "trials_eval.txt", copy)
    with open(root / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with open(copy / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return copy


def label_the_pool(rows: Rows) -> None:
    for number, row in enumerate(row for row in rows if row["split"] == "adapt"):
        row["speaker_id"], row["gender"] = f"leak{number % 3}", "f" if number % 2 else "m"


def permute_the_pool(rows: Rows) -> None:
    label_the_pool(rows)
    pool = [row for row in rows if row["split"] == "adapt"]
    labels = [row["speaker_id"] for row in pool]
    for row, label in zip(pool, labels[1:] + labels[:1], strict=True):
        row["speaker_id"] = label


def permute_the_evaluation(rows: Rows) -> None:
    evaluation = [row for row in rows if row["split"] == "eval"]
    names = sorted({row["speaker_id"] for row in evaluation})
    renamed = dict(zip(names, names[1:] + names[:1], strict=True))
    for row in evaluation:
        row["speaker_id"] = renamed[row["speaker_id"]]


# What looks at the recordings of the pool one by one, or makes more of them.
CLOSE_LOOKS = (
    "simulate.source_copies=1",
    "simulate.target_domain_copies=1",
    "simulate.target_domain_speeds=[0.9]",
    *(f"adapt.terms.{name}.weight=1" for name in ("within_covariance", "calls", "pseudo_speakers", "prototypes")),
)


@pytest.mark.parametrize("settings", [("adapt.terms.mmd.weight=1",), CLOSE_LOOKS])
@pytest.mark.parametrize("change", [label_the_pool, permute_the_pool, permute_the_evaluation])
def test_labels_of_the_target_domain_change_no_bit(tiny_corpus, make_recipe, tmp_path, change, settings) -> None:
    changed = change_manifest(tiny_corpus, tmp_path / "changed", change)
    plain = run_recipe(make_recipe(*settings), tmp_path / "a", Progress())
    leaky = run_recipe(make_recipe(*settings, root=changed), tmp_path / "b", Progress())
    assert_same_bits(weights_of(plain.path), weights_of(leaky.path))


def test_labels_of_the_source_domain_do_change_it(tiny_corpus, make_recipe, tmp_path) -> None:
    """The control: the same test on labels that may be seen must find a difference."""

    def swap(rows: Rows) -> None:
        source = [row for row in rows if row["split"] == "train"]
        source[0]["speaker_id"], source[-1]["speaker_id"] = source[-1]["speaker_id"], source[0]["speaker_id"]

    changed = change_manifest(tiny_corpus, tmp_path / "changed", swap)
    plain = run_recipe(make_recipe(), tmp_path / "a", Progress())
    other = run_recipe(make_recipe(root=changed), tmp_path / "b", Progress())
    assert differ(weights_of(plain.path), weights_of(other.path))


@pytest.mark.parametrize("method", ["coral", "mmd", "dann"])
def test_a_weight_of_zero_is_no_adaptation_bit_for_bit(make_recipe, tmp_path, method) -> None:
    none = run_recipe(make_recipe(), tmp_path / "none", Progress())
    zero = run_recipe(make_recipe(f"adapt.terms.{method}.weight=0"), tmp_path / "zero", Progress())
    full = run_recipe(make_recipe(f"adapt.terms.{method}.weight=1"), tmp_path / "full", Progress())
    assert_same_bits(weights_of(none.path), weights_of(zero.path))
    assert differ(weights_of(none.path), weights_of(full.path))


@pytest.mark.parametrize("method", ["dae", "dbn", "vae"])
def test_same_recipe_and_seed_give_the_same_numbers(make_recipe, tmp_path, method) -> None:
    recipe = make_recipe(f"pretrain.method={method}", "adapt.terms.dann.weight=1")
    first, second = (run_recipe(recipe, tmp_path / name, Progress()) for name in "ab")
    assert_same_bits(weights_of(first.path), weights_of(second.path))
    for backend, scores in first.load_run().seeds[0].scores.items():
        np.testing.assert_array_equal(scores, second.load_run().seeds[0].scores[backend])


def test_the_backend_of_a_run_is_the_adapted_one_and_gives_its_scores(make_recipe, tmp_path) -> None:
    recipe = make_recipe()
    run = run_recipe(recipe, tmp_path, Progress())
    backend = Backend.load(run.seed(0) / "backend.safetensors")
    assert backend.history["choice"] == run.load_choices()[0]
    embeddings = EmbeddingSet.load(run.seed(0) / "embeddings.npz")
    found = score_corpus(backend, embeddings, load_corpus(recipe)).scores
    np.testing.assert_allclose(found, run.load_run().seeds[0].scores["adapted"], atol=1e-6)


def test_another_seed_gives_another_model(make_recipe, tmp_path) -> None:
    run = run_recipe(make_recipe("seeds=[0, 1]"), tmp_path, Progress())
    first, second = (load_model(run.seed(seed) / "model.safetensors")[0].state_dict() for seed in (0, 1))
    assert differ(first, second)


@pytest.mark.parametrize("name", ["tdnn", "residual_tdnn", "ecapa"])
def test_other_backbones_run_the_whole_path(make_recipe, tmp_path, name) -> None:
    recipe = make_recipe(f"backbone.name={name}", "pretrain.strategy=none", "adapt.terms.coral.weight=1")
    run = run_recipe(recipe, tmp_path, Progress()).load_run()
    assert {len(scores) for scores in run.seeds[0].scores.values()} == {len(run.seeds[0].scores["plain"])}


def test_frozen_layers_stay_as_pretraining_left_them(make_recipe, tmp_path) -> None:
    frozen = run_recipe(make_recipe("pretrain.strategy=frozen"), tmp_path / "a", Progress())
    longer = run_recipe(make_recipe("pretrain.strategy=frozen", "train.num_steps=9"), tmp_path / "b", Progress())
    tuned = run_recipe(make_recipe(), tmp_path / "c", Progress())
    hidden = [name for name in weights_of(frozen.path) if ".hidden." in name]
    assert hidden
    for name in hidden:
        assert torch.equal(weights_of(frozen.path)[name], weights_of(longer.path)[name])
        assert not torch.equal(weights_of(frozen.path)[name], weights_of(tuned.path)[name])


def test_what_is_held_out_trains_nothing(tiny_corpus, make_recipe, tmp_path) -> None:
    """Other audio of the calls held out: not a bit of the model changes, and the backends do."""
    held_out: list[str] = []

    def swap(rows: Rows) -> None:
        spoken = [row for row in rows if row["utterance_id"] in held_out]
        assert len(spoken) == 4
        spoken[0]["path"], spoken[-1]["path"] = spoken[-1]["path"], spoken[0]["path"]
        spoken[1]["path"], spoken[-2]["path"] = spoken[-2]["path"], spoken[1]["path"]

    settings = ("corpus.target_domain.held_out=0.5", *CLOSE_LOOKS)
    plain = run_recipe(make_recipe(*settings), tmp_path / "a", Progress())
    held_out += [item.utterance_id for item in plain.load_chosen_by().recordings]
    changed = change_manifest(tiny_corpus, tmp_path / "changed", swap)
    other = run_recipe(make_recipe(*settings, root=changed), tmp_path / "b", Progress())
    assert_same_bits(weights_of(plain.path), weights_of(other.path))
    embeddings = [EmbeddingSet.load(run.seed(0) / "embeddings.npz").select(held_out) for run in (plain, other)]
    assert not np.array_equal(embeddings[0].embeddings, embeddings[1].embeddings)
    whole = run_recipe(make_recipe(*CLOSE_LOOKS), tmp_path / "c", Progress())
    assert differ(weights_of(plain.path), weights_of(whole.path))


def test_what_scores_a_run_cannot_train_it(make_recipe) -> None:
    recipe = make_recipe("corpus.target_domain.where={split: [adapt, eval]}")
    with pytest.raises(InputError, match=r"6 utterances are in both corpus.target_domain and corpus.evaluation"):
        run_recipe(recipe, Path("never"), Progress())
    recipe = make_recipe("corpus.source.where={split: [train, eval]}")
    with pytest.raises(InputError, match=r"6 utterances are in both corpus.source and corpus.evaluation"):
        run_recipe(recipe, Path("never"), Progress())
    assert not Path("never").exists()


def test_audio_that_scores_a_run_cannot_train_it_under_another_name(tiny_corpus, make_recipe, tmp_path) -> None:
    def leak(rows: Rows) -> None:
        pool, scored = (next(row for row in rows if row["split"] == split) for split in ("adapt", "eval"))
        pool["path"] = f"../changed/{scored['path']}"

    recipe = make_recipe(root=change_manifest(tiny_corpus, tmp_path / "changed", leak))
    with pytest.raises(InputError, match=r"1 utterances are in both corpus.target_domain and corpus.evaluation"):
        run_recipe(recipe, tmp_path / "out", Progress())


def test_audio_that_scores_a_run_cannot_be_held_out_of_its_pool(tiny_corpus, make_recipe, tmp_path) -> None:
    held_out = "corpus.target_domain.held_out=0.5"
    name = load_corpus(make_recipe(held_out)).held_out.recordings[0].utterance_id

    def leak(rows: Rows) -> None:
        scored = next(row for row in rows if row["split"] == "eval")
        (leaked,) = [row for row in rows if row["utterance_id"] == name]
        leaked["path"] = f"../changed/{scored['path']}"

    recipe = make_recipe(held_out, root=change_manifest(tiny_corpus, tmp_path / "changed", leak))
    with pytest.raises(
        InputError,
        match=r"1 utterances are in both what is held out of corpus.target_domain and corpus.evaluation",
    ):
        run_recipe(recipe, tmp_path / "out", Progress())


def test_a_corpus_that_changes_under_a_run_is_noticed(tiny_corpus, make_recipe, tmp_path) -> None:
    root = change_manifest(tiny_corpus, tmp_path / "own", lambda rows: None)
    recipe = make_recipe(root=root)
    run_recipe(recipe, tmp_path / "out", Progress())
    trials = (root / "trials_eval.txt").read_text().splitlines()
    (root / "trials_eval.txt").write_text("\n".join(trials[:-1]) + "\n")
    with pytest.raises(InputError, match=r"the corpus has changed since this run began \(trials.txt\)"):
        run_recipe(recipe, tmp_path / "out", Progress())
