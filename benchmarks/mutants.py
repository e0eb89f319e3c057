"""Mutation testing of `spkadapt.pretrain`: the code is broken in known ways, and its tests must notice.

`mutants.yaml` lists the mutants: for each file of the package, a text that occurs in it exactly once, what
replaces it, what that breaks, and the narrowest tests that should fail. The first mutant of each file is what
`--quick` runs. Package and tests are copied; one mutant after another is written into the copy, never into the
working tree, and pytest runs there until the first failure, in a fork of a process that has imported PyTorch: a
mutant costs its own tests and little more. A kill is a failed test; a test that does not end is one too, and is
told apart. Exit code 1 if fewer than 95 % are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from harness import Row, parse_arguments, publish

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
PACKAGE, TESTS = Path("spkadapt/pretrain"), Path("tests/pretrain")
LEAST_KILLED = 0.95

# What the tests import, in the process that is forked. Nothing of spkadapt, whose mutants each fork imports anew.
PRELOADED = ["__main__", "pytest", "hypothesis", "torch", "torch._dynamo", "speechbrain", "scipy", "sklearn"]
PASSED, FAILED, TIMED_OUT, NOT_THE_COPY = 0, 1, -1, 99

# A mutant's tests are some of those that the unbroken copy passes at first, in a time that tells the load.
TIMES_UNBROKEN = 3


@dataclass(frozen=True)
class Mutant:
    """One way to break the package.

    Attributes:
        file: within `spkadapt/pretrain`.
        breaks: what is wrong then.
        old: what it replaces, which the file holds exactly once.
        new: by what.
        tests: node ids of the tests that should fail.
    """

    file: str
    breaks: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, text: str) -> str:
        """The file's `text`, broken."""
        if text.count(self.old) != 1:
            raise SystemExit(
                f"{self.file}: the mutant “{self.breaks}” is stale: its text occurs {text.count(self.old)} times, "
                f"expected once:\n{self.old}"
            )
        broken = text.replace(self.old, self.new)
        compile(broken, self.file, "exec")
        return broken


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: which.
        code: `PASSED` (it survived), `FAILED` or `TIMED_OUT`.
        killer: the test that failed.
    """

    mutant: Mutant
    code: int
    killer: str

    @property
    def killed(self) -> bool:
        """Whether the tests noticed."""
        return self.code != PASSED


def load_mutants(quick: bool) -> list[Mutant]:
    """The table, or the first mutant of each file."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [
        Mutant(f"{stem}.py", row["breaks"], row["old"], row["new"], find_tests(row["tests"]))
        for stem, rows in table.items()
        for row in (rows[:1] if quick else rows)
    ]


def find_tests(words: str) -> tuple[str, ...]:
    """Node ids of "file part part …": the tests of test_file.py with any of the parts in their names, or all."""
    stem, *parts = words.split()
    path = TESTS / f"test_{stem}.py"
    names = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    for part in parts:
        if not any(part in name for name in names):
            raise SystemExit(f'{TABLE.name}: no test in {path} has "{part}" in its name; there are {names}')
    return tuple(f"{path}::{name}" for name in names if not parts or any(part in name for part in parts))


