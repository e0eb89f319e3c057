"""The synthetic corpus: what it promises of its splits, trials and truth, and what an interruption does to it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from spkadapt.corpora import synthetic
from spkadapt.corpora.synthetic import Session, SyntheticConfig, prepare, sample_voice
from spkadapt.errors import InputError
from spkadapt.files import sha256
from spkadapt.manifest import Manifest
from spkadapt.simulate.channel import mulaw
from spkadapt.trials import Trials

SMALL = SyntheticConfig(
    num_source_speakers=3,
    num_source_sessions=1,
    num_source_utterances=2,
    num_adapt_speakers=4,
    num_adapt_sessions=2,
    num_adapt_utterances=1,
    num_eval_speakers=4,
    num_eval_sessions=3,
    num_eval_utterances=2,
    num_nontargets_per_target=2,
    duration=0.6,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    prepare(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def corpus(root: Path) -> tuple[Manifest, Trials]:
    return prepare(root, SMALL)


def _files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256(path) for path in root.rglob("*") if path.is_file()}


def test_splits_are_as_large_and_labelled_as_promised(corpus: tuple[Manifest, Trials]) -> None:
    manifest, _ = corpus
    sizes = {split: len(manifest.where({"split": split})) for split in ("train", "adapt", "eval")}
    assert sizes == {"train": 3 * 1 * 2, "adapt": 4 * 2 * 1, "eval": 4 * 3 * 2}
    train, evaluation = (manifest.where({"split": split}) for split in ("train", "eval"))
    assert len(set(train.speakers())) == 3
    assert len(set(evaluation.speakers())) == 4
    assert not set(train.speakers()) & set(evaluation.speakers())
    assert {item.domain for item in train} == {"studio"}
    assert {item.domain for item in manifest.where({"split": ["adapt", "eval"]})} == {"telephone"}


def test_the_adapt_split_says_nothing_of_its_speakers(root: Path, corpus: tuple[Manifest, Trials]) -> None:
    adapt = corpus[0].where({"split": "adapt"})
    assert {(item.speaker_id, item.gender) for item in adapt} == {(None, None)}
    assert all(re.fullmatch(r"adapt-call\d{3}-u\d", item.utterance_id) for item in adapt)
    # Which sitting is which call, found by recording every sitting again.
    sittings = [(speaker, session) for speaker in range(4) for session in range(2)]
    rows = [_recorded_again("adapt", speaker, session) for speaker, session in sittings]
    order = [next(i for i, row in enumerate(rows) if np.array_equal(row, _read(item.path))) for item in adapt]
    assert sorted(order) == list(range(8))
    assert order != sorted(order)


def _recorded_again(split: str, speaker: int, session: int) -> np.ndarray:
    key = ("train", "adapt", "eval").index(split), speaker, session
    domain = "studio" if split == "train" else "telephone"
    sitting = Session.sample(sample_voice(SMALL, split, speaker), domain, SMALL.generator(*key))
    generator = SMALL.generator(*key, 0)
    duration = SMALL.duration * generator.uniform(0.8, 1.2)
    return np.round(sitting.record(duration, SMALL, generator) * 32768)


def _read(path: Path) -> np.ndarray:
    return wavfile.read(path)[1]


def test_no_two_speakers_of_any_split_share_a_voice() -> None:
    voices = {sample_voice(SMALL, split, speaker) for split in ("train", "adapt", "eval") for speaker in range(9)}
    assert len(voices) == 27
    assert {voice.gender for voice in voices} == {"m", "f"}


def test_waveforms_are_whole(corpus: tuple[Manifest, Trials]) -> None:
    for item in corpus[0]:
        sample_rate, samples = wavfile.read(item.path)
        assert sample_rate == (16000 if item.domain == "studio" else 8000)
        assert samples.dtype == np.int16
        assert len(samples) / sample_rate == item.duration
        assert 0.8 * 0.6 - 0.008 <= item.duration <= 1.2 * 0.6 + 0.008
        assert 300 < np.abs(samples).max() <= 0.99 * 32768
        assert np.std(samples) > 100
        values = samples / 32768
        assert np.array_equal(mulaw(values), values) == (item.domain == "telephone")


def test_trials_are_all_pairs_across_sessions_and_sampled_others(corpus: tuple[Manifest, Trials]) -> None:
    manifest, trials = corpus
    items = {item.utterance_id: item for item in manifest.where({"split": "eval"})}
    pairs = [(items[a], items[b]) for a, b in zip(trials.enrol_ids, trials.test_ids, strict=True)]
    assert len({frozenset((a.utterance_id, b.utterance_id)) for a, b in pairs}) == len(pairs)
    for (a, b), is_target in zip(pairs, trials.is_target, strict=True):
        assert (a.speaker_id == b.speaker_id) == is_target
        assert a.session_id != b.session_id
    num_targets = 4 * 3 * 2**2  # speakers × pairs of sessions × pairs of utterances
    assert trials.is_target.sum() == num_targets
    same_gender = sum(a.gender == b.gender for a, b in pairs) - num_targets
    assert same_gender == num_targets  # 2 non-targets a target, half of them of one gender
    assert len(trials) == 3 * num_targets


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "again", SMALL)
    assert _files(tmp_path / "again") == _files(root)
    prepare(tmp_path / "other", replace(SMALL, seed=1))
    other, first = _files(tmp_path / "other"), _files(root)
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first if name.endswith(".wav"))


def test_one_split_does_not_depend_on_the_size_of_another(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, replace(SMALL, num_source_speakers=1, num_adapt_speakers=1))
    smaller, whole = _files(tmp_path / "wav/eval"), _files(root / "wav/eval")
    assert smaller == whole


def test_a_finished_corpus_is_left_alone(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    manifest, trials = prepare(root, SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(manifest) == 38
    assert len(trials) == 144


def test_an_interrupted_corpus_is_made_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write_then_die(path: Path, *arguments: object) -> None:
        if len(written) >= 5:
            raise KeyboardInterrupt
        written.append(path)
        wavfile_write(path, *arguments)

    wavfile_write = wavfile.write
    monkeypatch.setattr(synthetic.wavfile, "write", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, SMALL)
    assert not (tmp_path / "corpus.json").exists()
    monkeypatch.undo()
    written[0].write_bytes(b"RIFF")
    prepare(tmp_path, SMALL)
    assert _files(tmp_path) == _files(root)


@pytest.mark.parametrize("damaged", ["wav/train/train-spk000-s0-u0.wav", "manifest.csv", "trials_eval.txt"])
@pytest.mark.parametrize("how", ["lost", "changed"])
def test_a_damaged_corpus_is_made_anew(root: Path, damaged: str, how: str) -> None:
    before = _files(root)
    if how == "lost":
        (root / damaged).unlink()
    else:
        (root / damaged).write_bytes((root / damaged).read_bytes()[:-2])
    prepare(root, SMALL)
    assert _files(root) == before


def test_corpus_json_says_that_it_is_synthetic(root: Path) -> None:
    found = json.loads((root / "corpus.json").read_text())
    assert found["synthetic"] is True
    assert "no human voice" in found["description"]
    assert SyntheticConfig(**found["config"]) == SMALL


def test_another_configuration_is_not_overwritten(root: Path) -> None:
    before = _files(root)
    message = r"corpus.json: the corpus here has seed 0, not the 7 asked for; choose another folder, or delete"
    with pytest.raises(InputError, match=message):
        prepare(root, replace(SMALL, seed=7))
    assert _files(root) == before


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; expected a folder to put the synthetic corpus in"):
        prepare(tmp_path / "file", SMALL)
    (tmp_path / "corpus.json").write_text('["something else"]')
    with pytest.raises(InputError, match=r"corpus.json: is not the corpus.json of a synthetic corpus"):
        prepare(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_source_speakers": 0}, "num_source_speakers is 0; expected a whole number, at least 1"),
        ({"num_eval_sessions": 1}, "num_eval_sessions is 1; expected a whole number, at least 2"),
        ({"seed": 0.5}, "seed is 0.5; expected a whole number, at least 0"),
        ({"duration": 0.1}, "duration is 0.1; expected at least 0.5 seconds"),
        ({"telephone_sample_rate": 7000}, "telephone_sample_rate is 7000; expected a whole number, at least 7200"),
        ({"telephone_sample_rate": 32000}, "studio_sample_rate 16000 is below telephone_sample_rate 32000"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(SMALL, **changes)


def _spectrum(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Long-term average log spectrum in 20 bands from 300 to 3400 Hz, (bands,), its mean removed."""
    power = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / sample_rate)
    edges = np.linspace(300, 3400, 21)
    bands = [power[(frequencies >= a) & (frequencies < b)].mean() for a, b in pairwise(edges)]
    return np.log(bands) - np.mean(np.log(bands))


