"""Single stages on files: each useful alone, and together the same as a run."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from spkadapt import cli
from spkadapt.adapt import AdaptConfig, TermConfig
from spkadapt.corpora import CORPORA, synthetic
from spkadapt.corpora.synthetic import SyntheticConfig
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.manifest import load_manifest
from spkadapt.model import load_model, save_model
from spkadapt.pipeline import (
    adapt_model,
    embed_manifest,
    evaluate_file,
    prepare_corpus,
    run_recipe,
    score_file,
)
from spkadapt.progress import Progress
from spkadapt.recipe import load_recipe
from spkadapt.run_folder import RunFolder
from spkadapt.score import load_scores
from spkadapt.train import TrainConfig
from spkadapt.trials import load_trials

MMD = AdaptConfig({"mmd": TermConfig(10.0)})
TRAINING = TrainConfig(num_steps=6, batch_size=4, crop_frames=20, checkpoint_every=2)


@pytest.fixture(scope="module")
def run(tiny_corpus: Path, tiny_recipe_values, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run over the tiny corpus."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe_values(tiny_corpus)))
    return run_recipe(load_recipe(path), folder, Progress())


@pytest.fixture
def model(run: RunFolder) -> Path:
    return run.seed(0) / "model.safetensors"


@pytest.fixture
def pool(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A manifest of the unlabelled recordings alone."""
    load_manifest(tiny_corpus / "manifest.csv").where({"split": "adapt"}).save_csv(tmp_path / "pool.csv")
    return tmp_path / "pool.csv"


def test_the_stages_on_files_give_the_scores_of_the_run(run, model, pool, tiny_corpus, tmp_path) -> None:
    everything = tmp_path / "all.npz"
    cache = tmp_path / "cache"
    embed_manifest(model, tiny_corpus / "manifest.csv", everything, Progress(), cache=cache)
    embed_manifest(model, pool, tmp_path / "pool.npz", Progress(), cache=cache)
    for backend, centre in (("plain", None), ("centred", tmp_path / "pool.npz")):
        score_file(everything, tiny_corpus / "trials_eval.txt", tmp_path / "scores.txt", Progress(), centre=centre)
        ours = load_scores(tmp_path / "scores.txt").scores
        np.testing.assert_allclose(ours, load_scores(run.seed(0) / f"scores_{backend}.txt").scores, atol=2e-6)


def test_adapting_changes_the_model_and_is_remembered(model, pool, tmp_path) -> None:
    out = tmp_path / "adapted.safetensors"
    adapt_model(model, pool, out, Progress(), adaptation=MMD, training=TRAINING, cache=tmp_path / "cache")
    (before, _), (after, head) = load_model(model), load_model(out)
    assert not torch.equal(before.backbone.embedding.weight, after.backbone.embedding.weight)
    assert head
    remembered = after.description.history["adapted"][0]["adapt"]
    assert remembered["terms"]["mmd"]["weight"] == 10.0
    assert remembered["batch_norm"] == "shared"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    again = tmp_path / "again.safetensors"
    adapt_model(out, pool, again, Progress(), adaptation=MMD, training=TRAINING, cache=tmp_path / "cache")
    assert len(load_model(again)[0].description.history["adapted"]) == 2


