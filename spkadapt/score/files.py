"""Scored trials, and the files that hold them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import atomic_path, read_text

_LARGEST = float(np.finfo(np.float32).max)
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
    """Read a score file: `enrol test score` a line, or `score enrol test` as VoxSRC writes it.

    Columns are parted by blanks; line ends may be of any kind; a name that ends in `.gz` is gunzipped. The first
    line decides the order of the columns for the whole file: the score is the last column where that is a
    number, else the first. (Ids may be numbers too. A VoxSRC file whose ids are bare numbers is therefore read
    the wrong way round, and `align_scores` then finds none of its trials: put its score last.)

    Raises:
        InputError: naming the file and the line where columns are not three or a score is no finite number.
    """
    path = Path(path)
    first, second, third = _split_columns(read_text(path).rstrip(), path)
    if _NUMBER.fullmatch(third[0]):
        return Scores(tuple(first), tuple(second), _parse_scores(third, path))
    if _NUMBER.fullmatch(first[0]):
        return Scores(tuple(second), tuple(third), _parse_scores(first, path))
    message = f'expected a score in the last or the first column, found "{first[0]}" and "{third[0]}"'
    raise InputError(message, path=path, line=1)


def save_scores(path: str | Path, scores: Scores) -> None:
    """Write `enrol test score` a line, atomically; gzipped where `path` ends in `.gz`.

    Nine significant digits let `load_scores` read each float32 back exactly.

    Raises:
        InputError: for an id that is empty or holds a blank, which could not be read back.
    """
    for name in {*scores.enrol_ids, *scores.test_ids}:
        if name.split() != [name]:
            raise InputError(f'expected ids without blanks, found "{name}"', path=path)
    columns = (scores.enrol_ids, scores.test_ids, scores.scores.tolist())
    text = "".join(map("{} {} {:.9g}\n".format, *columns)).encode()
    with atomic_path(path) as temporary:
        # Without a time in its header, the same scores make the same bytes.
        temporary.write_bytes(gzip.compress(text, mtime=0) if temporary.suffix == ".gz" else text)


def align_scores(scores: Scores, enrol_ids: Sequence[str], test_ids: Sequence[str]) -> np.ndarray:
    """The score of each trial, in the order of the trials; scores of other trials are left out.

    Shape:
        returns `(len(enrol_ids),)`

    Raises:
        InputError: one that counts the trials without a score and names the first ten; or where a trial has two
            different scores.
    """
    score_of = dict(zip(zip(scores.enrol_ids, scores.test_ids, strict=True), scores.scores.tolist(), strict=True))
    if len(score_of) < len(scores.scores):
        _refuse_conflicts(scores, score_of)
    trials = list(zip(enrol_ids, test_ids, strict=True))
    missing = list(dict.fromkeys(trial for trial in trials if trial not in score_of))
    if missing:
        names = ", ".join(" ".join(trial) for trial in missing[:10])
        rest = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise InputError(f"no score for {len(missing)} of {len(trials)} trials: {names}{rest}")
    return np.fromiter((score_of[trial] for trial in trials), np.float32, len(trials))


def _refuse_conflicts(scores: Scores, score_of: dict[tuple[str, str], float]) -> None:
    for enrol_id, test_id, score in zip(scores.enrol_ids, scores.test_ids, scores.scores.tolist(), strict=True):
        if score_of[enrol_id, test_id] != score:
            both = f"{score:.9g} and {score_of[enrol_id, test_id]:.9g}"
            raise InputError(f"expected one score for each trial, found {both} for {enrol_id} {test_id}")


def _split_columns(text: str, path: Path) -> tuple[list[str], list[str], list[str]]:
    # One flat list with a mark at each line's end: a million small lists would take ten times as long.
    cells = text.replace("\n", " \0 ").split()
    num_lines = text.count("\n") + 1
    if len(cells) == 4 * num_lines - 1 and cells[3::4].count("\0") == num_lines - 1:
        return cells[0::4], cells[1::4], cells[2::4]
    if not text:
        raise InputError("expected a score on each line, found an empty file", path=path)
    widths = [len(line.split()) for line in text.split("\n")]
    line = next(number for number, width in enumerate(widths, start=1) if width != 3)
    raise InputError(f"expected 3 columns, enrol test score, found {widths[line - 1]}", path=path, line=line)


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
