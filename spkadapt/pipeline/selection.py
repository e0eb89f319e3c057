"""Ranks finished runs without labels of the target domain, and says whether any is better than the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from spkadapt import __version__
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.files import write_json
from spkadapt.manifest import Manifest, UnlabelledPool
from spkadapt.progress import Progress
from spkadapt.run_folder import RunFolder
from spkadapt.select import (
    MODEL_CHOICE_RULE,
    RULE_VALIDATORS,
    VALIDATORS,
    Judgement,
    Model,
    ModelChoice,
    SelectionData,
    choose_model,
    find_validator,
    predict_eer,
)

ALL = "all"
BACKEND = "centred"
_PREDICTED = "predicted_eer"


def select_runs(
    folders: Sequence[Path],
    progress: Progress,
    *,
    baseline: Path | None = None,
    validator: str | None = None,
    judge: Path | None = None,
    json_file: Path | None = None,
) -> ModelChoice:
    """Choose one of several runs by `MODEL_CHOICE_RULE`, from embeddings of the source domain and the pool alone.

    Where the runs held some of the pool's calls out of training, these alone are chosen by. Evaluation manifest,
    trials and scores are not read. Embeddings are centred on their own domain's mean, as the backend `centred` has
    them.

    Args:
        folders: of runs that have ended, trained on the same recordings.
        progress: where to show the table and the choice.
        baseline: the one of them that was not adapted; the first if not given.
        validator: rank by this one of `VALIDATORS` instead of by the rule; or `all`: rule, and ask all of them.
        judge: embeddings of the pool by another extractor, which then alone says which calls are of one speaker.
        json_file: where to write what was found.

    Raises:
        InputError: a folder without a run, a run that has not ended, runs of different recordings or of one name,
            a baseline that is none of them, fewer than two, an unknown validator, or a judge that lacks some of
            the pool.
    """
    if validator not in (None, ALL):
        find_validator(str(validator))
    if len(folders) < 2:
        raise InputError(f"expected two runs or more to choose from, found {len(folders)}")
    runs = [RunFolder(folder) for folder in folders]
    names = [str(run.load_recipe()["name"]) for run in runs]
    unadapted = names[0] if baseline is None else _find_baseline(baseline, folders, names)
    source, pool = _load_common_parts(runs)
    is_held_out = all(run.has_held_out for run in runs)
    models = [_load_model(name, run, source, pool) for name, run in zip(names, runs, strict=True)]
    by = RULE_VALIDATORS if validator in (None, ALL) else (str(validator),)
    shown = tuple(VALIDATORS) if validator == ALL else ()
    with progress.task("validators", len(set(by) | set(shown))) as update:
        choice = choose_model(
            models,
            baseline=unadapted,
            validators=by,
            shown=shown,
            judge=None if judge is None else _load_judge(judge, pool),
            on_progress=update,
        )
    progress.show(_render(choice))
    predictions = _predict(choice, models, unadapted)
    for line in (*_say_pool(pool, is_held_out, judge), *_explain(choice, unadapted, predictions)):
        progress.say(line)
    if json_file is not None:
        record = _describe(choice, unadapted, by, dict(zip(names, folders, strict=True)))
        seen = {"pool_was_held_out": is_held_out, "judge": None if judge is None else str(judge)}
        write_json(json_file, {**record, **seen, "predictions": predictions})
        progress.say(f"→ {json_file}")
    return choice


def _find_baseline(baseline: Path, folders: Sequence[Path], names: Sequence[str]) -> str:
    for folder, name in zip(folders, names, strict=True):
        if folder.resolve() == baseline.resolve():
            return name
    listed = ", ".join(str(folder) for folder in folders)
    raise InputError(f"the baseline must be one of the runs to choose from: {listed}", path=baseline)


def _load_common_parts(runs: Sequence[RunFolder]) -> tuple[Manifest, UnlabelledPool]:
    """The source domain of the runs and the pool to choose by, whose type has no speakers."""
    parts = [(run.load_source(), run.load_chosen_by()) for run in runs]
    known = [
        (
            [(item.utterance_id, item.speaker_id) for item in source],
            [(item.utterance_id, item.session_id) for item in pool.recordings],
        )
        for source, pool in parts
    ]
    for run, found in zip(runs, known, strict=True):
        if found != known[0]:
            message = (
                f"this run's source or target domain, or what of it is held out, is not that of {runs[0].path}; "
                "they cannot be compared"
            )
            raise InputError(message, path=run.path)
    return parts[0]


def _load_model(name: str, run: RunFolder, source: Manifest, pool: UnlabelledPool) -> Model:
    seeds = run.load_recipe()["seeds"]
    unfinished = [seed for seed in seeds if not run.has_seed(seed)]
    if unfinished:
        raise InputError(f"the run has not ended: seeds {unfinished} are missing; run it again", path=run.path)
    embeddings = [EmbeddingSet.load(run.seed(seed) / "embeddings.npz") for seed in seeds]
    return Model(name, tuple(SelectionData.from_parts(one, source, pool).centred() for one in embeddings))


def _render(choice: ModelChoice) -> Table:
    """One row a model, first in rank first; one column a validator: values, the best in bold."""
    table = Table(show_edge=False, pad_edge=False, caption="No label of the target domain was seen.")
    table.add_column("run", no_wrap=True)
    table.add_column("mean rank", justify="right")
    for judgement in choice.judgements:
        arrow = "↑" if VALIDATORS[judgement.validator].higher_is_better else "↓"
        # Broken at its underscores, so that a dozen columns fit.
        table.add_column(f"{judgement.validator.replace('_', ' ')} {arrow}", justify="right")
    for name, rank in sorted(choice.ranks.items(), key=lambda item: item[1]):
        shown = f"{name}  ← chosen" if name == choice.chosen else name
        table.add_row(Text(shown), f"{rank:.2f}", *(_cell(judgement, name) for judgement in choice.judgements))
    return table


def _cell(judgement: Judgement, name: str) -> Text:
    value = judgement.values[name]
    if value is None:
        return Text("–")
    shown = f"{100 * value:.2f} %" if judgement.validator.endswith("_eer") else f"{value:.4g}"
    best = judgement.ranks[name] == min(judgement.ranks.values())
    return Text(shown, style="bold" if best else "")


def _predict(choice: ModelChoice, models: Sequence[Model], baseline: str) -> dict[str, Any]:
    """The EER that scores predict for the baseline and the first in rank, where that was asked for."""
    if _PREDICTED not in [judgement.validator for judgement in choice.judgements]:
        return {}
    predictions: dict[str, Any] = {}
    for model in models:
        if model.name in (baseline, choice.best):
            try:
                found = [predict_eer(data) for data in model.seeds]
            except InputError:
                continue  # the judgement says why
            ends = [[one.interval.low, one.interval.high] for one in found]
            mean = float(np.mean([one.eer for one in found]))
            predictions[model.name] = {"eer": mean, "interval": np.mean(ends, axis=0).tolist()}
    return predictions


def _load_judge(path: Path, pool: UnlabelledPool) -> np.ndarray:
    """Another extractor's embeddings of the pool, less their mean."""
    judge = EmbeddingSet.load(path)
    rows = judge.embeddings[judge.rows([item.utterance_id for item in pool.recordings], path)]
    return rows - rows.mean(axis=0, dtype=np.float64)


