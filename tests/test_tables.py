"""Tables of utterances: every line accounted for, and every id that is unknown named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from spkadapt.errors import InputError
from spkadapt.manifest import load_manifest
from spkadapt.tables import load_utterance_table, look_up


def test_reads_a_kaldi_table(tmp_path: Path) -> None:
    path = tmp_path / "utt2call"
    path.write_bytes("\ufeffu1 call1\r\nu2\tcall2\r\n  ü3   call1".encode())
    assert load_utterance_table(path, "session_id") == {"u1": "call1", "u2": "call2", "ü3": "call1"}


def test_reads_a_column_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('speaker_id, domain,utterance_id\n"Ada, L.",mic,u1\n\nBob,phone,u2\n', encoding="utf-8")
    assert load_utterance_table(path, "speaker_id") == {"u1": "Ada, L.", "u2": "Bob"}
    assert load_utterance_table(path, "domain") == {"u1": "mic", "u2": "phone"}


def test_agrees_with_the_manifest(shared: Path) -> None:
    path = shared / "corpora/wuw2/manifest.csv"
    expected = {item.utterance_id: item.session_id for item in load_manifest(path)}
    assert load_utterance_table(path, "session_id") == expected


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("utt2spk", "", "", "expected the speaker_id of each utterance, found no utterances"),
        ("utt2spk", "u1 a\nu2\n", ":2", 'found "u2"; expected an utterance id and its speaker_id'),
        ("utt2spk", "u1 a b\n", ":1", 'found "u1 a b"; expected an utterance id and its speaker_id'),
        ("utt2spk", "u1 a\n\nu2 b\n", ":2", 'found ""; expected an utterance id and its speaker_id'),
        ("utt2spk", "u1 a\nu2 a\nu1 a\n", ":3", '"u1" stands already in line 1'),
        ("x.csv", "", ":1", 'the column "utterance_id" is missing; choose from: '),
        ("x.csv", "utterance_id,speaker\n", ":1", 'the column "speaker_id" is missing; did you mean "speaker"?'),
        ("x.csv", "utterance_id,speaker_id,speaker_id\n", ":1", 'the column "speaker_id" is there 2 times'),
        (
            "x.csv",
            "utterance_id,speaker_id\n",
            "",
            "expected the speaker_id of each utterance, found no utterances",
        ),
        ("x.csv", "utterance_id,speaker_id\nu1\n", ":2", "found 1 cells; the header has 2"),
        ("x.csv", "utterance_id,speaker_id\n\nu1,a\nu1,b\n", ":4", '"u1" stands already in line 3'),
        (
            "x.csv",
            "utterance_id,speaker_id\nu1,\nu2,a\nu3, \n",
            "",
            "speaker_id is empty for 2 utterances: u1, u3",
        ),
        ("x.csv", 'utterance_id,speaker_id\n"u1,a\n', ":2", "not readable as CSV (unexpected end of data)"),
    ],
)
def test_names_the_file_and_line(tmp_path: Path, name: str, content: str, where: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_utterance_table(path, "speaker_id")
    assert str(caught.value) == f"{path}{where}: {message}"


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="utt2dom: expected a table with the domain of each utterance, found no such"
    ):
        load_utterance_table(tmp_path / "utt2dom", "domain")


def test_look_up_names_ten_unknown_ids_and_counts_the_rest() -> None:
    table = {"u1": "a", "u2": "b"}
    assert look_up(table, ["u2", "u1", "u2"], column="speaker_id", path="utt2spk") == ["b", "a", "b"]
    with pytest.raises(InputError) as caught:
        look_up(table, ["u1", *(f"new{i}" for i in range(12))], column="speaker_id", path="utt2spk")
    names = ", ".join(f"new{i}" for i in range(10))
    assert str(caught.value) == f"utt2spk: no speaker_id for 12 utterances: {names} and 2 more"
