"""Score files: round trips, the orders of columns, and every refusal with its line."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from spkadapt.errors import InputError
from spkadapt.parquet import write_parquet
from spkadapt.score import Scores, align_scores, load_scores, save_scores


def test_file_round_trip_is_exact(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, size=3000, dtype=np.uint32).view(np.float32)  # any bits at all
    values = np.append(values[np.isfinite(values)], np.float32([0, -0.0, 1e-45, 3.4028235e38]))
    names = tuple(f"speaker_é/{i}" for i in range(len(values)))
    for path in (tmp_path / "scores.txt", tmp_path / "scores.txt.gz"):
        save_scores(path, Scores(names, names[::-1], values))
        loaded = load_scores(path)
        assert (loaded.enrol_ids, loaded.test_ids) == (names, names[::-1])
        np.testing.assert_array_equal(loaded.scores.view(np.uint32), values.view(np.uint32))
    plain, packed = (tmp_path / "scores.txt").read_bytes(), (tmp_path / "scores.txt.gz").read_bytes()
    assert gzip.decompress(packed) == plain
    time.sleep(1.1)  # gzip's header holds whole seconds, and must not
    save_scores(path, loaded)
    assert path.read_bytes() == packed


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n \n\n"])
def test_line_ends(tmp_path: Path, newline: str, last: str) -> None:
    path = tmp_path / "scores.txt"
    path.write_bytes(("\ufeffa b 0.5\n c\t d  -1e-3" + last).replace("\n", newline).encode())
    loaded = load_scores(path)
    assert (loaded.enrol_ids, loaded.test_ids) == (("a", "c"), ("b", "d"))
    assert loaded.scores.tolist() == [np.float32(0.5), np.float32(-1e-3)]


def test_column_order_is_read_off_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "scores.txt"
    for text, expected in {
        "0.5 a b\n0.25 c 7": (("a", "c"), ("b", "7"), [0.5, 0.25]),  # VoxSRC
        "0.5 a 10_20\n0.25 c d": (("a", "c"), ("10_20", "d"), [0.5, 0.25]),  # float("10_20") is 1020
        "0.5 a nan\n0.25 c inf": (("a", "c"), ("nan", "inf"), [0.5, 0.25]),
        "1001 1002 0.5": (("1001",), ("1002",), [0.5]),  # all numbers: the last column
        "a b .5e1\nc d -3.": (("a", "c"), ("b", "d"), [5, -3]),
    }.items():
        path.write_text(text)
        loaded = load_scores(path)
        assert (loaded.enrol_ids, loaded.test_ids, loaded.scores.tolist()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": expected a score on each line, found an empty file"),
        ("a b 1\n\nc d 2\n", ":2: expected 3 columns, enrol test score, found 0"),
        ("a b 1\na b 1 x\na b\n", ":2: expected 3 columns, enrol test score, found 4"),
        ("a b 1\na b\na b 1 x\n", ":2: expected 3 columns, enrol test score, found 2"),
        (
            "a,b,1\n",
            ':1: expected 3 columns, enrol test score, found 1, parted by ","; part them by blanks or tabs',
        ),
        ("a b c\n", ':1: expected a score in the last or the first column, found "a" and "c"'),
        ("a b nan\n", ':1: expected a score in the last or the first column, found "a" and "nan"'),
        ("a b 1\r\nc d x\r\n", ':2: expected a finite number as score, found "x"'),
        ("a b 1\nc d nan\n", ':2: expected a finite number as score, found "nan"'),
        ("a b 1\nc d -inf\n", ':2: expected a finite number as score, found "-inf"'),
        ("a b 1\nc d 1e39\n", ':2: expected a finite number as score, found "1e39"'),
        ("a b 1\nc d 1_0\n", ':2: expected a finite number as score, found "1_0"'),
        ("1 a b\n2 c d\nx e 9\n", ':3: expected a finite number as score, found "x"'),
    ],
)
def test_load_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_scores(path)
    assert str(caught.value) == f"{path}{message}"


def test_load_refuses_what_is_no_text(tmp_path: Path) -> None:
    packed = gzip.compress(b"a b 0.5\n" * 1000)
    for name, content in {
        "a.txt": b"\xff\xfe",
        "b.gz": b"a b 1\n",
        "c.gz": packed[:-9],
        "d.gz": b"\x1f\x8b\x08",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="expected a text file in UTF-8, found: "):
            load_scores(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        load_scores(tmp_path / "absent.txt")


def test_scores_and_saving_refuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found 2 enrol_ids, 1 test_ids, scores \(2,\)"):
        Scores(("a", "b"), ("c",), np.zeros(2))
    with pytest.raises(InputError, match="found nan for trial b d"):
        Scores(("a", "b"), ("c", "d"), np.array([0, np.nan]))
    for name in ("a b", "", "a\n"):
        with pytest.raises(InputError, match="expected ids without blanks"):
            save_scores(tmp_path / "scores.txt", Scores((name,), ("c",), np.zeros(1)))
    assert not list(tmp_path.iterdir())


def test_align_follows_the_trials() -> None:
    scores = Scores(("a", "b", "a", "c"), ("x", "x", "y", "z"), np.array([1.0, 2.0, 3.0, 4.0]))
    aligned = align_scores(scores, ["a", "a", "b", "a"], ["y", "x", "x", "y"])
    assert aligned.dtype == np.float32
    assert aligned.tolist() == [3, 1, 2, 3]


def test_align_reports_all_missing_trials_at_once() -> None:
    enrol = ["a", *(f"e{i}" for i in range(12)), "e0"]
    with pytest.raises(InputError) as caught:
        align_scores(Scores(("a",), ("x",), np.ones(1)), enrol, ["x"] * 14)
    names = ", ".join(f"e{i} x" for i in range(10))
    assert str(caught.value) == f"no score for 12 of 14 trials: {names} and 2 more"


def test_align_refuses_two_scores_for_one_trial() -> None:
    same = Scores(("a", "a"), ("x", "x"), np.array([1.0, 1.0]))
    assert align_scores(same, ["a"], ["x"]).tolist() == [1]
    with pytest.raises(InputError, match="found 1 and 2 for a x"):
        align_scores(Scores(("a", "a"), ("x", "x"), np.array([1.0, 2.0])), ["a"], ["x"])


def test_text_is_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spkadapt.score.files._BATCH", 3)
    monkeypatch.setattr("spkadapt.score.binary_files._BATCH", 3)
    names = tuple(f"{i}" for i in range(10))
    for suffix in ("txt", "gz", "parquet"):
        save_scores(tmp_path / f"s.{suffix}", Scores(names, names[::-1], np.arange(10)))
        loaded = load_scores(tmp_path / f"s.{suffix}")
        assert (loaded.enrol_ids, loaded.test_ids, loaded.scores.tolist()) == (names, names[::-1], list(range(10)))


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("num_trials", [0, 1, 3000])
def test_binary_round_trip_is_exact_and_repeatable(tmp_path: Path, suffix: str, num_trials: int) -> None:
    random = np.random.default_rng(0)
    enrol = tuple(f"modèle {i}" for i in random.integers(30, size=num_trials))
    test = tuple(f"test/{i}" for i in random.integers(900, size=num_trials))
    scores = Scores(enrol, test, random.normal(size=num_trials))
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save_scores(path, scores)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    loaded = load_scores(paths[0])
    assert (loaded.enrol_ids, loaded.test_ids) == (enrol, test)
    np.testing.assert_array_equal(loaded.scores.view(np.uint32), scores.scores.view(np.uint32))


def npz(**changes: object) -> dict[str, object]:
    sound = {
        "enrol_ids": ["a", "b"],
        "enrol_rows": [0, 1],
        "test_ids": ["c"],
        "test_rows": [0, 0],
        "scores": [1.0, 2],
    }
    return {key: value for key, value in (sound | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            npz(test_rows=None),
            "expected arrays enrol_ids, enrol_rows, test_ids, test_rows, scores, found: enrol_ids",
        ),
        (npz(enrol_ids=[1, 2]), "expected enrol_ids to be text, found int64 of shape (2,)"),
        (npz(test_rows=[0.0, 0]), "expected test_rows to be a list of integers, found float64 of shape (2,)"),
        (npz(test_rows=[0, 1]), "expected test_rows from 0 to 0, found 0 to 1"),
        (npz(enrol_rows=[-1, 1]), "expected enrol_rows from 0 to 1, found -1 to 1"),
        (npz(scores=["x", "y"]), "expected scores to be numbers, found <U1 of shape (2,)"),
        (npz(scores=[1.0, np.nan]), "expected finite scores, found nan for trial b c"),
        (npz(scores=[1.0, 1e39]), "expected finite scores, found inf for trial b c"),
        (npz(scores=[1.0]), "expected one score for each trial, found 2 enrol_ids, 2 test_ids, scores (1,)"),
        (npz(scores=np.array([None, 1])), "expected an npz file of scores, found one that is damaged"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    path = tmp_path / "scores.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError) as caught:
        load_scores(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_damaged_binary_files(tmp_path: Path) -> None:
    for suffix in ("npz", "parquet"):
        path = tmp_path / f"scores.{suffix}"
        with pytest.raises(InputError, match="no such score file"):
            load_scores(path)
        save_scores(path, Scores(("a",) * 50, ("b",) * 50, np.arange(50)))
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(
            InputError, match=rf"scores\.{suffix}: expected an? \w+ file.*, found one that is damaged"
        ):
            load_scores(path)
    write_parquet(path, [{"enrol_id": ["a"], "test_id": ["b"]}])
    with pytest.raises(InputError, match=r'the column "score" is missing; found: enrol_id, test_id'):
        load_scores(path)
    write_parquet(path, [{"enrol_id": ["a"], "test_id": ["b"], "score": ["1"]}])
    with pytest.raises(InputError, match='expected column "score" to be numbers'):
        load_scores(path)
