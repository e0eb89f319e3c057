"""WUW Corpus II: the real corpus, and folders that break its rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from spkadapt.corpora import CORPORA, wuw2
from spkadapt.errors import InputError

HEADER = "utterance_id,path,speaker_id,split\n"
SOUND = "c1,c1.wav,,adapt\ne1,e1.wav,s1,eval\ne2,e2.wav,s2,eval\n"


def make(root: Path, rows: str, trials: str | None) -> Path:
    (root / "manifest.csv").write_text(HEADER + rows)
    if trials is not None:
        (root / "trials_eval.txt").write_text(trials)
    return root


def test_the_corpus(shared: Path) -> None:
    root = shared / "corpora/wuw2"
    manifest, trials = wuw2.prepare(root)
    adapt, evaluation = manifest.where({"split": "adapt"}), manifest.where({"split": "eval"})
    assert (len(adapt), len({item.session_id for item in adapt})) == (1104, 104)
    assert len(evaluation) == 1100
    assert all(item.speaker_id is None for item in adapt)
    assert {item.domain for item in manifest} == {"landlinephone", "cellphone", "speakerphone"}
    assert all(item.path.is_file() for item in manifest)
    assert trials is not None
    scored = evaluation.where({"utterance_id": trials.utterance_ids()})
    assert len(set(scored.speakers())) == 47  # one more speaker says no sentence


def test_targets_are_one_speaker_in_two_calls(shared: Path) -> None:
    manifest, trials = wuw2.prepare(shared / "corpora/wuw2")
    assert trials is not None
    assert trials.is_target is not None
    by_id = {item.utterance_id: item for item in manifest}
    for enrol, test, is_target in zip(trials.enrol_ids, trials.test_ids, trials.is_target, strict=True):
        assert (by_id[enrol].speaker_id == by_id[test].speaker_id) == is_target
        assert by_id[enrol].session_id != by_id[test].session_id


def test_a_small_one(tmp_path: Path) -> None:
    manifest, trials = CORPORA["wuw2"](make(tmp_path, SOUND, "e1 e2 nontarget\n"))
    assert [item.path for item in manifest] == [tmp_path / "c1.wav", tmp_path / "e1.wav", tmp_path / "e2.wav"]
    assert trials is not None
    assert len(trials) == 1


@pytest.mark.parametrize(
    ("rows", "trials", "message"),
    [
        (SOUND, None, "trials_eval.txt: no such trial list"),
        (SOUND, "e1 x nontarget\n", 'trials_eval.txt:1: utterance "x" is not among the 2 known ones'),
        # An utterance that adaptation sees must not be scored.
        (
            SOUND,
            "e1 e2 nontarget\ne1 c1 target\n",
            'trials_eval.txt:2: utterance "c1" is not among the 2 known ones',
        ),
        (
            SOUND.replace("c1.wav,", "c1.wav,s3"),
            "e1 e2 nontarget\n",
            "manifest.csv: 1 utterances of the adapt split have a speaker_id, the first is c1; "
            "the pool that adaptation sees must have none",
        ),
        (
            "e1,e1.wav,s1,eval\n",
            "e1 e1 target\n",
            "manifest.csv: no utterance has split in ['adapt']; found: eval",
        ),
    ],
)
def test_broken_ones(tmp_path: Path, rows: str, trials: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        wuw2.prepare(make(tmp_path, rows, trials))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.csv: no such manifest"):
        wuw2.prepare(tmp_path)
