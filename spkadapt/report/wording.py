"""How rows read: error rates in per cent, changes in points, and what may be concluded from an interval."""

from __future__ import annotations

from collections.abc import Sequence

from spkadapt.report.results import Measure, Row


def format_eer(eer: Measure) -> tuple[str, str, str]:
    """The mean, its interval, and the seeds, in per cent: `("3.21", "[2.80, 3.70]", "3.15 / 3.27")`."""
    interval = f"[{100 * eer.low:.2f}, {100 * eer.high:.2f}]"
    return f"{100 * eer.mean:.2f}", interval, " / ".join(f"{100 * value:.2f}" for value in eer.by_seed)


def format_change(change: Measure) -> tuple[str, str]:
    """The change and its interval, in points of per cent: `("-0.40", "[-0.80, -0.02]")`."""
    return f"{100 * change.mean:+.2f}", f"[{100 * change.low:+.2f}, {100 * change.high:+.2f}]"


def judge_change(change: Measure) -> str:
    """`better` or `worse` where the interval of the change in error rate leaves out zero."""
    if change.high < 0:
        return "better"
    return "worse" if change.low > 0 else "no clear difference"


def name_trials(condition: str) -> str:
    """A condition as a noun: `all trials`, `trials across domains`."""
    return "all trials" if condition == "all" else f"trials {condition}"


def group_rows(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows that may be compared with each other, by condition and backend, in the order they came."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.condition, row.backend), []).append(row)
    return groups
