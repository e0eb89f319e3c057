"""Which pairs of utterances are to be compared, in the orders that the field writes them in."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError, shorten
from spkadapt.files import read_text, split_columns, write_text

# A name like an unknown one is sought among so many known ones at most: among a million it would take minutes.
_MOST_COMPARED = 10_000


def number_ids(ids: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct ids, in order of first occurrence, and which of them each id is.

    Shape:
        returns ids, and int32 `(len(ids),)`
    """
    number_of: dict[str, int] = defaultdict(count().__next__)
    numbers = np.fromiter(map(number_of.__getitem__, ids), np.int32, len(ids))
    return tuple(number_of), numbers


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of utterances to compare, and whether each is of one speaker, where that is known.

    Attributes:
        enrol_ids, test_ids: utterance ids, one of each a trial; the enrolment side may name models instead.
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
        names = [name for pair in zip(self.enrol_ids, self.test_ids, strict=True) for name in pair]
        refuse_unknown("utterance", names, known, lambda place: place // 2 + 1, path=path)

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


def refuse_unknown(
    kind: str,
    names: Sequence[str],
    known: Sequence[str],
    line_of: Callable[[int], int],
    *,
    path: str | Path | None,
) -> None:
    """Raise one `InputError` that lists every name which is not among the known ones.

    Args:
        kind: what the names are of, for the message.
        names: in the order of the file; a name may come more than once.
        known: the names there are.
        line_of: the line of the file that a place in `names` came from.
        path: the file; None gives a message without a line.
    """
    unknown = set(names) - set(known)
    if not unknown:
        return
    place, name = next((place, name) for place, name in enumerate(names) if name in unknown)
    others = "" if len(unknown) == 1 else f" ({len(unknown)} unknown ids in all: {shorten(sorted(unknown))})"
    near = difflib.get_close_matches(name, known[:_MOST_COMPARED], n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise InputError(
        f'{kind} "{name}" is not among the {len(known)} known ones{others}{hint}',
        path=path,
        line=None if path is None else line_of(place),
    )


@dataclass(frozen=True)
class _Order:
    """An order of columns: what it is called, where things are, and what its labels mean."""

    form: str
    enrol_at: int
    test_at: int
    label_at: int | None = None
    is_target: dict[str, bool] = field(default_factory=dict)

    @property
    def num_columns(self) -> int:
        return 2 if self.label_at is None else 3

    def fits(self, cells: Sequence[str]) -> bool:
        if len(cells) != self.num_columns:
            return False
        return self.label_at is None or cells[self.label_at] in self.is_target


_ORDERS = (
    _Order("enrol test target|nontarget", 0, 1, 2, {"target": True, "nontarget": False}),
    _Order("1|0 enrol test", 1, 2, 0, {"1": True, "0": False}),
    _Order("enrol test", 0, 1),
)
_EXPECTED = 'expected "enrol test target|nontarget" (Kaldi), "1|0 enrol test" (VoxCeleb) or "enrol test"'


def load_trials(path: str | Path) -> Trials:
    """Read trials: Kaldi's `enrol test target|nontarget`, VoxCeleb's `1|0 enrol test`, or `enrol test`.

    Columns are parted by blanks or tabs. The first line decides which order the whole file is in; Windows line
    ends are fine, and so is a file that is gzipped and named `.gz`. A trial may be listed twice.

    Raises:
        InputError: naming the file and line, what was found and what was expected; or where a trial is listed both
            as target and as non-target.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such trial list", path=path)
    text = read_text(path)
    if not text:
        raise InputError("holds no trials", path=path)
    order = _find_order(text, path)
    columns = split_columns(text, order.num_columns)
    if columns is None or (
        order.label_at is not None and not order.is_target.keys() >= set(columns[order.label_at])
    ):
        raise _first_misfit(text, order, path)
    enrol_ids, test_ids = tuple(columns[order.enrol_at]), tuple(columns[order.test_at])
    if order.label_at is None:
        return Trials(enrol_ids, test_ids)
    labels = map(order.is_target.__getitem__, columns[order.label_at])
    is_target = np.fromiter(labels, bool, len(enrol_ids))
    _refuse_conflicts(enrol_ids, test_ids, is_target, path)
    return Trials(enrol_ids, test_ids, is_target)


def foreign_separator(line: str) -> str | None:
    """The mark that seems to part the columns of a line, where that is not a blank."""
    cells = line.split()
    for mark in (",", ";", "|"):
        if mark in line and (len(cells) == 1 or all(cell.endswith(mark) for cell in cells[:-1])):
            return mark
    return None


def _find_order(text: str, path: Path) -> _Order:
    """The order of columns that the first line is in."""
    first, _, rest = text.partition("\n")
    order = next((order for order in _ORDERS if order.fits(first.split())), None)
    if order is not None:
        return order
    mark = foreign_separator(first)
    if mark is not None:
        found = f'found "{first.strip()}", which "{mark}" seems to part into columns'
        raise InputError(f"{found}; {_EXPECTED}, with blanks or tabs between them", path=path, line=1)
    second = rest.partition("\n")[0].split()
    is_header = bool(first.split()) and any(order.fits(second) for order in _ORDERS)
    hint = "; if line 1 is a header, leave it out" if is_header else ""
    raise InputError(f'found "{" ".join(first.split())}"; {_EXPECTED}{hint}', path=path, line=1)


def _first_misfit(text: str, order: _Order, path: Path) -> InputError:
    rows = (line.split() for line in text.split("\n"))
    line, cells = next((line, cells) for line, cells in enumerate(rows, start=1) if not order.fits(cells))
    return InputError(f'found "{" ".join(cells)}"; expected "{order.form}" as in line 1', path=path, line=line)


def _refuse_conflicts(
    enrol_ids: Sequence[str], test_ids: Sequence[str], is_target: np.ndarray, path: Path
) -> None:
    """Raise `InputError` where a trial is listed both as target and as non-target."""
    # By hashes of 64 bits, which take a tenth of the time that numbering the ids would.
    enrol, test = (
        np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64) for ids in (enrol_ids, test_ids)
    )
    pairs = enrol * np.uint64(0x9E3779B97F4A7C15) + test
    order = np.argsort(pairs, kind="stable")
    before, here = order[:-1], order[1:]  # two trials of the same pair follow each other
    conflicts = np.flatnonzero((pairs[before] == pairs[here]) & (is_target[before] != is_target[here]))
    if len(conflicts):
        first = conflicts[np.argmin(here[conflicts])]
        earlier, row = int(before[first]), int(here[first])
        now, then = ("target", "non-target") if is_target[row] else ("non-target", "target")
        found = f'found "{enrol_ids[row]} {test_ids[row]}" as a {now}, and as a {then} in line {earlier + 1}'
        raise InputError(f"{found}; expected one label for each trial", path=path, line=row + 1)
