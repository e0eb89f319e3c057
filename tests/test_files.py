"""Whole files or none: what a reader sees while a file is written, and after writing it failed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.files import atomic_path, read_text, sha256, split_columns, write_json, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with open(path) as reader:  # who has begun to read the old file goes on with the old one
        write_text(path, "newer")
        assert reader.read() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    script = (
        "import os, signal, sys\n"
        "from spkadapt.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('ha')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert path.read_text() == "old"


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "")
    finally:
        assert os.umask(before) == 0o027
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "λ\n")
    assert (tmp_path / "file.txt").read_bytes() == b"\xce\xbb\n"


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, 0.1, None]})
    assert json.loads(path.read_text()) == {"a": [1, 0.1, None]}
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"b": value})
    assert json.loads(path.read_text()) == {"a": [1, 0.1, None]}


@pytest.mark.parametrize("name", ["file.txt", "file.gz"])
@pytest.mark.parametrize("content", ["a\nb\n", "\ufeffa\r\nb\r\n", "a\rb\r"])
def test_text_as_users_send_it(tmp_path: Path, name: str, content: str) -> None:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_text(tmp_path / name) == "a\nb\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", b"\xff\xfea"), ("a.gz", b"a"), ("a.gz", gzip.compress(b"a" * 100, mtime=0)[:-4])],
    ids=["not UTF-8", "not gzip", "gzip cut short"],
)
def test_what_is_no_text(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="expected a text file in UTF-8, found: ") as caught:
        read_text(tmp_path / name)
    assert caught.value.path == tmp_path / name


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 20) + 1])
def test_sha256_is_hashlibs(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()


def test_columns() -> None:
    assert split_columns("a b\n c\t d \n", 2) == [["a", "c"], ["b", "d"]]
    assert split_columns("a b c", 3) == [["a"], ["b"], ["c"]]
    for text in ("", "\n", "a b\nc", "a b\nc d e", "a\nb c d", "a b\n\nc d", "a b c\nd", "\na b"):
        assert split_columns(text, 2) is None, text
