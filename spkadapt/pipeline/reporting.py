"""Runs side by side: run recipes, measure them on the same trials, write the table and the page."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.files import sha256, write_text
from spkadapt.pipeline.corpus import load_corpus
from spkadapt.pipeline.run import run_recipe
from spkadapt.progress import Progress
from spkadapt.recipe import load_recipe
from spkadapt.report.html import write_report
from spkadapt.report.plots import draw_embedding_map
from spkadapt.report.results import Row, compare_runs, render_markdown, write_results
from spkadapt.report.terminal import render_table
from spkadapt.run_folder import RunFolder

MAP_SIZE = 600
PACKAGES = ("spkadapt", "torch", "torchaudio", "numpy", "scipy", "speechbrain")


def check_recipe(path: Path, overrides: Sequence[str], progress: Progress) -> None:
    """Check a recipe and the manifests and trials it names, and say what it would run on.

    Raises:
        InputError: all that is wrong with the recipe, or the first thing that is wrong with its corpus.
    """
    recipe = load_recipe(path, overrides)
    corpus = load_corpus(recipe)
    held_out = f" and {len(corpus.held_out)} held out" if len(corpus.held_out) else ""
    progress.say(
        f"{path}: sound. {len(corpus.source)} labelled utterances, {len(corpus.target_domain)} unlabelled ones"
        f"{held_out}, {len(corpus.trials)} trials, {len(recipe.seeds)} seeds."
    )


def run_recipes(paths: Sequence[Path], overrides: Sequence[str], out: Path, progress: Progress) -> list[Row]:
    """Run recipes, or go on with interrupted runs; then report each, and all of them side by side.

    All recipes, their corpora and folders are checked before the first one starts. The runs are compared with the
    first; their common report is written to the folder above them.

    Raises:
        InputError: bad input; recipes of the same name.
    """
    recipes = [load_recipe(path, overrides) for path in paths]
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise InputError(f"two recipes have the same name: {', '.join(names)}; each needs a folder of its own")
    for recipe in recipes:
        load_corpus(recipe)
        RunFolder(out / recipe.name).check_free(recipe.model_dump(mode="json"))
    folders = [run_recipe(recipe, out, progress).path for recipe in recipes]
    if len(folders) > 1:
        for folder in folders:
            report_runs([folder], None, Progress())
    return report_runs(folders, None, progress)


def report_runs(folders: Sequence[Path], out: Path | None, progress: Progress) -> list[Row]:
    """Compare runs that have ended with the first of them.

    Args:
        folders: of the runs.
        out: where `report.html`, `results.json` and `results.md` go; None for the run's own folder, or for the
            folder above the first of several runs.
        progress: where to show the table.

    Raises:
        InputError: a folder without a run, a run that has not ended, runs scored on different trials.
    """
    runs = [RunFolder(folder) for folder in folders]
    loaded = [run.load_run() for run in runs]
    _check_same_trials(runs)
    truth = runs[0].load_truth()
    recipe = runs[0].load_recipe()
    rows = compare_runs(loaded, truth, **recipe["metrics"], progress=progress)
    out = out or (folders[0] if len(folders) == 1 else folders[0].parent)
    notes = _notes(runs, recipe)
    training = {run.name: {seed.seed: list(seed.training) for seed in run.seeds} for run in loaded}
    write_results(out / "results.json", rows, {**notes, "training": training})
    write_text(out / "results.md", render_markdown(rows))
    mapped = {run.load_recipe()["name"]: run for run in (runs[0], runs[-1])}
    maps = {name: _draw_map(run) for name, run in mapped.items()}
    write_report(out / "report.html", rows, loaded, truth, maps, notes)
    if any(run.synthetic for run in loaded):
        progress.say("The voices are synthetic: these numbers say nothing about real speech.")
    progress.show(render_table(rows))
    progress.say(f"→ {out / 'report.html'}")
    return rows


def _check_same_trials(runs: Sequence[RunFolder]) -> None:
    checksums = {sha256(run.path / "trials.txt") for run in runs}
    if len(checksums) > 1:
        names = ", ".join(str(run.path) for run in runs)
        raise InputError(f"these runs were scored on different trials and cannot be compared: {names}")


def _notes(runs: Sequence[RunFolder], recipe: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to know, or to repeat, of how the numbers came about."""
    by_name = {run.load_recipe()["name"]: run for run in runs}
    return {
        "p_target": recipe["metrics"]["p_target"],
        "level": recipe["metrics"]["level"],
        "synthetic": recipe["corpus"]["synthetic"],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "adapted_backends": {name: run.load_choices() for name, run in by_name.items()},
        "recipes": {name: run.load_recipe() for name, run in by_name.items()},
        "checksums": {name: run.load_inputs() for name, run in by_name.items()},
        "skipped_audio": {name: run.load_skipped() for name, run in by_name.items()},
        "num_skipped_trials": {name: len(run.load_skipped_trials()) for name, run in by_name.items()},
    }


def _draw_map(run: RunFolder) -> str:
    """The first seed's embeddings, an even sample of source, pool and evaluation."""
    recipe = run.load_recipe()
    embeddings = EmbeddingSet.load(run.seed(recipe["seeds"][0]) / "embeddings.npz")
    items = [item for part in run.load_parts() for item in part]
    chosen = [items[place] for place in np.linspace(0, len(items) - 1, min(MAP_SIZE, len(items))).astype(int)]
    vectors = embeddings.select([item.utterance_id for item in chosen]).embeddings
    return draw_embedding_map(
        vectors, [item.domain or "unknown" for item in chosen], [item.speaker_id for item in chosen]
    )
