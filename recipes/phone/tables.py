"""The tables and the picture of RESULTS.md, from the `results.json` that `spkadapt report` wrote.

python recipes/phone/tables.py runs/report/short/results.json [--picture eer.png]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from spkadapt.files import atomic_path
from spkadapt.report.plots import GREY, PALETTE
from spkadapt.report.results import ADAPTED, CENTRED, FUSED, PLAIN, Measure
from spkadapt.report.wording import format_change, format_eer

CONDITIONS = {"all": "all trials", "across domains": "trials across phone types"}
COLUMNS = (
    "run",
    "centred EER % [interval]",
    "by seed",
    "change, points [interval]",
    "adapted EER % [interval]",
    "change, adapted",
    "seeds fused, EER %",
    "plain EER %",
    "change, plain",
    "minDCF, centred / adapted",
    "seconds",
)


def load_rows(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of a `results.json`, by condition, run and backend."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["condition"], row["run"].partition("/")[2], row["backend"]): row for row in rows}


def sort_runs(rows: dict[tuple[str, str, str], dict[str, Any]], condition: str) -> list[str]:
    """The runs, the least centred EER first."""
    names = {name for found, name, _ in rows if found == condition}
    return sorted(names, key=lambda name: rows[condition, name, CENTRED]["eer"]["mean"])


def draw(rows: dict[tuple[str, str, str], dict[str, Any]], path: Path) -> None:
    """EER of all trials of each run, centred and adapted, with intervals; the baseline's are dashed lines."""
    names = sort_runs(rows, "all")
    figure = Figure(figsize=(8, 1.1 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    for backend, colour, offset in ((CENTRED, PALETTE[0], -0.15), (ADAPTED, PALETTE[1], 0.15)):
        of_runs = [rows["all", name, backend] for name in names]
        for height, row in enumerate(of_runs):
            eer = row["eer"]
            axes.plot([100 * eer["low"], 100 * eer["high"]], [height + offset] * 2, color=colour, linewidth=1)
            if row["eer_change"] is None:
                axes.axvline(100 * eer["mean"], color=colour, linestyle="--", linewidth=0.8)
        means = [100 * row["eer"]["mean"] for row in of_runs]
        axes.plot(means, [height + offset for height in range(len(names))], "o", color=colour, label=backend)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("EER %, mean of the seeds, and its interval by speaker")
    axes.grid(axis="x", color=GREY, alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def render_table(rows: dict[tuple[str, str, str], dict[str, Any]], condition: str) -> list[str]:
    """One condition's runs as Markdown, the least centred EER first."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for name in sort_runs(rows, condition):
        plain, centred, adapted, fused = (
            rows[condition, name, backend] for backend in (PLAIN, CENTRED, ADAPTED, FUSED)
        )
        cells = (
            name,
            _eer(centred),
            format_eer(Measure(**centred["eer"]))[2],
            _change(centred),
            _eer(adapted),
            _change(adapted),
            f"{100 * fused['eer']['mean']:.2f}",
            f"{100 * plain['eer']['mean']:.2f}",
            _change(plain),
            f"{centred['min_dcf']['mean']:.4f} / {adapted['min_dcf']['mean']:.4f}",
            f"{centred['seconds']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _eer(row: dict[str, Any]) -> str:
    eer, interval, _ = format_eer(Measure(**row["eer"]))
    return f"**{eer}** {interval}"


def _change(row: dict[str, Any]) -> str:
    change = row["eer_change"]
    return "–" if change is None else " ".join(format_change(Measure(**change)))


def main() -> None:
    """Read the command line and print a table for each condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of `spkadapt report`")
    parser.add_argument("--picture", type=Path, help="where to draw all trials, as PNG")
    arguments = parser.parse_args()
    rows = load_rows(arguments.results)
    if arguments.picture:
        draw(rows, arguments.picture)
    for condition, title in CONDITIONS.items():
        sys.stdout.write("\n".join([f"### {title.capitalize()}", "", *render_table(rows, condition), "", ""]))


if __name__ == "__main__":
    main()
