"""Feature stores: each utterance as if alone, and the same bytes after an interruption."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spkadapt import feature_store
from spkadapt.audio import load_audio
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore, extract_features
from spkadapt.features import FeatureConfig, FeatureExtractor, num_frames
from spkadapt.manifest import Recording
from spkadapt.vad import VadConfig, energy_vad, log_energy

FEATURES = FeatureConfig(num_mel_bins=8)
VAD = VadConfig()
NUM_RECORDINGS = 23


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    """Noise with silent gaps, from 0.1 to 0.6 s; the third is silent throughout."""
    random = np.random.default_rng(0)
    items = []
    for number in range(NUM_RECORDINGS):
        samples = 0.1 * random.normal(size=random.integers(800, 4800))
        samples[: len(samples) // 3] *= 1e-4
        if number == 2:
            samples[:] = 0
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, samples, 8000)
        items.append(Recording(f"utt{number}", path))
    return items


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four shards of two batches each, the last ones smaller."""
    monkeypatch.setattr(feature_store, "SHARD_SIZE", 7)
    monkeypatch.setattr(feature_store, "BATCH_SIZE", 4)


def features_alone(waveform: torch.Tensor, vad: VadConfig | None) -> torch.Tensor:
    lengths = torch.tensor([len(waveform)])
    frames, counts = FeatureExtractor(FEATURES)(waveform[None], lengths)
    if vad is None:
        return frames[0]
    voiced = energy_vad(log_energy(waveform[None], lengths, FEATURES), counts, vad)[0]
    return frames[0, voiced] if voiced.any() else frames[0]


@pytest.mark.parametrize("vad", [None, VAD])
def test_company_changes_no_utterance(recordings: list[Recording], tmp_path: Path, vad: VadConfig | None) -> None:
    store = extract_features(recordings, tmp_path / "store", FEATURES, vad)
    assert store.utterance_ids == tuple(item.utterance_id for item in recordings)
    assert store.name == "store"
    assert store.num_features == 8
    assert store.frames.dtype == torch.float32
    assert store.lengths.sum() == len(store.frames)
    for row, item in enumerate(recordings):
        alone = features_alone(load_audio(item.path, 8000), vad)
        assert store.lengths[row] == len(alone)
        torch.testing.assert_close(store.utterance(row), alone, rtol=0, atol=1e-4)


def test_vad_drops_the_gaps_and_a_silent_utterance_keeps_all(recordings: list[Recording], tmp_path: Path) -> None:
    everything = extract_features(recordings, tmp_path / "all", FEATURES)
    voiced = extract_features(recordings, tmp_path / "voiced", FEATURES, VAD)
    assert voiced.lengths[2] == everything.lengths[2]
    others = torch.arange(NUM_RECORDINGS) != 2
    # A third of each of them is silent, but for the two frames of context and those across the edge.
    expected = everything.lengths[others] * 2 / 3
    assert (voiced.lengths[others] - expected).abs().max() <= 4
    assert voiced.lengths[others].sum() < 0.8 * everything.lengths[others].sum()


def test_segments_are_cut_from_their_recording(recordings: list[Recording], tmp_path: Path) -> None:
    path = max((item.path for item in recordings), key=lambda path: soundfile.info(path).frames)
    waveform = load_audio(path, 8000)
    segments = [
        Recording("head", path, start=0.0, duration=0.1),
        Recording("tail", path, start=0.125),
        Recording("whole", path, duration=0.1),  # without a start, a duration is a note
    ]
    store = extract_features(segments, tmp_path / "store", FEATURES)
    for row, part in enumerate((waveform[:800], waveform[1000:], waveform)):
        torch.testing.assert_close(store.utterance(row), features_alone(part, None), rtol=0, atol=1e-4)


@pytest.mark.parametrize("vad", [None, VAD])
def test_each_waveform_is_changed_with_its_recording_before_all_else(
    recordings: list[Recording], tmp_path: Path, vad: VadConfig | None
) -> None:
    """Repeated as often as its number says: silence is found in what the change leaves, not in what was there."""

    def change(recording: Recording, waveform: torch.Tensor) -> torch.Tensor:
        seen.append((recording.utterance_id, len(waveform)))
        return waveform.flip(0).repeat(1 + int(recording.utterance_id.removeprefix("utt")) % 3)

    seen: list[tuple[str, int]] = []
    store = extract_features(recordings, tmp_path / "store", FEATURES, vad, change=change)
    assert sorted(seen) == sorted((item.utterance_id, soundfile.info(item.path).frames) for item in recordings)
    for row, item in enumerate(recordings):
        changed = load_audio(item.path, 8000).flip(0).repeat(1 + row % 3)
        alone = features_alone(changed, vad)
        assert store.lengths[row] == len(alone)
        torch.testing.assert_close(store.utterance(row), alone, rtol=0, atol=1e-4)


def test_a_change_is_of_the_segment_alone(recordings: list[Recording], tmp_path: Path) -> None:
    segment = Recording("tail", recordings[0].path, start=0.05)
    store = extract_features([segment], tmp_path / "store", FEATURES, change=lambda _, waveform: 0.5 * waveform)
    expected = features_alone(0.5 * load_audio(segment.path, 8000)[400:], None)
    torch.testing.assert_close(store.utterance(0), expected, rtol=0, atol=1e-4)


