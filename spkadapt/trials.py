"""Which pairs of utterances are to be compared, in the orders that the field writes them in."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError, shorten
from spkadapt.files import read_text, write_text


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of utterances to compare, and whether each is of one speaker, where that is known.

    Attributes:
        enrol_ids, test_ids: utterance ids, one of each a trial.
        is_target: bool `(num_trials,)`, True for the same speaker; None when unknown.
    """

    enrol_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    is_target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.enrol_ids)

    def utterance_ids(self) -> tuple[str, ...]:
        """Every id that occurs, once, in order of first occurrence."""
        return tuple(dict.fromkeys((*self.enrol_ids, *self.test_ids)))

    def check_ids(self, known: Sequence[str], *, path: str | Path | None = None) -> None:
        """Raise one `InputError` that lists every id which is not among `known`."""
        unknown = set(self.utterance_ids()) - set(known)
        if not unknown:
            return
        pairs = zip(self.enrol_ids, self.test_ids, strict=True)
        line, name = next((line, name) for line, pair in enumerate(pairs, 1) for name in pair if name in unknown)
        others = "" if len(unknown) == 1 else f" ({len(unknown)} unknown ids in all: {shorten(sorted(unknown))})"
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise InputError(
            f'utterance "{name}" is not among the {len(known)} known ones{others}{hint}',
            path=path,
            line=None if path is None else line,
        )

    def select(self, rows: Sequence[int]) -> Trials:
        """Some of the trials, in the order of `rows`."""
        is_target = None if self.is_target is None else self.is_target[list(rows)]
        return Trials(
            tuple(self.enrol_ids[row] for row in rows), tuple(self.test_ids[row] for row in rows), is_target
        )

    def save(self, path: str | Path) -> None:
        """Write in Kaldi's order, `enrol test target|nontarget`, or `enrol test` when labels are unknown."""
        if self.is_target is None:
            lines = (f"{enrol} {test}" for enrol, test in zip(self.enrol_ids, self.test_ids, strict=True))
        else:
            rows = zip(self.enrol_ids, self.test_ids, self.is_target, strict=True)
            lines = (f"{enrol} {test} {'target' if same else 'nontarget'}" for enrol, test, same in rows)
        write_text(path, "".join(f"{line}\n" for line in lines))


KALDI_LABELS = {"target": True, "nontarget": False}
VOXCELEB_LABELS = {"1": True, "0": False}


def load_trials(path: str | Path) -> Trials:
    """Read trials: Kaldi's `enrol test target|nontarget`, VoxCeleb's `1|0 enrol test`, or `enrol test`.

    The first line decides which order the whole file is in; Windows line ends are fine, and so is a file that is
    gzipped and named `.gz`.

    Raises:
        InputError: naming the file and line, what was found and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such trial list", path=path)
    rows = [line.split() for line in StringIO(read_text(path))]
    if not rows:
        raise InputError("holds no trials", path=path)
    parse = _trial_order(rows[0], path)
    trials = [parse(row, line) for line, row in enumerate(rows, start=1)]
    enrol_ids, test_ids, labels = zip(*trials, strict=True)
    is_target = None if labels[0] is None else np.array(labels, dtype=bool)
    return Trials(enrol_ids, test_ids, is_target)


def _trial_order(first: list[str], path: Path) -> Callable[[list[str], int], tuple[str, str, bool | None]]:
    """The parser of one line, chosen by the first line of the file."""
    if len(first) == 3 and first[2] in KALDI_LABELS:
        order, labels, (label_at, enrol_at, test_at) = "enrol test target|nontarget", KALDI_LABELS, (2, 0, 1)
    elif len(first) == 3 and first[0] in VOXCELEB_LABELS:
        order, labels, (label_at, enrol_at, test_at) = "1|0 enrol test", VOXCELEB_LABELS, (0, 1, 2)
    elif len(first) == 2:
        order, labels, (label_at, enrol_at, test_at) = "enrol test", {}, (0, 0, 1)
    else:
        raise InputError(
            f'found "{" ".join(first)}"; expected "enrol test target|nontarget" (Kaldi), '
            '"1|0 enrol test" (VoxCeleb) or "enrol test"',
            path=path,
            line=1,
        )

    def parse(row: list[str], line: int) -> tuple[str, str, bool | None]:
        if len(row) != len(first) or (labels and row[label_at] not in labels):
            raise InputError(f'found "{" ".join(row)}"; expected "{order}" as in line 1', path=path, line=line)
        return row[enrol_at], row[test_at], labels[row[label_at]] if labels else None

    return parse
