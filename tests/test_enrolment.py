"""Enrolment lists: Kaldi's and NIST's forms, what trials need of them, and every refusal with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spkadapt.enrolment import Enrolment, load_enrolment
from spkadapt.errors import InputError

FORMS = {
    "spk2utt": "m1 a b\nm2 c\nm3 a d e\n",
    "tabs and Windows": "\ufeffm1\ta b\r\nm2  c\r\nm3 a\td e\r\n\r\n",
    "a line a segment": "m1 a\nm1 b\nm2 c\nm3 a\nm3 d\nm3 e",
    "NIST": "modelid\tsegmentid\tside\nm1\ta\ta\nm1\tb\ta\nm2\tc\tb\nm3\ta\ta\nm3\td\ta\nm3\te\ta\n",
    "NIST without sides": "modelid segmentid\nm1 a\nm1 b\nm2 c\nm3 a\nm3 d\nm3 e\n",
}


def load(tmp_path: Path, text: str) -> Enrolment:
    path = tmp_path / "enrol.txt"
    path.write_bytes(text.encode())
    return load_enrolment(path)


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    enrolment = load(tmp_path, FORMS[form])
    assert enrolment.model_ids == ("m1", "m2", "m3")
    assert enrolment.utterance_ids == ("a", "b", "c", "a", "d", "e")
    assert enrolment.model_of.tolist() == [0, 0, 1, 2, 2, 2]
    assert enrolment.model_of.dtype == np.int32


def test_lines_of_a_model_may_be_apart(tmp_path: Path) -> None:
    enrolment = load(tmp_path, "m1 a\nm2 c\nm1 b d\n")
    assert enrolment.utterance_ids == ("a", "b", "d", "c")
    assert enrolment.model_of.tolist() == [0, 0, 0, 1]
    assert enrolment.lines.tolist() == [1, 3, 3, 2]


def test_trials_number_the_models_that_they_name(tmp_path: Path) -> None:
    enrolment = load(tmp_path, FORMS["spk2utt"])
    utterances, model_of, rows = enrolment.number(["m3", "m1", "m1", "m3"])
    assert utterances == ("a", "b", "a", "d", "e")
    assert model_of.tolist() == [1, 1, 0, 0, 0]
    assert rows.tolist() == [0, 1, 1, 0]


def test_unknown_ids_are_reported_at_once(tmp_path: Path) -> None:
    enrolment = load(tmp_path, "m1 a\nm2 c\nm1 b d\n")
    with pytest.raises(InputError) as caught:
        enrolment.check_utterances(["a", "c2", "d"])
    assert str(caught.value) == (
        f'{tmp_path}/enrol.txt:3: utterance "b" is not among the 3 known ones (2 unknown ids in all: b, c)'
    )
    enrolment.check_utterances(["d", "c", "b", "a"])
    with pytest.raises(InputError) as caught:
        enrolment.number(["m1", "m3", "x", "m3"], path="trials")
    assert str(caught.value) == (
        'trials:2: model "m3" is not among the 2 known ones (2 unknown ids in all: m3, x)'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ':1: found ""; expected a model and its utterances'),
        ("m1 a\n\nm2 b\n", ':2: found ""; expected a model and its utterances'),
        ("m1 a\nm2\n", ':2: found "m2"; expected a model and its utterances'),
        (
            "m1,a,b\n",
            ':1: found "m1,a,b"; expected a model and its utterances, parted by blanks or tabs and not by ","',
        ),
        ("m1 a b a\n", ':1: found "a" among the utterances of model "m1" again, first in line 1'),
        ("m1 a\nm2 a\nm1 a\n", ':3: found "a" among the utterances of model "m1" again, first in line 1'),
        ("modelid segmentid\nm1\n", ':2: found "m1"; expected a model and its utterances'),
        ("modelid segmentid\n", ": holds no models"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/enrol.txt{message}"


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such enrolment list"):
        load_enrolment(tmp_path / "none")
