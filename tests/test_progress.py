"""Progress: a bar, a line each tenth in a log, or nothing; and estimates of this process' own speed."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console
from rich.table import Table

from spkadapt.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def logged_to(log: io.StringIO) -> Progress:
    return Progress(Console(file=log, force_terminal=False, width=40))


def test_a_line_for_every_tenth(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with logged_to(log).task("training", 200) as update:
        for done in range(1, 201):
            clock.now += 2
            update(done, f"loss {done}")
    # 20 steps take 40 s, and the clock of the estimate starts with the first step.
    assert log.getvalue().splitlines() == [
        "training: 1/200, 2 s  loss 1",
        *(f"training: {n}/200, {2 * n} s, {2 * (200 - n)} s left  loss {n}" for n in range(20, 201, 20)),
    ]


def test_what_was_done_before_is_not_credited_to_this_process(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with logged_to(log).task("features", 1000) as update:
        for done in (500, 600, 800):  # the first half was there already
            clock.now += 10
            update(done, "")
    assert log.getvalue().splitlines() == [
        "features: 500/1000, 10 s",
        "features: 600/1000, 20 s, 40 s left",
        "features: 800/1000, 30 s, 13 s left",
    ]


def test_work_of_one_piece(log: io.StringIO) -> None:
    with logged_to(log).task("one", 1) as update:
        update(1, "")
    assert log.getvalue() == "one: 1/1, 0 s\n"


def test_a_terminal_gets_a_bar(log: io.StringIO) -> None:
    progress = Progress(Console(file=log, force_terminal=True, width=120))
    with progress.task("training", 4) as update:
        update(3, "loss 0.5")
    shown = log.getvalue()
    assert all(text in shown for text in ("training", "3/4", "left", "loss 0.5"))


def test_messages_stay_as_they_are(log: io.StringIO) -> None:
    """Brackets are no markup, and a long line is not broken: it may be a path to copy."""
    message = "skipped: [bold]a.wav[/bold]: " + "long " * 20
    logged_to(log).say(message)
    assert log.getvalue() == f"{message}\n"


def test_tables_are_shown(log: io.StringIO) -> None:
    table = Table("EER")
    table.add_row("33.7")
    logged_to(log).show(table)
    assert "EER" in log.getvalue()
    assert "33.7" in log.getvalue()


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("hello")
    progress.show(Table("EER"))
    with progress.task("training", 2) as update:
        update(1, "")
    assert capsys.readouterr() == ("", "")


def test_an_error_within_a_task_goes_on_up(log: io.StringIO) -> None:
    def fail(progress: Progress) -> None:
        with progress.task("training", 2):
            raise KeyError("mine")

    for terminal in (True, False):
        with pytest.raises(KeyError, match="mine"):
            fail(Progress(Console(file=log, force_terminal=terminal)))
    with pytest.raises(KeyError, match="mine"):
        fail(Progress())
