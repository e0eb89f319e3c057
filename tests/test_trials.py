"""Trial lists: the orders that the field writes, round trips, and every refusal with its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.trials import Trials, load_trials, number_ids

ORDERS = {
    "kaldi": ("a b target\nb c nontarget\n", [True, False]),
    "voxceleb": ("1 a b\n0 b c\n", [True, False]),
    "unlabelled": ("a b\nb c\n", None),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", ["plain", "windows", "byte-order mark", "no last newline", "tabs", "gzipped"])
def test_every_order(tmp_path: Path, order: str, variant: str) -> None:
    text, labels = ORDERS[order]
    data = {
        "plain": text,
        "windows": text.replace("\n", "\r\n"),
        "byte-order mark": "\ufeff" + text,
        "no last newline": text[:-1],
        "tabs": text.replace(" ", "\t"),
        "gzipped": text,
    }[variant].encode()
    path = tmp_path / ("trials.gz" if variant == "gzipped" else "trials.txt")
    path.write_bytes(gzip.compress(data) if variant == "gzipped" else data)
    trials = load_trials(path)
    assert (trials.enrol_ids, trials.test_ids) == (("a", "b"), ("b", "c"))
    assert (None if trials.is_target is None else trials.is_target.tolist()) == labels
    assert trials.is_target is None or trials.is_target.dtype == bool


def test_ids_may_look_like_labels(tmp_path: Path) -> None:
    """The first line decides: its last column says Kaldi before its first one says VoxCeleb."""
    (tmp_path / "t").write_text("1 0 target\n0 target nontarget\n")
    trials = load_trials(tmp_path / "t")
    assert (trials.enrol_ids, trials.test_ids) == (("1", "0"), ("0", "target"))


EXPECTED = 'expected "enrol test target|nontarget" (Kaldi), "1|0 enrol test" (VoxCeleb) or "enrol test"'
HEADER = "if line 1 is a header, leave it out"
PARTS, BLANKS = "seems to part into columns", "with blanks or tabs between them"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " holds no trials"),
        (
            "a b c\n",
            '1: found "a b c"; expected "enrol test target|nontarget" (Kaldi), "1|0 enrol test" (VoxCeleb) or '
            '"enrol test"',
        ),
        (
            "\na b\n",
            '1: found ""; expected "enrol test target|nontarget" (Kaldi), "1|0 enrol test" (VoxCeleb) or '
            '"enrol test"',
        ),
        ("a b target\na b\n", '2: found "a b"; expected "enrol test target|nontarget" as in line 1'),
        ("a b target\na b Target\n", '2: found "a b Target"; expected "enrol test target|nontarget" as in line 1'),
        ("1 a b\n1 a b\n2 a b\n", '3: found "2 a b"; expected "1|0 enrol test" as in line 1'),
        ("1 a b\na b target\n", '2: found "a b target"; expected "1|0 enrol test" as in line 1'),
        ("a b\na b target\n", '2: found "a b target"; expected "enrol test" as in line 1'),
        ("a b\n\na b\n", '2: found ""; expected "enrol test" as in line 1'),
        ("a b\n\n", '2: found ""; expected "enrol test" as in line 1'),
        ("enrol test label\na b target\n", f'1: found "enrol test label"; {EXPECTED}; {HEADER}'),
        ("label enrol test\r\n1 a b\r\n", f'1: found "label enrol test"; {EXPECTED}; {HEADER}'),
        ("a,b,target\n", f'1: found "a,b,target", which "," {PARTS}; {EXPECTED}, {BLANKS}'),
        (
            "enrol;test;label\na;b;target\n",
            f'1: found "enrol;test;label", which ";" {PARTS}; {EXPECTED}, {BLANKS}',
        ),
        ("1, a, b\n", f'1: found "1, a, b", which "," {PARTS}; {EXPECTED}, {BLANKS}'),
        ("a|b\r\n", f'1: found "a|b", which "|" {PARTS}; {EXPECTED}, {BLANKS}'),
        ("a b target\na,b,target\n", '2: found "a,b,target"; expected "enrol test target|nontarget" as in line 1'),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trials.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_trials(path)
    assert str(caught.value) == f"{path}:{message}"


def test_marks_may_be_part_of_ids(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a,1 b;2\nc, d\n")
    assert load_trials(tmp_path / "t").enrol_ids == ("a,1", "c,")


def test_a_trial_may_be_listed_twice_but_not_with_two_labels(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("a b target\nc d nontarget\na b target\nb a nontarget\n")
    assert len(load_trials(path)) == 4
    for text, message in {
        "x y target\na b nontarget\nc d target\na b nontarget\nc d nontarget\na b target\n": (
            '5: found "c d" as a non-target, and as a target in line 3'
        ),
        "0 a b\n1 c b\n0 c b\n1 a b\n0 a b": '3: found "c b" as a non-target, and as a target in line 2',
        "0 a b\n0 a b\n1 a b\n0 a b": '3: found "a b" as a target, and as a non-target in line 2',
    }.items():
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            load_trials(path)
        assert str(caught.value) == f"{path}:{message}; expected one label for each trial"


def test_ids_are_numbered_in_order_of_first_occurrence() -> None:
    names, numbers = number_ids(["b", "a", "b", "c", "a"])
    assert names == ("b", "a", "c")
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [0, 1, 0, 2, 1]
    assert number_ids([])[0] == ()


def test_no_list_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: no such trial list"):
        load_trials(tmp_path / "none.txt")
    (tmp_path / "t").write_bytes(b"\xff a\n")
    with pytest.raises(InputError, match="expected a text file in UTF-8"):
        load_trials(tmp_path / "t")


ID = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ID, ID, st.booleans()), min_size=1, max_size=8), labelled=st.booleans())
def test_round_trip(tmp_path: Path, rows: list[tuple[str, str, bool]], labelled: bool) -> None:
    enrol_ids, test_ids, labels = zip(*rows, strict=True)
    if labelled:  # one label for each trial
        label_of = dict(zip(zip(enrol_ids, test_ids, strict=True), labels, strict=True))
        labels = tuple(label_of[pair] for pair in zip(enrol_ids, test_ids, strict=True))
    trials = Trials(enrol_ids, test_ids, np.array(labels) if labelled else None)
    trials.save(tmp_path / "trials.txt")
    loaded = load_trials(tmp_path / "trials.txt")
    assert (loaded.enrol_ids, loaded.test_ids) == (enrol_ids, test_ids)
    assert (None if loaded.is_target is None else tuple(loaded.is_target.tolist())) == (
        labels if labelled else None
    )


def test_no_trials_are_saved_as_an_empty_file(tmp_path: Path) -> None:
    Trials((), ()).save(tmp_path / "trials.txt")
    with pytest.raises(InputError, match="holds no trials"):
        load_trials(tmp_path / "trials.txt")


TRIALS = Trials(("a", "b", "c"), ("b", "zzz", "utt1"), np.array([True, False, True]))


def test_ids_once_each_and_in_order() -> None:
    assert TRIALS.utterance_ids() == ("a", "b", "c", "zzz", "utt1")
    assert len(TRIALS) == 3


def test_select() -> None:
    chosen = TRIALS.select([1, 0])
    assert (chosen.enrol_ids, chosen.test_ids) == (("b", "a"), ("zzz", "b"))
    assert chosen.is_target is not None
    assert chosen.is_target.tolist() == [False, True]
    assert Trials(("a",), ("b",)).select([0]).is_target is None
    nothing = TRIALS.select([])
    assert nothing.is_target is not None
    assert len(nothing) == len(nothing.is_target) == 0


@pytest.mark.parametrize(
    ("known", "path", "message"),
    [
        (
            ["a", "b", "c", "zzz", "utt2"],
            None,
            'utterance "utt1" is not among the 5 known ones; did you mean "utt2"?',
        ),
        (["a", "b", "c", "zzz"], "t", 't:3: utterance "utt1" is not among the 4 known ones'),
        (
            ["a", "b", "c", "zz"],
            "t",
            't:2: utterance "zzz" is not among the 4 known ones (2 unknown ids in all: utt1, zzz); '
            'did you mean "zz"?',
        ),
    ],
)
def test_unknown_ids(known: list[str], path: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TRIALS.check_ids(known, path=path)
    assert str(caught.value) == message


def test_many_unknown_ids_are_counted() -> None:
    trials = Trials(tuple(f"x{i:02d}" for i in range(12)), ("a",) * 12)
    with pytest.raises(InputError, match=r"\(12 unknown ids in all: x00, .*, x09 and 2 more\)"):
        trials.check_ids(["a"])


def test_known_ids_pass() -> None:
    TRIALS.check_ids([*TRIALS.utterance_ids(), "more"])


def test_wuw2(shared: Path) -> None:
    trials = load_trials(shared / "corpora/wuw2/trials_eval.txt")
    assert trials.is_target is not None
    assert (int(trials.is_target.sum()), int((~trials.is_target).sum())) == (2600, 60000)
    assert (trials.enrol_ids[0], trials.test_ids[0]) == ("wuw00076-utt008", "wuw00077-utt010")
    # Sentence prompts only, utt006 to utt010.
    assert {name.split("-")[1] for name in trials.utterance_ids()} == {f"utt{i:03d}" for i in range(6, 11)}