def _say_pool(pool: UnlabelledPool, is_held_out: bool, judge: Path | None) -> list[str]:
    sessions = pool.sessions()
    found = f"{len(pool)} recordings" + (f" of {len(set(sessions))} sessions" if sessions else "")
    how = (
        "no training saw" if is_held_out else "runs were trained on, which flatters those that know them by heart"
    )
    lines = [f"chosen by {found} that {how}"]
    return lines if judge is None else [*lines, f"which calls are of one speaker is as {judge} says"]


def _explain(choice: ModelChoice, baseline: str, predictions: dict[str, Any]) -> list[str]:
    lines = [f"chosen: {choice.chosen}: {choice.reason}"]
    if choice.gate is not None:
        gate, interval = choice.gate, choice.gate.interval
        lines.append(
            f"gate: pseudo-speaker EER of {choice.best} {100 * gate.eer:.2f} %, of {baseline} "
            f"{100 * gate.baseline_eer:.2f} %; difference in points [{100 * interval.low:+.2f}, "
            f"{100 * interval.high:+.2f}] at {100 * interval.level:.1f} %"
        )
    for name, found in predictions.items():
        low, high = found["interval"]
        lines.append(
            f"a mixture of Gaussians predicts for {name} an EER of {100 * found['eer']:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}], if scores were so distributed: a hint"
        )
    failures = {
        f"{judgement.validator}: {reason}": None
        for judgement in choice.judgements
        for reason in judgement.failures.values()
    }
    return lines + list(failures)


def _describe(
    choice: ModelChoice, baseline: str, validators: Sequence[str], folders: dict[str, Path]
) -> dict[str, Any]:
    return {
        "spkadapt": __version__,
        "rule": MODEL_CHOICE_RULE,
        "ranked_by": list(validators),
        "backend": BACKEND,
        "baseline": baseline,
        "runs": {name: str(folder) for name, folder in folders.items()},
        **asdict(choice),
    }
