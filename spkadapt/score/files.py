"""Scored trials, and the files that hold them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError, shorten
from spkadapt.files import atomic_path, read_text, split_columns
from spkadapt.parquet import CodedText
from spkadapt.score.binary_files import read_npz, read_scores_parquet, write_npz, write_scores_parquet
from spkadapt.trials import foreign_separator, number_ids

_LARGEST = float(np.finfo(np.float32).max)
# Trials whose lines are put together at a time.
_BATCH = 1 << 18
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scored trials, in the order of the file they came from.

    Args:
        enrol_ids: the enrolment side of each trial.
        test_ids: the test side of each trial.
        scores: finite, kept as float32.

    Shape:
        scores: `(num_trials,)`

    Raises:
        InputError: where the three disagree in number or a score is not finite.
    """

    enrol_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    scores: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "enrol_ids", tuple(self.enrol_ids))
        object.__setattr__(self, "test_ids", tuple(self.test_ids))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32))
        shape = (len(self.enrol_ids),)
        if self.scores.shape != shape or len(self.test_ids) != len(self.enrol_ids):
            found = f"{len(self.enrol_ids)} enrol_ids, {len(self.test_ids)} test_ids, scores {self.scores.shape}"
            raise InputError(f"expected one score for each trial, found {found}")
        broken = np.flatnonzero(~np.isfinite(self.scores))
        if len(broken):
            trial = f"{self.enrol_ids[broken[0]]} {self.test_ids[broken[0]]}"
            raise InputError(f"expected finite scores, found {self.scores[broken[0]]} for trial {trial}")


def load_scores(path: str | Path) -> Scores:
    """Read a score file of the format that its name ends in.

    `.npz`: arrays `enrol_ids`, `test_ids`, `enrol_rows`, `test_rows` and `scores`; row `i` of the scores is of the
    trial `enrol_ids[enrol_rows[i]] test_ids[test_rows[i]]`.
    `.parquet`: columns `enrol_id`, `test_id` and `score`.
    Any other: text, `enrol test score` a line, or `score enrol test` as VoxSRC writes it; gunzipped where it ends
    in `.gz`. Columns are parted by blanks; line ends may be of any kind. The first line decides the order of the
    columns for the whole file: the score is the last column where that is a number, else the first. (Ids may be
    numbers too. A VoxSRC file whose ids are bare numbers is therefore read the wrong way round, and
    `align_scores` then finds none of its trials: put its score last.)

    Raises:
        InputError: naming the file, and in text the line, where columns are not three or a score is no finite
            number; or where the file is missing, damaged or of another format.
    """
    path = Path(path)
    read = {".npz": read_npz, ".parquet": read_scores_parquet}.get(path.suffix)
    if read is None:
        return _load_text(path)
    if not path.is_file():
        raise InputError("no such score file", path=path)
    enrol, test, scores = read(path)
    try:
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused
            return Scores(tuple(enrol), tuple(test), scores.astype(np.float32))
    except InputError as error:
        raise InputError(str(error), path=path) from None


def save_scores(path: str | Path, scores: Scores) -> None:
    """Write scores, atomically, in the format that `path` ends in, so that `load_scores` reads them back exactly.

    The same scores make the same bytes.

    Raises:
        InputError: for an id that is empty or holds a blank, which could not be read back from text.
    """
    path = Path(path)
    write = {".npz": write_npz, ".parquet": write_scores_parquet}.get(path.suffix)
    if write is None:
        _save_text(path, scores)
    else:
        write(
            path, CodedText(*number_ids(scores.enrol_ids)), CodedText(*number_ids(scores.test_ids)), scores.scores
        )


def _load_text(path: Path) -> Scores:
    text = read_text(path).rstrip()
    columns = split_columns(text, 3)
    if columns is None:
        raise _first_misfit(text, path)
    first, second, third = columns
    if _NUMBER.fullmatch(third[0]):
        return Scores(tuple(first), tuple(second), _parse_scores(third, path))
    if _NUMBER.fullmatch(first[0]):
        return Scores(tuple(second), tuple(third), _parse_scores(first, path))
    message = f'expected a score in the last or the first column, found "{first[0]}" and "{third[0]}"'
    raise InputError(message, path=path, line=1)


