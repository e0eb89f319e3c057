"""The comparison as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from spkadapt.report.results import Row
from spkadapt.report.wording import format_change, format_eer, group_rows, judge_change, name_trials

_STYLES = {"better": "green", "worse": "red", "no clear difference": "dim"}


def render_table(rows: Sequence[Row]) -> Table:
    """The rows, under a heading for each condition and backend; changes are from the first run."""
    counts = {
        name_trials(row.condition): f"{row.num_targets:,} targets, {row.num_nontargets:,} non-targets"
        for row in rows
    }
    caption = "\n".join(f"{trials}: {count}" for trials, count in counts.items())
    table = Table(caption=caption, caption_justify="left", show_edge=False, pad_edge=False)
    for name in ("run", "EER % [interval]", "change, points [interval]", "verdict", "minDCF", "seconds"):
        justify: Literal["left", "right"] = "right" if name in ("minDCF", "seconds") else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for (condition, backend), group in group_rows(rows).items():
        # Text, not str: rich reads square brackets in a string as its own markup.
        table.add_row(Text(f"{name_trials(condition)}, {backend}", style="bold"))
        for row in group:
            table.add_row(*_cells(row))
        table.add_section()
    return table


def _cells(row: Row) -> list[Text]:
    eer, interval, _ = format_eer(row.eer)
    change, verdict = "", ""
    if row.eer_change is not None:
        change, verdict = " ".join(format_change(row.eer_change)), judge_change(row.eer_change)
    return [
        Text(f"  {row.run}"),
        Text.assemble((eer, "bold"), f" {interval}"),
        Text(change),
        Text(verdict, style=_STYLES.get(verdict, "")),
        Text(f"{row.min_dcf.mean:.4f}"),
        Text(f"{row.seconds:.0f}"),
    ]