def test_the_telephone_hides_who_is_speaking() -> None:
    """The same 12 voices in both domains: speakers differ less, relative to their sessions, on the telephone."""
    ratios = {}
    for domain, rate in (("studio", 16000), ("telephone", 8000)):
        spectra = np.empty((12, 3, 20))
        for speaker in range(12):
            for session in range(3):
                generator = SMALL.generator(9, speaker, session)
                sitting = Session.sample(sample_voice(SMALL, "eval", speaker), domain, generator)
                spectra[speaker, session] = _spectrum(sitting.record(3.0, SMALL, generator), rate)
        within = np.var(spectra, axis=1, ddof=1).mean(axis=0).sum()
        # The mean of three sessions varies by a third of what they do, whoever speaks.
        between = np.var(spectra.mean(axis=1), axis=0, ddof=1).sum() - within / 3
        ratios[domain] = between / within
    assert ratios["studio"] > 2 * ratios["telephone"]


def test_the_telephone_keeps_its_band_and_the_studio_more() -> None:
    voice = sample_voice(SMALL, "eval", 0)
    beyond = {}
    for domain, rate in (("studio", 16000), ("telephone", 8000)):
        generator = SMALL.generator(9)
        sitting = replace(Session.sample(voice, domain, generator), snr=40.0)
        waveform = sitting.record(3.0, SMALL, generator)
        power = np.abs(np.fft.rfft(waveform)) ** 2
        frequencies = np.fft.rfftfreq(len(waveform), 1 / rate)
        beyond[domain] = power[(frequencies < 200) | (frequencies > 3500)].sum() / power.sum()
    assert beyond["studio"] > 0.1
    # What is left is μ-law's own noise: 38 dB down, 700 of 4000 Hz of it outside.
    assert beyond["telephone"] < 10 ** (-38 / 10) * 700 / 4000 * 2