def test_speakers_of_the_unlabelled_manifest_are_not_read(model, pool, tmp_path) -> None:
    labelled = tmp_path / "labelled.csv"
    header, *rows = pool.read_text().splitlines()
    place = header.split(",").index("speaker_id")
    spoilt = [
        ",".join([*row.split(",")[:place], f"x{n % 2}", *row.split(",")[place + 1 :]])
        for n, row in enumerate(rows)
    ]
    labelled.write_text("\n".join([header, *spoilt]) + "\n")
    for name, manifest in (("a", pool), ("b", labelled)):
        adapt_model(
            model, manifest, tmp_path / f"{name}.safetensors", Progress(),
            adaptation=MMD, training=TRAINING, cache=tmp_path / "cache",
        )  # fmt: skip
    first, second = (load_model(tmp_path / f"{name}.safetensors")[0].state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_adaptation_that_was_killed_goes_on(model, pool, tmp_path, monkeypatch) -> None:
    from spkadapt.pipeline import standalone

    def adapt(out: str) -> None:
        adapt_model(
            model, pool, tmp_path / out, Progress(), adaptation=MMD, training=TRAINING, cache=tmp_path / "cache"
        )

    adapt("unbroken.safetensors")
    whole_train = standalone.train

    def die_at_the_fifth_step(*arguments, on_step, **options):
        def step(number, terms):
            if number == 5:
                raise KeyboardInterrupt
            on_step(number, terms)

        return whole_train(*arguments, on_step=step, **options)

    monkeypatch.setattr(standalone, "train", die_at_the_fifth_step)
    with pytest.raises(KeyboardInterrupt):
        adapt("killed.safetensors")
    assert not (tmp_path / "killed.safetensors").exists()
    monkeypatch.setattr(standalone, "train", whole_train)
    adapt("killed.safetensors")
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()


def test_a_source_that_was_named_is_remembered(model, pool, tiny_corpus, tmp_path) -> None:
    source, once, twice = tmp_path / "source.csv", tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    load_manifest(tiny_corpus / "manifest.csv").where({"split": "train"}).save_csv(source)
    settings = {"adaptation": MMD, "training": TRAINING, "cache": tmp_path / "cache"}
    adapt_model(model, pool, once, Progress(), source=source, seed=3, **settings)
    history = load_model(once)[0].description.history
    assert history["source"] == {"manifest": str(source), "where": {}}
    assert history["adapted"][0]["unlabelled"] == str(pool)
    assert history["adapted"][0]["seed"] == 3
    source.unlink()
    with pytest.raises(InputError, match=rf"the source corpus it was trained on, {source}, is not there"):
        adapt_model(once, pool, twice, Progress(), **settings)


def test_a_model_without_its_classifier_cannot_be_adapted(model, pool, tmp_path) -> None:
    bare = tmp_path / "bare.safetensors"
    save_model(bare, load_model(model)[0])
    with pytest.raises(InputError, match=r"bare.safetensors: this model has no speaker classifier"):
        adapt_model(bare, pool, tmp_path / "out", Progress(), adaptation=MMD, training=TRAINING)


def test_a_negative_seed_is_refused(model, pool, tmp_path) -> None:
    with pytest.raises(InputError, match="seed is -1; expected a number ≥ 0"):
        adapt_model(model, pool, tmp_path / "out", Progress(), adaptation=MMD, training=TRAINING, seed=-1)


@pytest.mark.parametrize("adaptation", [AdaptConfig(), AdaptConfig({"mmd": TermConfig(0.0)})])
def test_an_adaptation_that_does_nothing_is_refused(model, pool, tmp_path, adaptation) -> None:
    with pytest.raises(InputError, match="leaves the model as it is"):
        adapt_model(model, pool, tmp_path / "out", Progress(), adaptation=adaptation, training=TRAINING)


def test_source_corpora_that_do_not_fit(model, pool, tiny_corpus, tmp_path) -> None:
    def adapt(unlabelled: Path, source: Path | None) -> None:
        adapt_model(
            model, unlabelled, tmp_path / "out", Progress(),
            source=source, adaptation=MMD, training=TRAINING, cache=tmp_path / "cache",
        )  # fmt: skip

    with pytest.raises(InputError, match=r"manifest.csv: 15 utterance ids are those of source recordings too"):
        adapt(tiny_corpus / "manifest.csv", None)
    everything = load_manifest(tiny_corpus / "manifest.csv")
    train = everything.where({"split": "train"})
    few = type(train)(tuple(item for item in train if item.speaker_id != train.utterances[0].speaker_id))
    few.save_csv(tmp_path / "few.csv")
    with pytest.raises(InputError, match=r"few.csv: the source corpus lacks 1 of the 5 speakers"):
        adapt(pool, tmp_path / "few.csv")


def test_a_model_whose_source_is_gone(tiny_corpus, make_recipe, pool, tmp_path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(tiny_corpus, root)
    run = run_recipe(make_recipe(root=root), tmp_path / "runs", Progress())
    shutil.rmtree(root)
    with pytest.raises(
        InputError, match=r"the source corpus it was trained on, .*, is not there; name it with --source"
    ):
        adapt_model(
            run.seed(0) / "model.safetensors", pool, tmp_path, Progress(), adaptation=MMD, training=TRAINING
        )


def test_published_figures_from_score_files(shared, tmp_path, monkeypatch, capsys) -> None:
    """VoxSRC 2023's validation figures: EER 4.095 %, minDCF(0.05) 0.2142."""
    for name in ("VoxSRC2023_val.txt", "VoxSRC2023_val_score.txt"):
        (tmp_path / name).write_bytes(gzip.decompress((shared / "fixtures" / f"{name}.gz").read_bytes()))
    scores, trials = tmp_path / "VoxSRC2023_val_score.txt", tmp_path / "VoxSRC2023_val.txt"
    arguments = ["evaluate", scores, trials, "--p-target", "0.05", "--json", tmp_path / "result.json"]
    monkeypatch.setattr("sys.argv", ["spkadapt", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "result.json").read_text())
    assert f"{100 * printed['metrics']['EER']:.3f}" == "4.095"
    assert f"{printed['metrics']['minDCF(0.05)']:.4f}" == "0.2142"
    assert printed["num_targets"] + printed["num_nontargets"] == 49987


def test_trials_without_labels_can_be_scored_and_not_evaluated(run, tiny_corpus, tmp_path) -> None:
    listed = load_trials(tiny_corpus / "trials_eval.txt")
    type(listed)(listed.enrol_ids, listed.test_ids).save(tmp_path / "pairs.txt")
    score_file(run.seed(0) / "embeddings.npz", tmp_path / "pairs.txt", tmp_path / "scores.txt", Progress())
    np.testing.assert_array_equal(
        load_scores(tmp_path / "scores.txt").scores, load_scores(run.seed(0) / "scores_plain.txt").scores
    )
    with pytest.raises(InputError, match=r"pairs.txt: these trials say nothing of which are targets"):
        evaluate_file(tmp_path / "scores.txt", tmp_path / "pairs.txt")


def test_embeddings_with_nan_are_refused_by_name(tiny_corpus, run, tmp_path) -> None:
    found = EmbeddingSet.load(run.seed(0) / "embeddings.npz")
    values = found.embeddings.copy()
    values[3, 1] = np.nan
    np.savez(tmp_path / "bad.npz", utterance_ids=np.array(found.utterance_ids), embeddings=values)
    with pytest.raises(InputError, match=rf"bad.npz: .*{found.utterance_ids[3]}"):
        score_file(tmp_path / "bad.npz", tiny_corpus / "trials_eval.txt", tmp_path / "scores.txt", Progress())


def test_prepare_makes_the_synthetic_corpus(tmp_path, monkeypatch) -> None:
    sizes = {name: 2 for name in SyntheticConfig.__dataclass_fields__ if name.startswith("num_")}
    small = SyntheticConfig(**sizes, duration=0.5)
    monkeypatch.setitem(CORPORA, "synthetic", lambda root: synthetic.prepare(root, small))
    prepare_corpus("synthetic", tmp_path / "made", tmp_path / "out", Progress())
    manifest = load_manifest(tmp_path / "out" / "manifest.csv")
    assert len(manifest) == 3 * 2 * 2 * 2
    assert all(item.path.is_file() for item in manifest)
    assert load_trials(tmp_path / "out" / "trials_eval.txt").is_target.any()


@pytest.mark.parametrize("name", ["speechocean762", "wuw2"])
def test_prepare_writes_what_a_recipe_reads(shared, tmp_path, name) -> None:
    prepare_corpus(name, shared / "corpora" / name, tmp_path, Progress())
    manifest = load_manifest(tmp_path / "manifest.csv")
    assert len(manifest) == {"speechocean762": 2000, "wuw2": 2204}[name]
    assert all(item.path.is_file() for item in manifest)
    assert (tmp_path / "trials_eval.txt").is_file() == (name == "wuw2")
