"""Kaldi archives and script files: exact bytes, parity with kaldiio, nothing run, each kind of damage by name."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.kaldi_io import read_ark, read_scp, write_ark, write_scp

NAMES = ["spk1-a", "ü", "spk2-bcd"]
VECTORS = np.array([[1.5, -2.0], [0.1, 3e38], [0.0, -1e-40]], np.float32)


def entry(name: str, *numbers: float, kind: str = "F") -> bytes:
    content = struct.pack(f"<{len(numbers)}{'f' if kind == 'F' else 'd'}", *numbers)
    return name.encode() + b" \0B" + kind.encode() + b"V \4" + struct.pack("<i", len(numbers)) + content


def test_exact_bytes(tmp_path: Path) -> None:
    write_scp(tmp_path / "x.scp", NAMES, VECTORS)
    ark = tmp_path / "x.ark"
    assert ark.read_bytes() == b"".join(entry(name, *row) for name, row in zip(NAMES, VECTORS, strict=True))
    starts = [7, 7 + 18 + 3, 7 + 18 + 3 + 18 + 9]
    lines = [f"{name} {ark}:{start}\n" for name, start in zip(NAMES, starts, strict=True)]
    assert (tmp_path / "x.scp").read_text(encoding="utf-8") == "".join(lines)
    write_ark(tmp_path / "y.ark", NAMES, VECTORS)
    assert (tmp_path / "y.ark").read_bytes() == ark.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.ark", "x.scp", "y.ark"]


def test_kaldiio_writes_the_same_bytes_and_reads_ours(tmp_path: Path) -> None:
    vectors = dict(zip(NAMES, VECTORS, strict=True))
    theirs = tmp_path / "theirs.ark"
    kaldiio.save_ark(str(theirs), vectors, scp=str(tmp_path / "theirs.scp"))
    write_scp(tmp_path / "ours.scp", NAMES, VECTORS)
    assert (tmp_path / "ours.ark").read_bytes() == theirs.read_bytes()
    listed = (tmp_path / "theirs.scp").read_text(encoding="utf-8")
    assert (tmp_path / "ours.scp").read_text(encoding="utf-8") == listed.replace("theirs.ark", "ours.ark")
    for found in (dict(kaldiio.load_scp(str(tmp_path / "ours.scp"))), dict(kaldiio.load_ark(str(theirs)))):
        assert list(found) == NAMES
        np.testing.assert_array_equal(np.stack(list(found.values())), VECTORS)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reads_what_kaldiio_writes(tmp_path: Path, text: bool, dtype: type) -> None:
    ark, scp = tmp_path / "x.ark", tmp_path / "x.scp"
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(dtype)
    names = [f"u{i}" for i in range(40)]
    kaldiio.save_ark(str(ark), dict(zip(names, vectors, strict=True)), scp=str(scp), text=text)
    for found_names, found in (read_ark(ark), read_scp(scp)):
        assert found_names == names
        assert found.dtype == np.float32
        if text:
            np.testing.assert_allclose(found, vectors, rtol=1e-6)  # kaldiio writes as many digits as it likes
        else:
            np.testing.assert_array_equal(found, vectors.astype(np.float32))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 80)), min_size=1, max_size=6),
    dim=st.integers(1, 4),
)
@example(lengths=[(8, 400), (1, 1), (8, 400)], dim=1)
def test_names_of_any_lengths(tmp_path: Path, lengths: list[tuple[int, int]], dim: int) -> None:
    """Runs of names of one length are read at once; here they are of every length, and the runs too."""
    each = [length for length, repeats in lengths for _ in range(repeats)]
    names = [chr(97 + place % 26) * (length - 1) + "é" for place, length in enumerate(each)]
    vectors = np.arange(len(names) * dim, dtype=np.float32).reshape(-1, dim)
    path = tmp_path / "x.ark"
    write_ark(path, names, vectors)
    found, rows = read_ark(path)
    assert found == names
    np.testing.assert_array_equal(rows, vectors)


def test_text_as_kaldi_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "x.ark"
    path.write_bytes(b"u1  [ 1 -2.5 1e-3 ]\r\nu2\t[ 4 5 6 ]\n")
    names, vectors = read_ark(path)
    assert names == ["u1", "u2"]
    np.testing.assert_array_equal(vectors, np.array([[1, -2.5, 1e-3], [4, 5, 6]], np.float32))


@pytest.mark.parametrize("runs_of", [1, 40])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u9", "expected an utterance id of entry {next} before a vector, found none"),
        (b" ", "expected an utterance id of entry {next} before a vector, found none"),
        (b"u9 ", 'expected a binary vector of "u9", found none'),
        (b"u9  [ 1 2 ]\n", 'expected a binary vector of "u9", found none'),
        (b"u9 PKLx", 'expected a binary vector of "u9", found none'),
        (b"\xff9 \0BFV ", "expected the utterance id of entry {next} in UTF-8 ("),
        (b"u\n " + entry("", 1, 2)[1:], "expected an utterance id of entry {next} before a vector, found none"),
        (entry("u9", 1, 2)[:8], 'ends within the vector of "u9"'),
        (
            entry("u9", 1, 2)[:-1],
            'ends within the vector of "u9": it has 2 numbers of 4 bytes, and 7 bytes are left',
        ),
        (entry("u9", 1, 2, 3), '"u9" has 3 numbers, and "u0" has 2 numbers'),
        (entry("u9", 1, 2, kind="D"), '"u9" has 2 numbers of double precision, and "u0" has 2 numbers'),
        (entry("u9"), 'the vector of "u9" has no numbers'),
        (b"u9 \0BFV \4\xff\xff\xff\xff", 'damaged: the vector of "u9" has sizes that cannot be, "\\x04\\xff'),
        (
            b"u9 \0BFV \4\xff\xff\xff\x7f",
            'ends within the vector of "u9": it has 2147483647 numbers of 4 bytes, and',
        ),
        (b"u9 \0BFM \4\1\0\0\0\4\1\0\0\0", 'expected a vector of floats of "u9", found a matrix'),
        (b"u9 \0BCM ", 'expected a vector of floats of "u9", found "CM "'),
        (b"u9 \0B\4\1\0\0\0", 'expected a vector of floats of "u9", found "\\x04\\x01\\x00"'),
    ],
)
def test_damage_in_an_archive_is_named(tmp_path: Path, runs_of: int, content: bytes, message: str) -> None:
    """Behind one sound entry, and behind a run of forty."""
    path = tmp_path / "x.ark"
    path.write_bytes(b"".join(entry(f"u{i % 10}", 1, i) for i in range(runs_of)) + content)
    with pytest.raises(InputError) as caught:
        read_ark(path)
    assert str(caught.value).startswith(f"{path}: {message.format(next=runs_of + 1)}")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"u1 [ 1 2 ]\n\n", 2, "expected an utterance id before a vector, found none"),
        (b"u1 [ 1 2 ]\nu2 [ 1 ]\n", 2, '"u2" has 1 numbers, and "u1" has 2 numbers'),
        (
            b"u1 [ 1 2 ]\nu2 [ 1 x ]\n",
            2,
            "expected numbers in the vector of \"u2\" (could not convert string to float: b'x')",
        ),
        (b"u1 [ 1 2 ]\nu2 [ 1 inf ]\n", 2, 'found NaN or infinity in the vector of "u2"'),
        (b"u1 [ 1 2\n", 1, 'the vector of "u1" has no closing "]"'),
        (b"u1 [\n 1 2 ]\n", 1, 'the vector of "u1" has no closing "]"'),
        (b"u1 1 2\n", 1, 'expected a vector of "u1", as "[ 1 2 3 ]" or binary, found "1 2\\n"'),
        (b"u1\n", 1, 'expected a vector of "u1", as "[ 1 2 3 ]" or binary, found the end of the file'),
        (b"u1 [ 1 ] u2 [ 1 ]\n", 1, 'expected the end after the numbers of "u1", found " u2 [ 1 ]\\n"'),
        (b"\xff [ 1 2 ]\n", 1, "expected the utterance id in UTF-8 ("),
    ],
)
def test_damage_in_a_text_archive_is_named_by_line(
    tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    path = tmp_path / "x.ark"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_ark(path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")


@pytest.mark.parametrize("read", [read_ark, read_scp])
def test_missing_and_empty_files(tmp_path: Path, read: object) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match=r"x: expected a Kaldi .*, found no such file"):
        read(path)  # type: ignore[operator]
    path.touch()
    with pytest.raises(InputError, match=r"x: expected a Kaldi .*, found an empty file"):
        read(path)  # type: ignore[operator]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InputError, match=r"fifo: expected a Kaldi .*, found no such file"):
        read(fifo)  # type: ignore[operator]


def test_scp_reads_in_its_own_order_from_several_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scp(tmp_path / "a.scp", ["u1", "u2"], VECTORS[:2])
    (tmp_path / "b.ark").write_bytes(entry("u3", 7, 8, kind="D"))
    (tmp_path / "lone.vec").write_bytes(entry("", 9, 10)[1:])
    (tmp_path / "text.vec").write_bytes(b" [ 11 12 ]\n")
    scp = tmp_path / "all.scp"
    scp.write_text(
        "w text.vec\nu2 a.ark:24\nz lone.vec\nu3 b.ark:3\nu1 a.ark:3\nagain a.ark:3\n", encoding="utf-8"
    )
    expected = np.array([[11, 12], VECTORS[1], [9, 10], [7, 8], VECTORS[0], VECTORS[0]], np.float32)
    monkeypatch.chdir(tmp_path.parent)  # so that they are found beside the script file
    names, vectors = read_scp(scp)
    assert names == ["w", "u2", "z", "u3", "u1", "again"]
    np.testing.assert_array_equal(vectors, expected)
    (tmp_path.parent / "lone.vec").write_bytes(entry("", -1, -2)[1:])
    np.testing.assert_array_equal(read_scp(scp)[1][2], [-1, -2])  # the working directory comes first, as in Kaldi


def test_scp_runs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scp, ran = tmp_path / "x.scp", tmp_path / "ran"
    for command in ("touch ran |", "touch ran; cat x.ark |", "| touch ran", "touch ran|"):
        scp.write_text(f"u1 {command}\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_scp(scp)
        found = f'{scp}:1: "{command}" is a command, and commands are not run'
        assert str(caught.value) == f'{found}; expected "utterance FILE" or "utterance FILE:OFFSET"'
        assert not ran.exists()
    write_ark(tmp_path / "x.ark", ["u1"], VECTORS[:1])
    scp.write_text("u1 touch ran; tail -c +4 x.ark |\n", encoding="utf-8")
    np.testing.assert_array_equal(kaldiio.load_scp(str(scp))["u1"], VECTORS[0])
    assert ran.exists()  # else such a command would be a dud


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u2 -", '"-" is standard input, which is not read; expected "utterance FILE" or "utterance FILE:OFFSET"'),
        ("u2 x.ark:3[0:1]", '"x.ark:3[0:1]" is a range, and vectors are read whole; expected "utterance FILE" or'),
        ("u2", 'found "u2"; expected "utterance FILE" or "utterance FILE:OFFSET"'),
        ("", 'found ""; expected "utterance FILE" or "utterance FILE:OFFSET"'),
        ("u1 x.ark:3", '"u1" stands already in line 1'),
        ("u2 y.ark:3", "no such archive: y.ark"),
        ("u2 x.ark:three", "no such archive: x.ark:three"),
        ("u2 x.ark:1000", '"u2" is at byte 1000 of {ark}, which has 21 bytes'),
        ("u2 x.ark:999999999999999999", '"u2" is at byte 999999999999999999 of {ark}, which has 21 bytes'),
        ("u2 x.ark:9999999999999999999", "no such archive: x.ark:9999999999999999999"),
        ("u2 x.ark:4", 'expected a binary vector of "u2", found none'),
        ("u2 x.ark:20", 'expected a binary vector of "u2", found none'),
        ("u2 three.ark:3", '"u2" has 3 numbers, and "u1" has 2 numbers'),
        ("u2 \0", "no such archive: \0"),
    ],
)
def test_bad_entry_of_an_scp_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ark, scp = Path("x.ark"), tmp_path / "x.scp"
    ark.write_bytes(entry("u1", 1, 2))
    Path("three.ark").write_bytes(entry("u2", 1, 2, 3))
    scp.write_text(f"u1 x.ark:3\n{line}\nlast x.ark:3\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_scp(scp)
    assert str(caught.value).startswith(f"{scp}:2: {message.format(ark=ark)}")


def test_scp_into_an_archive_of_uneven_or_cut_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scp = tmp_path / "x.scp"
    first = entry("u1", 1, 2)
    for second, message in [
        (entry("u2", 1, 2, 3), '"u2" has 3 numbers, and "u1" has 2 numbers'),
        (
            entry("u2", 1, 2)[:-1],
            'ends within the vector of "u2": it has 2 numbers of 4 bytes, and 7 bytes are left',
        ),
        (b"u2 [ 1 2 3 ]\n", 'expected a binary vector of "u2", found none'),
    ]:
        Path("x.ark").write_bytes(first + second)
        scp.write_text(f"u1 x.ark:3\nu2 x.ark:{len(first) + 3}\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_scp(scp)
        assert str(caught.value) == f"{scp}:2: {message}"
    Path("x.ark").write_bytes(b"u1 [ 1 2 ]\nu2 [ 1 ]\n")
    scp.write_text("u1 x.ark:3\nu2 x.ark:14\n", encoding="utf-8")
    with pytest.raises(InputError, match=r'x.scp:2: "u2" has 1 numbers, and "u1" has 2 numbers'):
        read_scp(scp)


def test_refuses_to_write_what_kaldi_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.ark"
    message = 'expected utterance ids without white space, which Kaldi cannot hold, found "a b", ""'
    with pytest.raises(InputError) as caught:
        write_ark(path, ["u", "a b", ""], VECTORS)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(InputError, match=r"x.ark: expected embeddings to write, found none"):
        write_ark(path, [], VECTORS[:0])
    assert not list(tmp_path.iterdir())


def test_a_script_file_never_points_into_an_archive_that_it_was_not_written_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two renames: the new archive stands alone. Failed before them: the old pair stands."""
    path = tmp_path / "x.scp"
    write_scp(path, NAMES, VECTORS)
    with pytest.raises(InputError):
        write_scp(path, ["a b"], VECTORS[:1])
    np.testing.assert_array_equal(read_scp(path)[1], VECTORS)
    replace = os.replace

    def killed(source: str | Path, target: str | Path) -> None:
        if Path(target).suffix == ".scp":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_scp(path, NAMES[:1], VECTORS[:1])
    assert [file.name for file in tmp_path.iterdir()] == ["x.ark"]
    assert read_ark(tmp_path / "x.ark")[0] == NAMES[:1]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["binary", "text", "scp"]))
def test_damaged_file_is_one_clear_error(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    """Cut anywhere, or with any byte changed: an InputError, or as many vectors as names; nothing else."""
    path = tmp_path / ("x.scp" if kind == "scp" else "x.ark")
    ark = b"".join(entry(f"u{i}", i, i + 1) for i in range(6))
    (tmp_path / "x.ark").write_bytes(ark)
    lines = {
        "text": [f"u{i}  [ {i} {i} ]\n" for i in range(6)],
        "scp": [f"u{i} {tmp_path}/x.ark:{3 + i * (len(ark) // 6)}\n" for i in range(6)],
    }
    content = bytearray("".join(lines[kind]).encode() if kind in lines else ark)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message, counts = f"{path}:", [6, 6]
    try:
        found, rows = (read_scp if kind == "scp" else read_ark)(path)
        counts = [len(found), len(rows)]
    except InputError as error:
        message = str(error)
    assert message.startswith((f"{path}:", f"{tmp_path}"))
    assert counts[0] == counts[1]