def test_a_change_that_leaves_too_little(recordings: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        extract_features(recordings[:1], tmp_path / "store", FEATURES, change=lambda _, waveform: waveform[:39])
    assert str(caught.value).startswith(f"{recordings[0].path}: an utterance of 39 samples")


class Killed(BaseException):
    """As abrupt as a signal: no `except Exception` stops it."""


@pytest.mark.parametrize("num_batches", range(7))
def test_an_interrupted_extraction_goes_on_to_the_same_bytes(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_batches: int
) -> None:
    extract_features(recordings, tmp_path / "unbroken", FEATURES, VAD)
    extract_batch = feature_store._extract_batch
    calls = 0

    def counted(*args: object) -> list[np.ndarray]:
        nonlocal calls
        if calls == num_batches and dying:
            raise Killed
        calls += 1
        return extract_batch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(feature_store, "_extract_batch", counted)
    dying = True
    with pytest.raises(Killed):
        extract_features(recordings, tmp_path / "resumed", FEATURES, VAD)
    assert not (tmp_path / "resumed/store.json").exists()
    dying, calls, done = False, 0, []
    extract_features(recordings, tmp_path / "resumed", FEATURES, VAD, on_progress=done.append)
    # 23 utterances in shards of 7 and batches of 4 are 2, 2, 2 and 1 batches; whole shards are not made again.
    assert calls == 7 - num_batches // 2 * 2
    assert done == [7, 14, 21, 23]
    for name in ("frames.npy", "store.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "resumed").iterdir()) == ["frames.npy", "store.json"]


@pytest.mark.parametrize("function", ["savez", "lib.format.open_memmap"])
def test_half_written_files_are_not_taken_for_whole(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def write_half(path: Path, **arrays: object) -> None:
        Path(path).write_bytes(b"half")
        raise Killed

    extract_features(recordings, tmp_path / "unbroken", FEATURES)
    with monkeypatch.context() as patch:
        patch.setattr(f"numpy.{function}", write_half)
        with pytest.raises(Killed):
            extract_features(recordings, tmp_path / "resumed", FEATURES)
    assert not (tmp_path / "resumed/frames.npy").exists()
    extract_features(recordings, tmp_path / "resumed", FEATURES)
    for name in ("frames.npy", "store.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_kill_before_the_index_is_written(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: Path, value: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "write_json", die)
        with pytest.raises(Killed):
            extract_features(recordings, tmp_path / "store", FEATURES)
    assert (tmp_path / "store/frames.npy").exists()
    store = extract_features(recordings, tmp_path / "store", FEATURES)
    assert store.lengths.tolist() == [
        num_frames(soundfile.info(item.path).frames, FEATURES) for item in recordings
    ]


def test_a_finished_store_is_opened_and_not_made_again(recordings: list[Recording], tmp_path: Path) -> None:
    made = extract_features(recordings, tmp_path / "store", FEATURES)
    for item in recordings:
        item.path.unlink()
    opened = extract_features(recordings, tmp_path / "store", FEATURES)
    assert torch.equal(opened.frames, made.frames)
    assert torch.equal(opened.offsets, made.offsets)
    assert opened.utterance_ids == made.utterance_ids


def test_the_index_says_how_it_was_made(recordings: list[Recording], tmp_path: Path) -> None:
    extract_features(recordings[:2], tmp_path / "store", FEATURES, VAD)
    index = json.loads((tmp_path / "store/store.json").read_text())
    assert (index["features"], index["vad"]) == (asdict(FEATURES), asdict(VAD))


def test_opening_unpickles_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "store.json").write_text('{"utterance_ids": ["a"], "lengths": [1]}')
    with pytest.raises(ValueError, match=r"[Pp]ython objects|allow_pickle"):
        FeatureStore.open(tmp_path)


def test_rows(recordings: list[Recording], tmp_path: Path) -> None:
    store = extract_features(recordings, tmp_path / "store", FEATURES)
    assert store.rows(["utt5", "utt0", "utt5"]).tolist() == [5, 0, 5]
    assert store.rows([]).dtype == torch.int64
    with pytest.raises(KeyError, match="other"):
        store.rows(["other"])


def test_bad_recordings(recordings: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no recordings to compute features of"):
        extract_features([], tmp_path / "store", FEATURES)
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(39), 8000)
    with pytest.raises(InputError) as caught:
        extract_features([*recordings[:3], Recording("short", path)], tmp_path / "store", FEATURES)
    assert str(caught.value).startswith(
        f"{path}: an utterance of 39 samples (0.004875 s) is too short for one frame"
    )
    with pytest.raises(InputError, match=r"gone\.wav: no such file"):
        extract_features([replace(recordings[0], path=tmp_path / "gone.wav")], tmp_path / "store", FEATURES)


def test_two_processes_that_make_the_same_store(recordings: list[Recording], tmp_path: Path) -> None:
    """The other one is done, and has cleared the shards away, when the first comes to merge them."""
    config = FeatureConfig()

    def overtake(done: int) -> None:
        if done == len(recordings):
            extract_features(recordings, tmp_path / "store", config)

    store = extract_features(recordings, tmp_path / "store", config, on_progress=overtake)
    alone = extract_features(recordings, tmp_path / "alone", config)
    assert torch.equal(store.frames, alone.frames)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["frames.npy", "store.json"]
