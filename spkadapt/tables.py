"""What is known of each utterance, one value each: its speaker, its call, its domain.

Read from a two-column table such as Kaldi's `utt2spk`, or from one column of a CSV file such as a manifest.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

from spkadapt.errors import InputError, shorten, suggest
from spkadapt.files import read_text


def load_utterance_table(path: str | Path, column: str) -> dict[str, str]:
    """Read one value for each utterance.

    Args:
        path: a table of lines `utterance value`, such as `utt2spk`, `utt2call` or `utt2domain`; or, where the name
            ends in `.csv`, a manifest or any other CSV file with a column `utterance_id`.
        column: which column of the CSV file to read, such as `speaker_id`, `session_id` or `domain`; of a table of
            two columns, what the second one is called in errors.

    Raises:
        InputError: naming the file and line: the file or column is missing, a line has more or fewer columns, an
            utterance is there twice, values are empty (all are listed), or there are no utterances.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a table with the {column} of each utterance, found no such file", path=path)
    rows = _csv_rows(path, column) if path.suffix == ".csv" else _table_rows(path, column)
    table = {name: value for _, name, value in rows}
    if not table:
        raise InputError(f"expected the {column} of each utterance, found no utterances", path=path)
    if len(table) < len(rows):
        _raise_repeated(path, rows)
    empty = [name for name, value in table.items() if not value]
    if empty:
        raise InputError(f"{column} is empty for {len(empty)} utterances: {shorten(empty)}", path=path)
    return table


def look_up(table: Mapping[str, str], utterance_ids: Sequence[str], *, column: str, path: str | Path) -> list[str]:
    """The value of each of `utterance_ids`, in their order. What the table knows of others is left alone.

    Args:
        table: as `load_utterance_table` reads it.
        utterance_ids: the ids to look up.
        column, path: what the values are and where the table came from, for the error to name.

    Raises:
        InputError: one that names the first ten ids that are not in the table and counts the rest.
    """
    unknown = [name for name in utterance_ids if name not in table]
    if unknown:
        raise InputError(f"no {column} for {len(unknown)} utterances: {shorten(unknown)}", path=path)
    return [table[name] for name in utterance_ids]


_Rows = list[tuple[int, str, str]]  # line, utterance id, value


def _table_rows(path: Path, column: str) -> _Rows:
    rows = []
    for line, text in enumerate(StringIO(read_text(path)), start=1):
        cells = text.split()
        if len(cells) != 2:
            found = text.strip()
            raise InputError(f'found "{found}"; expected an utterance id and its {column}', path=path, line=line)
        rows.append((line, cells[0], cells[1]))
    return rows


def _csv_rows(path: Path, column: str) -> _Rows:
    reader = csv.reader(StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(f"not readable as CSV ({error})", path=path, line=reader.line_num) from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    for needed in ("utterance_id", column):
        if header.count(needed) != 1:
            times = header.count(needed)
            found = f"is there {times} times" if times else f"is missing; {suggest(needed, header)}"
            raise InputError(f'the column "{needed}" {found}', path=path, line=1)
    for line, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"found {len(cells)} cells; the header has {len(header)}", path=path, line=line)
    key, value = header.index("utterance_id"), header.index(column)
    return [(line, cells[key].strip(), cells[value].strip()) for line, cells in lines[1:]]


def _raise_repeated(path: Path, rows: Iterable[tuple[int, str, str]]) -> None:
    first: dict[str, int] = {}
    for line, name, _ in rows:
        if first.setdefault(name, line) != line:
            raise InputError(f'"{name}" stands already in line {first[name]}', path=path, line=line)
