"""What every benchmark shares: alternating timings, one table, one JSON file."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison. Rates (higher is better) all the way: `ours`, `peer` and `bound` in `unit`."""

    name: str
    ours: float
    peer: float | None
    bound: float | None
    unit: str
    ratio_to_peer: float | None
    ratio_to_bound: float | None


def parse_arguments(description: str) -> argparse.Namespace:
    """The two options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most 60 seconds in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as JSON")
    return parser.parse_args()


def median_seconds(calls: Sequence[Callable[[], object]], repeats: int, pause: float = 0.0) -> list[float]:
    """Median wall time of each call, in seconds, timed in turn (A B C A B C …) after one warm-up round.

    Taking turns lets a drift of the machine's speed fall on all of them alike. `pause` seconds before each call
    let the threads of another's library, which wait busily for a while, go to sleep.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, seconds in zip(calls, times, strict=True):
            time.sleep(pause)
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def compare(
    name: str,
    amount: float,
    unit: str,
    *,
    ours: Callable[[], object],
    peer: Callable[[], object] | None = None,
    bound: Callable[[], object] | None = None,
    repeats: int = 5,
    pause: float = 0.0,
) -> Row:
    """Time the calls in turn and turn seconds into rates: `amount` of `unit`'s numerator per call."""
    calls = [call for call in (ours, peer, bound) if call is not None]
    rates = iter(amount / seconds for seconds in median_seconds(calls, repeats, pause))
    our_rate = next(rates)
    peer_rate = next(rates) if peer is not None else None
    bound_rate = next(rates) if bound is not None else None
    return Row(
        name,
        our_rate,
        peer_rate,
        bound_rate,
        unit,
        our_rate / peer_rate if peer_rate else None,
        our_rate / bound_rate if bound_rate else None,
    )


def publish(title: str, rows: Sequence[Row], json_file: Path | None) -> None:
    """Print the table; write the JSON where asked."""
    table = Table(title=title)
    for heading in ("what", "unit", "ours", "peer", "bound", "ours / peer", "ours / bound"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for row in rows:
        cells = (row.ours, row.peer, row.bound, row.ratio_to_peer, row.ratio_to_bound)
        table.add_row(row.name, row.unit, *("–" if cell is None else f"{cell:,.4g}" for cell in cells))
    console = Console()
    # A log file has no width; rich would fold the table at 80 columns.
    (console if console.is_terminal else Console(width=140)).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
