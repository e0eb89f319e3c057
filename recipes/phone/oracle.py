"""An ORACLE: what labels of the target domain would be worth. Nothing else may touch them.

Two-fold over the speakers of wuw2's evaluation split: a recipe of this folder with the speakers of one half in
place of calls, and else as it is; scored on the trials within the other half. Beside it any finished runs on
those same trials.

    python recipes/phone/oracle.py RUN … [--recipe contrastive] [--root ../shared/corpora] [--out runs]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from spkadapt.intervals import bootstrap_by_speaker, percentile_interval
from spkadapt.manifest import Manifest, load_manifest
from spkadapt.metrics import compute_eer
from spkadapt.pipeline import run_recipe
from spkadapt.progress import Progress
from spkadapt.recipe import load_recipe
from spkadapt.report.results import ADAPTED, CENTRED
from spkadapt.run_folder import RunFolder
from spkadapt.score import align_scores, load_scores
from spkadapt.trials import Trials, load_trials

HERE = Path(__file__).parent
PROGRESS = Progress(Console())


def split_speakers(evaluation: Manifest) -> list[set[str]]:
    """Two halves of the speakers, drawn once."""
    speakers = sorted(set(evaluation.speakers()))
    order = np.random.default_rng(0).permutation(len(speakers))
    return [{speakers[place] for place in order[half::2]} for half in (0, 1)]


def write_fold(evaluation: Manifest, trials: Trials, trained: set[str], tested: set[str], folder: Path) -> Trials:
    """Manifests and trials of one fold, where the speakers trained on stand for sessions. Returns the trials."""
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(
        tuple(replace(item, session_id=item.speaker_id) for item in evaluation if item.speaker_id in trained)
    ).save_csv(folder / "trained.csv")
    Manifest(tuple(item for item in evaluation if item.speaker_id in tested)).save_csv(folder / "tested.csv")
    within = {item.utterance_id for item in evaluation if item.speaker_id in tested}
    pairs = zip(trials.enrol_ids, trials.test_ids, strict=True)
    kept = trials.select([place for place, pair in enumerate(pairs) if within.issuperset(pair)])
    kept.save(folder / "trials.txt")
    return kept


def run_fold(recipe: str, folder: Path, root: Path, out: Path) -> RunFolder:
    """Train on the speakers of the fold in this folder and score its trials."""
    overrides = [
        f"name=phone/oracle-{recipe}-{folder.name}",
        f"corpus.root={root}",
        f"corpus.target_domain={{manifest: {folder.resolve()}/trained.csv}}",
        f"corpus.evaluation={{manifest: {folder.resolve()}/tested.csv, trials: {folder.resolve()}/trials.txt}}",
    ]
    return run_recipe(load_recipe(HERE / f"{recipe}.yaml", overrides), out, PROGRESS)


def scores_of(folders: list[RunFolder], folds: list[Trials], seed: int, backend: str) -> list[np.ndarray]:
    """The scores of each fold's trials: of a run for each fold, or of one run for all."""
    return [
        align_scores(load_scores(folder.seed(seed) / f"scores_{backend}.txt"), fold.enrol_ids, fold.test_ids)
        for folder, fold in zip(folders, folds, strict=True)
    ]


def measure(folders: list[RunFolder], folds: list[Trials], speaker_of: dict[str, str], backend: str) -> str:
    """The mean over folds and seeds of the EER, and of its interval by speaker."""
    eers, ends = [], []
    for seed in folders[0].load_recipe()["seeds"]:
        for scores, fold in zip(scores_of(folders, folds, seed, backend), folds, strict=True):
            sides = [np.array([speaker_of[name] for name in ids]) for ids in (fold.enrol_ids, fold.test_ids)]
            draws = bootstrap_by_speaker(scores, fold.is_target, *sides, p_target=0.05)
            interval = percentile_interval(draws.eer)
            eers.append(compute_eer(scores, fold.is_target))
            ends.append((interval.low, interval.high))
    low, high = np.mean(ends, axis=0)
    return f"{backend} {np.mean(eers):.2%} [{low:.2%}, {high:.2%}]"


def report(name: str, folders: list[RunFolder], folds: list[Trials], speaker_of: dict[str, str]) -> None:
    """One line: a run, with two of its backends."""
    PROGRESS.say(
        "  ".join([f"{name:40}", *(measure(folders, folds, speaker_of, one) for one in (CENTRED, ADAPTED))])
    )


def main() -> None:
    """Read the command line, train both folds, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="finished runs to show beside it")
    parser.add_argument("--recipe", default="contrastive", help="a recipe of this folder, to train on labels")
    parser.add_argument("--root", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    evaluation = load_manifest(arguments.root / "wuw2/manifest.csv").where({"split": "eval"})
    trials = load_trials(arguments.root / "wuw2/trials_eval.txt")
    halves = split_speakers(evaluation)
    folds, folders = [], []
    for number, (tested, trained) in enumerate((halves, halves[::-1])):
        folder = arguments.out / "oracle" / str(number)
        folds.append(write_fold(evaluation, trials, trained, tested, folder))
        folders.append(run_fold(arguments.recipe, folder, arguments.root, arguments.out))
    speaker_of = {item.utterance_id: str(item.speaker_id) for item in evaluation}
    num_trials = sum(map(len, folds))
    PROGRESS.say(
        f"EER of {num_trials:,} trials within the halves, mean of folds and seeds, of the folds' intervals"
    )
    for path in arguments.runs:
        report(path.name, [RunFolder(path)] * 2, folds, speaker_of)
    report(f"ORACLE ({arguments.recipe} with labels)", folders, folds, speaker_of)


if __name__ == "__main__":
    main()
