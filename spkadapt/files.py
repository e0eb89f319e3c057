"""Whole files or none: atomic writes, text as users send it, and the checksums that results are reported with."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spkadapt.errors import InputError

# What numpy, zipfile and zlib raise between them on a file that is cut short, altered or not an npz at all.
UNREADABLE_NPZ = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without error.

    A reader sees the old file or the new one, never half of either, even after `kill -9`. The temporary
    name keeps the suffix of `path`, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result should be as readable as any file its owner makes.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path`, atomically, as JSON that strict readers accept (no NaN)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, its lines ended by newlines alone; one whose name ends in `.gz` is gunzipped.

    Windows line ends and byte-order marks are how such files come back from a spreadsheet.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"expected a text file in UTF-8, found: {error}", path=path) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_columns(text: str, num_columns: int) -> list[list[str]] | None:
    """The columns of lines of cells parted by blanks; None unless every line, and there is one, has so many.

    A last line that is empty does not count.
    """
    text = text.removesuffix("\n")
    # One flat list with a mark at each line's end: a million small lists would take ten times as long.
    cells, num_lines = text.replace("\n", " \0 ").split(), text.count("\n") + 1
    marks = cells[num_columns :: num_columns + 1]
    if len(cells) != (num_columns + 1) * num_lines - 1 or marks.count("\0") != num_lines - 1:
        return None
    return [cells[column :: num_columns + 1] for column in range(num_columns)]


def sha256(path: str | Path) -> str:
    """The SHA-256 checksum of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
