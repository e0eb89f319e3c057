"""The tables of RESULTS.md, from the `results.json` that `spkadapt report` wrote.

python recipes/phone/tables.py runs/report/results.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from spkadapt.report.results import ADAPTED, CENTRED, FUSED, PLAIN

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


def render_table(rows: dict[tuple[str, str, str], dict[str, Any]], condition: str) -> list[str]:
    """One condition's runs as Markdown, the least centred EER first."""
    runs = sorted(
        {name for found, name, _ in rows if found == condition},
        key=lambda name: rows[condition, name, CENTRED]["eer"]["mean"],
    )
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for name in runs:
        plain, centred, adapted, fused = (
            rows[condition, name, backend] for backend in (PLAIN, CENTRED, ADAPTED, FUSED)
        )
        cells = (
            name,
            _eer(centred),
            " / ".join(f"{100 * value:.2f}" for value in centred["eer"]["by_seed"]),
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
    eer = row["eer"]
    return f"**{100 * eer['mean']:.2f}** [{100 * eer['low']:.2f}, {100 * eer['high']:.2f}]"


def _change(row: dict[str, Any]) -> str:
    change = row["eer_change"]
    if change is None:
        return "–"
    return f"{100 * change['mean']:+.2f} [{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]"


def main() -> None:
    """Read the command line and print a table for each condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of `spkadapt report`")
    rows = load_rows(parser.parse_args().results)
    for condition, title in CONDITIONS.items():
        sys.stdout.write("\n".join([f"### {title.capitalize()}", "", *render_table(rows, condition), "", ""]))


if __name__ == "__main__":
    main()
