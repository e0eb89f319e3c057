"""Tables and a picture of what was chosen: regret, harm, and how both are spread over shifts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from candidates import ALWAYS_CORAL, SOURCE_ONLY, STRONGEST
from matplotlib.figure import Figure

from spkadapt.files import atomic_path, write_text
from spkadapt.intervals import clopper_pearson_interval, percentile_interval
from spkadapt.report.plots import GREY, PALETTE
from spkadapt.select import VALIDATORS

Record: TypeAlias = dict[str, Any]
Policy: TypeAlias = Callable[[Record], str]
PARTS = ("synthetic", "telephone", "wuw2")
RULE, UNGATED = "the rule, with its gate", "the rule, without its gate"
_NUM_DRAWS = 2000


def policies() -> dict[str, Policy]:
    """What chooses one candidate of a record, by name."""
    fixed = {
        RULE: lambda record: record["chosen"],
        UNGATED: lambda record: record["best"],
        "source-only always": lambda record: SOURCE_ONLY,
        "CORAL always": lambda record: ALWAYS_CORAL,
        "the strongest always": lambda record: STRONGEST,
    }
    return {**fixed, **{f"`{name}` alone": _first_by(name) for name in VALIDATORS}}


def _first_by(validator: str) -> Policy:
    return lambda record: min(record["ranks"][validator], key=record["ranks"][validator].__getitem__)


def regrets(records: Sequence[Record], policy: Policy) -> np.ndarray:
    """EER of what was chosen less the least of all candidates, `(num_records,)`, points."""
    return 100 * np.array([one["eers"][policy(one)] - min(one["eers"].values()) for one in records])


def changes(records: Sequence[Record], policy: Policy) -> np.ndarray:
    """EER of what was chosen less that of source-only, `(num_records,)`, points; above 0 is harm."""
    return 100 * np.array([one["eers"][policy(one)] - one["eers"][SOURCE_ONLY] for one in records])


def mean_interval(values: np.ndarray, shifts: Sequence[str]) -> tuple[float, float]:
    """Of a mean, 95 %, shifts drawn anew with all their seeds."""
    names, numbers = np.unique(np.asarray(shifts), return_inverse=True)
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    drawn = np.random.default_rng(0).integers(len(names), size=(_NUM_DRAWS, len(names)))
    found = percentile_interval(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return found.low, found.high


def policy_table(records: Sequence[Record]) -> str:
    """Every policy's regret, gain and harm."""
    shifts = [one["shift"] for one in records]
    lines = [
        "| choice by | regret, points [95 %] | worst regret | EER less source-only's | harm | harm > 0.5 points |",
        "|---|---|---|---|---|---|",
    ]
    for name, policy in policies().items():
        regret, change = regrets(records, policy), changes(records, policy)
        low, high = mean_interval(regret, shifts)
        cells = [
            name,
            f"{regret.mean():.2f} [{low:.2f}, {high:.2f}]",
            f"{regret.max():.1f}",
            f"{change.mean():+.2f}",
            harm_cell(change, 0.0),
            harm_cell(change, 0.5),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def contrast_table(records: Sequence[Record]) -> str:
    """EER of the rule's choice less that of others, shifts drawn anew; below 0 the rule is better."""
    shifts, chosen = [one["shift"] for one in records], policies()
    lines = ["| EER, points, of the rule less | with its gate | without |", "|---|---|---|"]
    for name in ("source-only always", "CORAL always", "the strongest always", "`proxy_a_distance` alone"):
        cells = []
        for rule in (RULE, UNGATED):
            difference = regrets(records, chosen[rule]) - regrets(records, chosen[name])
            low, high = mean_interval(difference, shifts)
            cells.append(f"{difference.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def harm_cell(change: np.ndarray, margin: float) -> str:
    """How often what was chosen is worse than source-only by more than a margin, with its exact interval."""
    num_harmed = int((change > margin + 1e-9).sum())
    found = clopper_pearson_interval(num_harmed, len(change))
    return f"{num_harmed} of {len(change)} [{100 * found.low:.0f}, {100 * found.high:.0f} %]"


def shift_table(records: Sequence[Record]) -> str:
    """Mean EERs of each shift: what there was to choose from, and what came of it."""
    policy = policies()
    columns = ("source-only always", "CORAL always", "the strongest always", RULE)
    lines = [f"| shift | least | {' | '.join(columns)} | adapted |", "|---|" + "---|" * (len(columns) + 2)]
    for shift in dict.fromkeys(one["shift"] for one in records):
        own = [one for one in records if one["shift"] == shift]
        least = np.mean([min(one["eers"].values()) for one in own])
        eers = [np.mean([one["eers"][policy[column](one)] for one in own]) for column in columns]
        adapted = sum(one["chosen"] != SOURCE_ONLY for one in own)
        cells = [shift, *(f"{100 * eer:.2f}" for eer in (least, *eers)), f"{adapted} of {len(own)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def case_table(records: Sequence[Record]) -> str:
    """Every candidate's EER, what was ranked first and what was chosen, one row a record."""
    names = list(records[0]["eers"])
    lines = [f"| case | {' | '.join(names)} | first in rank | chosen |", "|---|" + "---|" * (len(names) + 2)]
    for one in records:
        cells = [one["shift"], *(f"{100 * one['eers'][name]:.2f}" for name in names), one["best"], one["chosen"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_regrets(records: Sequence[Record], path: Path) -> None:
    """Regret of each policy: one dot a shift (its mean over seeds), and the mean of all."""
    chosen = list(policies().items())[::-1]
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    axes = figure.subplots()
    for row, (name, policy) in enumerate(chosen):
        regret = regrets(records, policy)
        shifts = np.unique([one["shift"] for one in records], return_inverse=True)[1]
        means = np.bincount(shifts, regret) / np.bincount(shifts)
        axes.plot(means, np.full(len(means), row), "o", color=GREY, markersize=4, alpha=0.7)
        colour = PALETTE[1] if name == RULE else PALETTE[0]
        axes.plot(regret.mean(), row, "D", color=colour, markersize=7)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=-0.05)
    axes.set_xticks([0, 1, 2, 5, 10, 20, 40], ["0", "1", "2", "5", "10", "20", "40"])
    axes.set_yticks(range(len(chosen)), [name.replace("`", "") for name, _ in chosen])
    axes.set_xlabel("regret, points of EER: dots are shifts, diamonds means")
    axes.grid(axis="x", color="#dddddd")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def load_records(out: Path, part: str) -> list[Record]:
    """What has ended of a part."""
    path = out / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write_tables(out: Path) -> None:
    """Leave tables.md and regret.png in the folder."""
    found = {part: load_records(out, part) for part in PARTS}
    blind = found["synthetic"] + found["telephone"]
    parts = [f"## All {len(blind)} cases\n\n{contrast_table(blind)}\n\n{policy_table(blind)}"]
    for part in ("synthetic", "telephone"):
        if found[part]:
            parts.append(f"## {part}: policies\n\n{policy_table(found[part])}")
            parts.append(f"## {part}: EER % by shift\n\n{shift_table(found[part])}")
    if found["wuw2"]:
        parts.append(f"## wuw2: EER %\n\n{case_table(found['wuw2'])}")
    seconds = sum(one["seconds"] for records in found.values() for one in records)
    parts.append(f"{seconds:.0f} CPU seconds in all.")
    write_text(out / "tables.md", "\n\n".join(parts) + "\n")
    draw_regrets(blind, out / "regret.png")
