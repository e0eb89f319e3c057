"""What runs gave: error rates with their intervals, side by side, and the file that holds them all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spkadapt.files import write_json
from spkadapt.intervals import INTERVAL_DEFINITION, Replicates, bootstrap_by_speaker, percentile_interval
from spkadapt.metrics import EER_DEFINITION, MIN_DCF_DEFINITION, compute_eer, compute_min_dcf
from spkadapt.progress import Progress

BACKENDS = PLAIN, CENTRED, ADAPTED = "plain", "centred", "adapted"
FUSED = "seed-fused adapted"
"""An ensemble: the mean over a run's seeds of the adapted scores, each seed's standardised over the trials."""


@dataclass(frozen=True, eq=False)
class TrialTruth:
    """What scores are held against: used to measure, and for nothing else.

    Attributes:
        is_target: bool `(num_trials,)`.
        enrol_speakers, test_speakers: `(num_trials,)`, for intervals by speaker.
        same_domain: bool `(num_trials,)`: both sides of one recording domain; None where domains are unknown.
    """

    is_target: np.ndarray
    enrol_speakers: np.ndarray
    test_speakers: np.ndarray
    same_domain: np.ndarray | None

    def select(self, chosen: np.ndarray) -> TrialTruth:
        """The trials where `chosen (num_trials,)` is true."""
        same_domain = None if self.same_domain is None else self.same_domain[chosen]
        return TrialTruth(
            self.is_target[chosen], self.enrol_speakers[chosen], self.test_speakers[chosen], same_domain
        )

    def conditions(self) -> dict[str, np.ndarray]:
        """The trials of each condition that has both kinds: all of them, and those across domains."""
        found = {"all": np.ones(len(self.is_target), dtype=bool)}
        if self.same_domain is not None:
            crossed = ~self.same_domain
            if crossed.any() and not crossed.all() and len(np.unique(self.is_target[crossed])) == 2:
                found["across domains"] = crossed
        return found


@dataclass(frozen=True, eq=False)
class SeedRun:
    """One training of a recipe.

    Attributes:
        seed: of everything random in it.
        seconds: wall time of pretraining, training and scoring.
        scores: float32 `(num_trials,)` of each backend, of the same ones in all runs.
        training: terms of the objective, one mapping a logged step, with the key `step`.
    """

    seed: int
    seconds: float
    scores: Mapping[str, np.ndarray]
    training: Sequence[Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Run:
    """All trainings of a recipe."""

    name: str
    folder: Path
    synthetic: bool
    seeds: Sequence[SeedRun]


@dataclass(frozen=True)
class Measure:
    """An error rate: of each seed, their mean, and the mean's interval by speaker."""

    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One run, one condition, one backend.

    `eer_change` is the EER less the first run's, paired over seeds and speakers; None for the first run itself.
    Where the seeds are fused there is one EER of all, and `seconds` is the sum of theirs, not their mean.
    """

    run: str
    condition: str
    backend: str
    num_targets: int
    num_nontargets: int
    seeds: tuple[int, ...]
    eer: Measure
    min_dcf: Measure
    eer_change: Measure | None
    seconds: float


def compare_runs(
    runs: Sequence[Run],
    truth: TrialTruth,
    *,
    p_target: float,
    num_bootstrap: int,
    level: float,
    progress: Progress | None = None,
) -> list[Row]:
    """Measure every run on the same trials; the first run is what the others are compared with."""
    rows: list[Row] = []
    fuses = any(len(run.seeds) > 1 for run in runs)
    scores = [_stack_scores(run, fuses) for run in runs]
    parts = {name: (chosen, truth.select(chosen)) for name, chosen in truth.conditions().items()}
    with (progress or Progress()).task("intervals", len(parts) * len(scores[0]) * len(runs)) as update:
        for (condition, (chosen, part)), backend in itertools.product(parts.items(), scores[0]):
            first: _Measured | None = None
            for run, of_run in zip(runs, scores, strict=True):
                update(len(rows), run.name)
                measured = _measure_scores(of_run[backend][:, chosen], part, p_target, num_bootstrap)
                rows.append(_row(run, condition, backend, part, measured, first, level))
                first = first or measured
        update(len(rows), "")
    return rows


def _stack_scores(run: Run, fuses: bool) -> dict[str, np.ndarray]:
    """Scores `(num_seeds, num_trials)` of each backend, and `(1, num_trials)` of the seeds fused, if wanted."""
    scores = {name: np.stack([seed.scores[name] for seed in run.seeds]) for name in run.seeds[0].scores}
    if fuses and ADAPTED in scores:
        adapted = scores[ADAPTED].astype(np.float64)
        spread = adapted.std(axis=1, keepdims=True)
        standardised = (adapted - adapted.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
        scores[FUSED] = standardised.mean(axis=0, keepdims=True)
    return scores


@dataclass(frozen=True, eq=False)
class _Measured:
    """EER and minDCF of each seed `(num_seeds,)`, and what the bootstrap makes of them."""

    eers: np.ndarray
    costs: np.ndarray
    replicates: Replicates


def _measure_scores(scores: np.ndarray, truth: TrialTruth, p_target: float, num_bootstrap: int) -> _Measured:
    """Scores are `(num_seeds, num_trials)`."""
    eers = np.array([compute_eer(row, truth.is_target) for row in scores])
    costs = np.array([compute_min_dcf(row, truth.is_target, p_target) for row in scores])
    replicates = bootstrap_by_speaker(
        scores,
        truth.is_target,
        truth.enrol_speakers,
        truth.test_speakers,
        p_target,
        num_replicates=num_bootstrap,
    )
    return _Measured(eers, costs, replicates)


def _row(
    run: Run,
    condition: str,
    backend: str,
    truth: TrialTruth,
    measured: _Measured,
    first: _Measured | None,
    level: float,
) -> Row:
    """What one row says; `first` is what was measured of the first run, and None for that run itself."""
    return Row(
        run.name,
        condition,
        backend,
        int(truth.is_target.sum()),
        int((~truth.is_target).sum()),
        tuple(seed.seed for seed in run.seeds),
        _measure(measured.eers, measured.replicates.eer, level),
        _measure(measured.costs, measured.replicates.min_dcf, level),
        None if first is None else _change(measured, first, level),
        sum(seed.seconds for seed in run.seeds) / len(measured.eers),
    )


def _measure(by_seed: np.ndarray, replicates: np.ndarray, level: float) -> Measure:
    interval = percentile_interval(replicates.mean(axis=0), level)
    return Measure(tuple(by_seed.tolist()), float(by_seed.mean()), interval.low, interval.high)


def _change(measured: _Measured, base: _Measured, level: float) -> Measure:
    """The change from the baseline: seed by seed where both have the same number, and of the means."""
    same_number = len(measured.eers) == len(base.eers)
    by_seed = tuple((measured.eers - base.eers).tolist()) if same_number else ()
    paired = measured.replicates.eer.mean(axis=0) - base.replicates.eer.mean(axis=0)
    interval = percentile_interval(paired, level)
    return Measure(by_seed, float(measured.eers.mean() - base.eers.mean()), interval.low, interval.high)


def write_results(path: Path, rows: Sequence[Row], details: Mapping[str, Any]) -> None:
    """Write `results.json`: the rows, the definitions behind them, and the details of the runs."""
    definitions = {"eer": EER_DEFINITION, "min_dcf": MIN_DCF_DEFINITION, "interval": INTERVAL_DEFINITION}
    write_json(path, {"format": 1, "definitions": definitions, "rows": [asdict(row) for row in rows], **details})


def render_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, EER in per cent."""
    lines = [
        "| run | trials | backend | EER % [interval] | by seed | change, points [interval] | minDCF | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = " / ".join(f"{100 * value:.2f}" for value in row.eer.by_seed)
        change = "–"
        if row.eer_change is not None:
            c = row.eer_change
            change = f"{100 * c.mean:+.2f} [{100 * c.low:+.2f}, {100 * c.high:+.2f}]"
        lines.append(
            f"| {row.run} | {row.condition} | {row.backend} "
            f"| **{100 * row.eer.mean:.2f}** [{100 * row.eer.low:.2f}, {100 * row.eer.high:.2f}] | {seeds} "
            f"| {change} | {row.min_dcf.mean:.4f} | {row.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"