def run_pytest(copy: Path, tests: Sequence[str], log: Path) -> None:
    """In a fork: run `tests` in `copy`; ends the process with pytest's exit code."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    import hypothesis
    import pytest

    # No shrinking, which takes long and changes no verdict; the same examples each time, however slow the machine.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutants", phases=phases, derandomize=True, deadline=None, database=None, print_blob=False
    )
    options = ["-x", "-q", "--tb=line", "--timeout=0", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
    code = int(pytest.main([*options, *tests]))
    if not str(sys.modules["spkadapt"].__file__).startswith(str(copy)):
        code = NOT_THE_COPY
    sys.stdout.flush()
    os._exit(code)


class Laboratory:
    """A copy of package and tests, in which mutants are tried."""

    def __init__(self, folder: Path) -> None:
        self.copy, self.log = folder / "copy", folder / "log"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "spkadapt", self.copy / "spkadapt", ignore=ignored)
        shutil.copytree(ROOT / TESTS, self.copy / TESTS, ignore=ignored)
        for name in ("pyproject.toml", "tests/conftest.py"):
            shutil.copy(ROOT / name, self.copy / name)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def run(self, tests: Sequence[str], seconds: float | None) -> int:
        """pytest's exit code, `TIMED_OUT` after so many `seconds`."""
        process = self._context.Process(target=run_pytest, args=(self.copy, tests, self.log))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return TIMED_OUT
        return process.exitcode if process.exitcode is not None else TIMED_OUT

    def check_unbroken(self, mutants: Sequence[Mutant]) -> float:
        """Seconds that all the mutants' tests take in the unbroken copy, where they must pass."""
        start = time.monotonic()
        code = self.run(sorted({test for mutant in mutants for test in mutant.tests}), None)
        if code != PASSED:
            raise SystemExit(f"the tests of the unbroken copy fail (exit code {code}):\n{self.log.read_text()}")
        return time.monotonic() - start

    def try_mutant(self, mutant: Mutant, seconds: float) -> Outcome:
        """Break the copy, run the tests, mend the copy."""
        path = self.copy / PACKAGE / mutant.file
        text = path.read_text(encoding="utf-8")
        path.write_text(mutant.apply(text), encoding="utf-8")
        code = self.run(mutant.tests, seconds)
        path.write_text(text, encoding="utf-8")
        log = self.log.read_text(encoding="utf-8", errors="replace")
        if code not in (PASSED, FAILED, TIMED_OUT):
            raise SystemExit(f"{mutant.file}: “{mutant.breaks}” does not run (exit code {code}):\n{log}")
        failed = re.search(r"^(?:FAILED|ERROR) \S*/test_(\S+)", log, re.MULTILINE)
        return Outcome(mutant, code, failed[1] if failed and code == FAILED else "")


def try_all(mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    """Each mutant's outcome, with progress and the time left."""
    with tempfile.TemporaryDirectory(prefix="spkadapt-mutants-") as folder:
        laboratory = Laboratory(Path(folder))
        for mutant in mutants:  # a stale one is told of before any has run
            mutant.apply((ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8"))
        seconds = laboratory.check_unbroken(mutants)
        print(f"the unbroken copy passes {seconds:.0f} s of tests; {len(mutants)} mutants", flush=True)
        start = time.monotonic()
        for number, mutant in enumerate(mutants, start=1):
            outcome = laboratory.try_mutant(mutant, 30 + TIMES_UNBROKEN * seconds)
            verdict = {PASSED: "SURVIVED", TIMED_OUT: "timed out"}.get(outcome.code, "killed")
            left = (time.monotonic() - start) / number * (len(mutants) - number)
            by = f" ({outcome.killer})" if outcome.killer else ""
            place = f"[{number}/{len(mutants)}, {left:.0f} s left]"
            print(f"{place} {verdict}: {mutant.file}: {mutant.breaks}{by}", flush=True)
            yield outcome


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """The fraction that was killed, in all and of each file."""
    rows = []
    for name in ("all of spkadapt/pretrain", *dict.fromkeys(outcome.mutant.file for outcome in outcomes)):
        killed = [outcome.killed for outcome in outcomes if outcome.mutant.file == name or not rows]
        fraction = sum(killed) / len(killed)
        rows.append(Row(name, fraction, None, 1.0, f"killed of {len(killed)}", None, fraction))
    return rows


def main() -> int:
    arguments = parse_arguments(str(__doc__).splitlines()[0])
    os.environ["OMP_NUM_THREADS"] = "1"  # of the forks; nothing here computes
    start = time.monotonic()
    outcomes = list(try_all(load_mutants(arguments.quick)))
    rows = summarise(outcomes)
    publish(f"Mutants, {time.monotonic() - start:.0f} s", rows, arguments.json)
    print(f"{sum(outcome.code == TIMED_OUT for outcome in outcomes)} of the killed timed out")
    for outcome in outcomes:
        if not outcome.killed:
            print(f"survived: {outcome.mutant.file}: {outcome.mutant.breaks}")
    return 0 if rows[0].ours >= LEAST_KILLED else 1


if __name__ == "__main__":
    sys.exit(main())
