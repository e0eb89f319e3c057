"""How far long work has come, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

Update = Callable[[int, str], None]


class Progress:
    """A bar for each piece of work on a terminal; a line every tenth of it in a log file.

    Args:
        console: where to show it; None shows nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def say(self, message: str) -> None:
        """Show one line."""
        if self.console is not None:
            self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Show a table."""
        if self.console is not None:
            self.console.print(table)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Update]:
        """Follow one piece of work; what it yields takes the number done so far and a short remark."""
        if self.console is None:
            yield lambda done, remark: None
        elif self.console.is_terminal:
            with Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[remark]}"),
                console=self.console,
            ) as bars:
                task = bars.add_task(description, total=total, remark="")
                yield lambda done, remark: bars.update(task, completed=done, remark=remark)
        else:
            yield self._lines(description, total)

    def _lines(self, description: str, total: int) -> Update:
        start = time.monotonic()
        first: tuple[int, float] | None = None
        told = -1

        def update(done: int, remark: str) -> None:
            nonlocal first, told
            now = time.monotonic()
            # Counted from the first call: what an earlier process did must not make this one look fast.
            first = first or (done, now)
            tenth = 10 * done // total
            if tenth == told:
                return
            told = tenth
            known = done > first[0]
            left = f", {(now - first[1]) / (done - first[0]) * (total - done):.0f} s left" if known else ""
            self.say(f"{description}: {done}/{total}, {now - start:.0f} s{left}  {remark}".rstrip())

        return update