def _save_text(path: Path, scores: Scores) -> None:
    for name in {*scores.enrol_ids, *scores.test_ids}:
        if name.split() != [name]:
            raise InputError(f'expected ids without blanks, found "{name}"', path=path)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        # Without a name and a time in its header, the same scores make the same bytes.
        packer = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else nullcontext(file)
        with packer as target:
            for start in range(0, len(scores.scores), _BATCH):
                batch = slice(start, start + _BATCH)
                columns = (scores.enrol_ids[batch], scores.test_ids[batch], scores.scores[batch].tolist())
                # Nine significant digits tell every float32 from the next.
                target.write("".join(map("{} {} {:.9g}\n".format, *columns)).encode())


def align_scores(scores: Scores, enrol_ids: Sequence[str], test_ids: Sequence[str]) -> np.ndarray:
    """The score of each trial, in the order of the trials; scores of other trials are left out.

    Shape:
        returns `(len(enrol_ids),)`

    Raises:
        InputError: one that counts the trials without a score and names the first ten; or where a trial has two
            different scores.
    """
    (enrol_names, enrol), (test_names, test) = number_ids(scores.enrol_ids), number_ids(scores.test_ids)
    pairs = enrol.astype(np.int64) * len(test_names) + test
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], scores.scores[order]
    conflicts = np.flatnonzero((pairs[1:] == pairs[:-1]) & (values[1:] != values[:-1]))
    if len(conflicts):
        row = conflicts[0]
        trial = f"{scores.enrol_ids[order[row]]} {scores.test_ids[order[row]]}"
        found = f"{values[row]:.9g} and {values[row + 1]:.9g}"
        raise InputError(f"expected one score for each trial, found {found} for {trial}")
    wanted_enrol, wanted_test = _find(enrol_names, enrol_ids), _find(test_names, test_ids)
    wanted = wanted_enrol * len(test_names) + wanted_test
    places = np.searchsorted(pairs, wanted)
    found_all = (wanted_enrol >= 0) & (wanted_test >= 0) & (places < len(pairs))
    found_all[found_all] = pairs[places[found_all]] == wanted[found_all]
    if not found_all.all():
        lacking = [f"{enrol_ids[row]} {test_ids[row]}" for row in np.flatnonzero(~found_all).tolist()]
        missing = list(dict.fromkeys(lacking))
        raise InputError(f"no score for {len(missing)} of {len(wanted)} trials: {shorten(missing)}")
    return values[places]


def _find(names: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """The place of each id among the names; -1 where it is not there."""
    place_of = {name: place for place, name in enumerate(names)}
    return np.fromiter((place_of.get(name, -1) for name in ids), np.int64, len(ids))


def _first_misfit(text: str, path: Path) -> InputError:
    if not text:
        return InputError("expected a score on each line, found an empty file", path=path)
    rows = [line.split() for line in text.split("\n")]
    line = next(number for number, cells in enumerate(rows, start=1) if len(cells) != 3)
    found = f"expected 3 columns, enrol test score, found {len(rows[line - 1])}"
    mark = foreign_separator(text.split("\n")[line - 1])
    hint = "" if mark is None else f', parted by "{mark}"; part them by blanks or tabs'
    return InputError(f"{found}{hint}", path=path, line=line)


def _parse_scores(column: Sequence[str], path: Path) -> np.ndarray:
    scores = np.full(1, np.nan)
    with suppress(ValueError), np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused
        scores = np.fromiter(map(float, column), np.float64, len(column)).astype(np.float32)
    # float() also takes 1_000, inf and nan: where it may have, or failed, look for the first such line.
    if not np.isfinite(scores).all() or "_" in "".join(column):
        for line, text in enumerate(column, start=1):
            if not _NUMBER.fullmatch(text) or abs(float(text)) > _LARGEST:
                raise InputError(f'expected a finite number as score, found "{text}"', path=path, line=line)
    return scores
