"""Scores in npz and Parquet files, where ids are stored once and named by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError
from spkadapt.files import UNREADABLE_NPZ, atomic_path
from spkadapt.parquet import CodedText, Column, ParquetReader, write_parquet

_KEYS = ("enrol_ids", "enrol_rows", "test_ids", "test_rows", "scores")
_COLUMNS = ("enrol_id", "test_id", "score")
# Trials of a batch that a Parquet file is written in.
_BATCH = 1 << 20


def write_npz(path: Path, enrol: CodedText, test: CodedText, scores: np.ndarray) -> None:
    """Write `enrol_ids` and `test_ids`, each id once, `enrol_rows` and `test_rows` in these, and `scores`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            enrol_ids=np.array(enrol.names, dtype=str),
            enrol_rows=enrol.codes,
            test_ids=np.array(test.names, dtype=str),
            test_rows=test.codes,
            scores=scores,
        )


def read_npz(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """The ids of both sides of each trial and its score, as `write_npz` writes them.

    Raises:
        InputError: the file is damaged or of another kind, lacks one of the arrays, or holds unfit ones.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = list(file.keys())
            arrays = {key: file[key] for key in _KEYS if key in found}
    except UNREADABLE_NPZ as error:
        message = "expected an npz file of scores, found one that is damaged or of another kind"
        raise InputError(f"{message} ({error})", path=path) from error
    if len(arrays) < len(_KEYS):
        raise InputError(f"expected arrays {', '.join(_KEYS)}, found: {', '.join(found) or 'none'}", path=path)
    sides = []
    for side in ("enrol", "test"):
        ids, rows = arrays[f"{side}_ids"], arrays[f"{side}_rows"]
        if ids.dtype.kind != "U" or ids.ndim != 1:
            raise InputError(f"expected {side}_ids to be text, found {ids.dtype} of shape {ids.shape}", path=path)
        if rows.dtype.kind not in "iu" or rows.ndim != 1:
            found_rows = f"{rows.dtype} of shape {rows.shape}"
            raise InputError(f"expected {side}_rows to be a list of integers, found {found_rows}", path=path)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(ids):
            message = f"expected {side}_rows from 0 to {len(ids) - 1}, found {rows.min()} to {rows.max()}"
            raise InputError(message, path=path)
        names = ids.tolist()
        sides.append([names[row] for row in rows.tolist()])
    scores = arrays["scores"]
    if scores.dtype.kind not in "fiu" or scores.ndim != 1:
        raise InputError(f"expected scores to be numbers, found {scores.dtype} of shape {scores.shape}", path=path)
    return sides[0], sides[1], scores


def write_scores_parquet(path: Path, enrol: CodedText, test: CodedText, scores: np.ndarray) -> None:
    """Write the columns `enrol_id`, `test_id` and `score`."""
    batches: Iterator[dict[str, Column]] = (
        {
            "enrol_id": CodedText(enrol.names, enrol.codes[start : start + _BATCH]),
            "test_id": CodedText(test.names, test.codes[start : start + _BATCH]),
            "score": scores[start : start + _BATCH],
        }
        for start in range(0, max(1, len(scores)), _BATCH)
    )
    write_parquet(path, batches)


def read_scores_parquet(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """The ids of both sides of each trial and its score, as `write_scores_parquet` writes them.

    Columns of other names are left alone.

    Raises:
        InputError: as `ParquetReader` does.
    """
    reader = ParquetReader(path)
    enrol_column, test_column, score_column = _COLUMNS
    return reader.text(enrol_column), reader.text(test_column), reader.numbers(score_column)
