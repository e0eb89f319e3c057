"""Kaldi script files, `.scp`: where in which archive the vector of each utterance stands.

Nothing in a script file is ever run: an entry that is a command is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError, shorten
from spkadapt.files import atomic_path, read_text
from spkadapt.kaldi_io.archives import as_float32, check_alike, gather, read_layout, write_entries
from spkadapt.kaldi_io.objects import FLAG, ObjectReader, map_file

_MOST_DIGITS = 18  # of an offset, so that it and the length of any vector fit in 64 bits


def read_scp(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read the vectors that a script file lists, `utterance FILE` or `utterance FILE:OFFSET` in each line.

    As in Kaldi, a relative FILE is looked for in the working directory; then, beside the script file.

    Shape:
        returns names and float32 `(len(names), dim)`, in the order of the lines

    Raises:
        InputError: naming the file and line: as `read_ark` does, and where an entry is a command, standard input
            or a range, where an utterance is there twice, or an archive is missing.
    """
    path = Path(path)
    names, starts, rows_of = _read_entries(path)
    archives = _find_archives(path, rows_of)
    vectors = np.empty((0, 0), np.float32)
    for file, rows in rows_of.items():
        block = _read_at(path, archives[file], names, rows, starts[rows])
        if len(archives) == 1:
            return names, block
        if not vectors.size:
            vectors = np.empty((len(names), block.shape[1]), np.float32)
        first = names[0], f"{vectors.shape[1]} numbers"
        check_alike(path, rows[0] + 1, (names[rows[0]], f"{block.shape[1]} numbers"), first)
        vectors[rows] = block
    return names, vectors


def _read_entries(path: Path) -> tuple[list[str], np.ndarray, dict[str, list[int]]]:
    """The utterances of a script file, their offsets (0 where none is given), and which are in each archive."""
    if not path.is_file():
        raise InputError("expected a Kaldi script file, found no such file", path=path)
    names: list[str] = []
    offsets: list[int] = []
    rows_of: dict[str, list[int]] = {}
    for row, line in enumerate(StringIO(read_text(path))):
        entry = line.strip().split(maxsplit=1)
        if len(entry) < 2:
            raise _refusal(path, row, entry)
        name, location = entry
        file, _, offset = location.rpartition(":")
        if not (file and offset.isdecimal() and len(offset) <= _MOST_DIGITS):
            file, offset = location, "0"
        if file not in rows_of:
            if file[0] == "|" or file[-1] in "|]" or file == "-":
                raise _refusal(path, row, entry)
            rows_of[file] = []
        names.append(name)
        offsets.append(int(offset))
        rows_of[file].append(row)
    if not names:
        raise InputError("expected a Kaldi script file, found an empty file", path=path)
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        again, name = next((n, name) for n, name in enumerate(names, 1) if first.setdefault(name, n) != n)
        raise InputError(f'"{name}" stands already in line {first[name]}', path=path, line=again)
    return names, np.array(offsets), rows_of


def _refusal(path: Path, row: int, entry: list[str]) -> InputError:
    """Why an entry of a script file is not read."""
    location = entry[1] if len(entry) == 2 else ""
    if location.startswith("|") or location.endswith("|"):
        found = f'"{location}" is a command, and commands are not run'
    elif location.endswith("]"):
        found = f'"{location}" is a range, and vectors are read whole'
    elif location:
        found = f'"{location}" is standard input, which is not read'
    else:
        found = f'found "{" ".join(entry)}"'
    return InputError(f'{found}; expected "utterance FILE" or "utterance FILE:OFFSET"', path=path, line=row + 1)


def _find_archives(path: Path, rows_of: dict[str, list[int]]) -> dict[str, Path]:
    """Where each archive that the script file `path` names is."""
    found: dict[str, Path] = {}
    for file in rows_of:
        place = next((place for place in (Path(file), path.parent / file) if os.path.isfile(place)), None)
        if place is not None:
            found[file] = place
    missing = [file for file in rows_of if file not in found]
    if missing:
        raise InputError(f"no such archive: {shorten(missing)}", path=path, line=rows_of[missing[0]][0] + 1)
    return found


def _read_at(path: Path, archive: Path, names: list[str], rows: list[int], starts: np.ndarray) -> np.ndarray:
    """The vectors at `starts` of an archive, which stand in `rows` of the script file `path`."""
    data = map_file(archive, "a Kaldi archive of vectors")
    beyond = starts >= len(data)
    if beyond.any():
        place = int(beyond.argmax())
        found = f'"{names[rows[place]]}" is at byte {starts[place]} of {archive}, which has {len(data)} bytes'
        raise InputError(found, path=path, line=rows[place] + 1)
    if data[starts[0] : starts[0] + len(FLAG)] != FLAG:
        readers = [
            ObjectReader(data, start, path, row + 1, names[row])
            for start, row in zip(starts.tolist(), rows, strict=True)
        ]
        vectors = [as_float32(reader.array(1)) for reader in readers]
        for row, vector in zip(rows, vectors, strict=True):
            first = names[rows[0]], f"{len(vectors[0])} numbers"
            check_alike(path, row + 1, (names[row], f"{len(vector)} numbers"), first)
        return np.stack(vectors)
    layout = read_layout(path, rows[0] + 1, data, int(starts[0]), names[rows[0]])
    header = np.frombuffer(layout.header, f"V{len(layout.header)}")
    headers = np.ndarray((len(data) - header.itemsize + 1,), header.dtype, data, strides=(1,))
    good = starts + layout.num_bytes <= len(data)
    good &= headers[np.minimum(starts, len(headers) - 1)] == header
    if not good.all():
        place = int(good.argmin())
        row = rows[place]
        other = read_layout(path, row + 1, data, int(starts[place]), names[row])
        check_alike(path, row + 1, (names[row], other), (names[rows[0]], layout))
    return gather(data, starts, layout)


def write_scp(path: str | Path, names: Sequence[str], vectors: np.ndarray) -> None:
    """Write float32 vectors `(len(names), dim)` to an archive beside `path`, and to `path` where each stands.

    The archive has the name of `path` but ends in `.ark`, and is listed by its absolute path, so that it is found
    from any working directory. Both are written whole before either is put in place, and an old script file goes
    first: never does one point into an archive that it was not written for.

    Raises:
        InputError: as `write_ark` does.
    """
    path = Path(path)
    archive = path.with_suffix(".ark").absolute()
    with atomic_path(path) as script, atomic_path(archive) as temporary:
        starts = write_entries(temporary, archive, names, vectors)
        lines = (f"{name} {archive}:{start}\n" for name, start in zip(names, starts, strict=True))
        script.write_text("".join(lines), encoding="utf-8")
        path.unlink(missing_ok=True)
