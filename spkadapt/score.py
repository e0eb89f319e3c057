"""Embeddings to scores, in blocks of bounded memory on any device; and score files.

A score is the higher, the likelier one speaker said both sides of the trial.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spkadapt.backend.normalise import length_normalise
from spkadapt.errors import InputError
from spkadapt.files import atomic_path, read_text

# Rows in a block's side: a block of scores takes 4 · 1024² bytes, which stays within most processors' cache.
_BLOCK_SIZE = 1024
# A score gathered as two rows and their dot product costs about as much as 64 scores of a matrix product
# (measured for dimensions 192 to 512 on a CPU, where both grow with the dimension alike).
_GATHER_COST = 64
_LARGEST = float(np.finfo(np.float32).max)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def score_cosine(
    enrol: np.ndarray | torch.Tensor,
    test: np.ndarray | torch.Tensor,
    enrol_rows: np.ndarray,
    test_rows: np.ndarray,
    *,
    block_size: int = _BLOCK_SIZE,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The cosine of the angle between the two embeddings of each trial, in float32.

    Trials are sorted once into blocks of at most `block_size` enrolment by `block_size` test embeddings, counting
    only embeddings that some trial names. A block is scored by one matrix product where its trials number at least
    1/64 of its cells, and by gathering rows where they are sparser, whichever is the cheaper. The choice moves
    scores by no more than float32 rounding. Beside the embeddings and the trials themselves, memory is
    O(block_size²).

    Args:
        enrol: embeddings of the enrolment side.
        test: embeddings of the test side; may be the same.
        enrol_rows: for each trial, its row in `enrol`.
        test_rows: for each trial, its row in `test`.
        block_size: rows in a block's side. Larger suits an accelerator.
        device: where to multiply.

    Shape:
        enrol: `(num_enrol, dim)`
        test: `(num_test, dim)`
        enrol_rows, test_rows: `(num_trials,)`
        returns `(num_trials,)`, in the order of the trials

    Raises:
        InputError: for embeddings that `length_normalise` refuses, unequal `dim`, rows that do not exist or do
            not pair up, or a block size below 1.
    """
    enrol_rows, test_rows = _check_rows(enrol_rows, len(enrol), "enrol"), _check_rows(test_rows, len(test), "test")
    if len(enrol_rows) != len(test_rows):
        raise InputError(f"expected pairs of rows, found {len(enrol_rows)} enrol_rows, {len(test_rows)} test_rows")
    enrol, enrol_rows = _keep_used(_as_array(enrol), enrol_rows)
    test, test_rows = _keep_used(_as_array(test), test_rows)
    _check_pair(enrol, test, block_size)
    return _score_trials(
        _unit_rows(enrol, device), _unit_rows(test, device), enrol_rows, test_rows, block_size=block_size
    )


def score_all_pairs(
    enrol: np.ndarray | torch.Tensor,
    test: np.ndarray | torch.Tensor,
    *,
    block_size: int = _BLOCK_SIZE,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The cosine of every enrolment embedding with every test embedding, in float32.

    The device holds the embeddings and `block_size` rows of the result at a time.

    Shape:
        enrol: `(num_enrol, dim)`
        test: `(num_test, dim)`
        returns `(num_enrol, num_test)`

    Raises:
        InputError: as `score_cosine` does.
    """
    enrol, test = _as_array(enrol), _as_array(test)
    _check_pair(enrol, test, block_size)
    left, right = _unit_rows(enrol, device), _unit_rows(test, device).T
    scores = np.empty((len(enrol), len(test)), dtype=np.float32)
    for start in range(0, len(enrol), block_size):
        rows = slice(start, start + block_size)
        torch.from_numpy(scores[rows]).copy_(left[rows] @ right)
    return scores


def _score_trials(
    enrol: torch.Tensor, test: torch.Tensor, enrol_rows: np.ndarray, test_rows: np.ndarray, *, block_size: int
) -> np.ndarray:
    """Inner products of the rows that each trial names, block by block."""
    scores = np.empty(len(enrol_rows), dtype=np.float32)
    sparse: list[np.ndarray] = []
    for trials, enrol_start, test_start in _blocks(enrol_rows, test_rows, block_size):
        left = enrol[enrol_start : enrol_start + block_size]
        right = test[test_start : test_start + block_size]
        if len(trials) * _GATHER_COST < len(left) * len(right):
            sparse.append(trials)
            continue
        cells = (enrol_rows[trials] - enrol_start) * len(right) + (test_rows[trials] - test_start)
        products = (left @ right.T).flatten()
        scores[trials] = products[torch.from_numpy(cells).to(products.device)].cpu().numpy()
    # Sparse blocks are gathered together, so that many blocks of few trials make few calls.
    gathered = np.concatenate(sparse) if sparse else np.empty(0, dtype=np.intp)
    num_gathered = max(1, block_size**2 // (2 * enrol.shape[1]))
    for start in range(0, len(gathered), num_gathered):
        trials = gathered[start : start + num_gathered]
        left = enrol[torch.from_numpy(enrol_rows[trials]).to(enrol.device)]
        right = test[torch.from_numpy(test_rows[trials]).to(test.device)]
        scores[trials] = left.mul_(right).sum(dim=1).cpu().numpy()
    return scores


def _blocks(
    enrol_rows: np.ndarray, test_rows: np.ndarray, block_size: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """The trials of each block that has any, with the enrolment and test rows at which the block starts."""
    if not len(enrol_rows):
        return
    num_columns = int(test_rows.max()) // block_size + 1
    block_of = enrol_rows // block_size * num_columns + test_rows // block_size
    # The smallest type that holds the numbers: numpy sorts 16-bit integers by radix, in linear time.
    order = np.argsort(block_of.astype(np.min_scalar_type(block_of.max())), kind="stable")
    ordered = block_of[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    for block, trials in zip(ordered[starts].tolist(), np.split(order, starts[1:]), strict=True):
        yield trials, block // num_columns * block_size, block % num_columns * block_size


def _keep_used(embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings that some trial names, in their order, and the trials' rows among those."""
    used = np.zeros(len(embeddings), dtype=bool)
    used[rows] = True
    return embeddings[used], (np.cumsum(used) - 1)[rows]


def _as_array(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    return embeddings.detach().cpu().numpy() if isinstance(embeddings, torch.Tensor) else np.asarray(embeddings)


def _unit_rows(embeddings: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.from_numpy(length_normalise(embeddings)).to(device=device, dtype=torch.float32)


def _check_pair(enrol: np.ndarray, test: np.ndarray, block_size: int) -> None:
    if enrol.shape[1:] != test.shape[1:]:
        raise InputError(f"expected embeddings of one dim, found shapes {enrol.shape} and {test.shape}")
    if block_size < 1:
        raise InputError(f"expected block_size of at least 1, found {block_size}")


def _check_rows(rows: np.ndarray, num_embeddings: int, side: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        found = f"{rows.dtype} of shape {rows.shape}"
        raise InputError(f"expected {side}_rows to be integers of shape (num_trials,), found {found}")
    if len(rows) and (rows.min() < 0 or rows.max() >= num_embeddings):
        found = f"{rows.min()} to {rows.max()}"
        raise InputError(f"expected {side}_rows from 0 to {num_embeddings - 1}, found {found}")
    return rows.astype(np.intp, copy=False)


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
