"""Features: Kaldi's own numbers, a float64 twin written from the definitions, and what padding must not change."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.audio import load_audio
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig, FeatureExtractor, check_length, frame_waveform, num_frames

KALDI_MFCC: dict[str, Any] = {"kind": "mfcc", "num_mel_bins": 30, "num_ceps": 24, "use_energy": True}
KALDI_SETTINGS: dict[str, dict[str, Any]] = {
    "fbank": {"num_mel_bins": 40},
    "mfcc": KALDI_MFCC,
    "mfccsnip": {**KALDI_MFCC, "snip_edges": True},
    "cmn": {**KALDI_MFCC, "cmvn": "sliding", "cmn_window": 300},
    "deltas": {**KALDI_MFCC, "num_deltas": 2, "delta_window": 3},
}
SMALL = {"sample_rate": 1000, "frame_length": 0.032, "frame_shift": 0.011, "high_freq": 480.0, "num_mel_bins": 5}


def pad(rows: list[torch.Tensor], value: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    return padded, torch.tensor([len(row) for row in rows])


# Kaldi's own output ----------------------------------------------------------------------------------------


def load_kaldi(shared: Path, kind: str, corpus: str, sample_rate: int) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Waveforms of the four utterances of `corpus`, each with Kaldi's features."""
    with open(shared / f"corpora/{corpus}/manifest.csv", encoding="utf-8", newline="") as file:
        paths = {row["utterance_id"]: shared / "corpora" / corpus / row["path"] for row in csv.DictReader(file)}
    with np.load(shared / "fixtures/kaldi/features.npz", allow_pickle=False) as kaldi:
        expected = {key.split("/")[1]: kaldi[key] for key in kaldi.files if key.startswith(f"{kind}/")}
    found = [(load_audio(paths[name], sample_rate), value) for name, value in expected.items() if name in paths]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(
    ("corpus", "sample_rate", "high_freq"), [("wuw2", 8000, 3700.0), ("speechocean762", 16000, 7600.0)]
)
@pytest.mark.parametrize("kind", KALDI_SETTINGS)
def test_every_coefficient_is_kaldis(
    shared: Path, kind: str, corpus: str, sample_rate: int, high_freq: float
) -> None:
    config = FeatureConfig(sample_rate=sample_rate, high_freq=high_freq, **KALDI_SETTINGS[kind])
    pairs = load_kaldi(shared, kind, corpus, sample_rate)
    extractor = FeatureExtractor(config)
    features, frame_lengths = extractor(*pad([waveform for waveform, _ in pairs]))
    assert features.shape[2] == extractor.num_features
    for row, (_, expected) in enumerate(pairs):
        assert frame_lengths[row] == len(expected)
        # Kaldi works in float32; its own rounding is most of what is left (measured: 9.3e-4 at worst).
        np.testing.assert_allclose(features[row, : len(expected)].numpy(), expected, rtol=0, atol=2e-3)


# The definitions, one frame and one sum at a time, in float64 ------------------------------------------------


def naive_frames(signal: np.ndarray, config: FeatureConfig) -> list[np.ndarray]:
    """Frames by index arithmetic on single samples; a mirrored index bounces until it lies inside."""
    length, shift = config.frame_samples, config.shift_samples
    frames = []
    for t in range(num_frames(len(signal), config)):
        start = t * shift if config.snip_edges else t * shift + shift // 2 - length // 2
        frame = []
        for index in range(start, start + length):
            while not 0 <= index < len(signal):
                index = -index - 1 if index < 0 else 2 * len(signal) - 1 - index
            frame.append(signal[index] * 32768)
        frames.append(np.array(frame))
    return frames


def naive_features(signal: np.ndarray, config: FeatureConfig) -> np.ndarray:
    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    size, length, low, high = config.fft_size, config.frame_samples, mel(config.low_freq), mel(config.high_freq)
    n = np.arange(length)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * n / (length - 1))) ** 0.85
    dft = np.exp(-2j * np.pi * np.outer(np.arange(size // 2), n) / size)
    edges = [low + (high - low) * i / (config.num_mel_bins + 1) for i in range(config.num_mel_bins + 2)]
    rows = []
    for frame in naive_frames(signal, config):
        frame = frame - frame.mean()
        energy = math.log(max(frame @ frame, 2.0**-23))
        frame = frame - config.preemphasis * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(dft @ (window * frame)) ** 2
        log_mel = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k in range(size // 2):
                at = mel(k * config.sample_rate / size)
                if left < at < right:
                    total += power[k] * (
                        (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)
                    )
            log_mel.append(math.log(max(total, 2.0**-23)))
        if config.kind == "fbank":
            rows.append(log_mel)
            continue
        bins, lifter = config.num_mel_bins, config.cepstral_lifter
        cepstra = []
        for i in range(config.num_ceps):
            norm = math.sqrt((1 if i == 0 else 2) / bins)
            value = sum(norm * math.cos(math.pi / bins * i * (b + 0.5)) * log_mel[b] for b in range(bins))
            cepstra.append(value * (1 + lifter / 2 * math.sin(math.pi * i / lifter) if lifter else 1))
        rows.append([energy, *cepstra[1:]] if config.use_energy else cepstra)
    return np.array(rows)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"snip_edges": True},
        {"preemphasis": 0.0, "low_freq": 0.0, "high_freq": 500.0},
        {"kind": "mfcc", "num_ceps": 5},
        {"kind": "mfcc", "num_ceps": 3, "use_energy": True, "cepstral_lifter": 0.0},
        {"kind": "mfcc", "num_ceps": 4, "cepstral_lifter": 10.0, "snip_edges": True},
        {"frame_length": 0.033, "frame_shift": 0.033},  # odd, and no overlap
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_match_the_naive_twin(settings: dict[str, Any], dtype: torch.dtype) -> None:
    config = FeatureConfig(**{**SMALL, **settings})
    rows = [0.1 * torch.randn(n, dtype=torch.float64) + 0.2 for n in (300, 57, 181)]
    waveform, lengths = pad(rows, 7.0)
    features, frame_lengths = FeatureExtractor(config, dtype)(waveform, lengths)
    assert features.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for row, signal in enumerate(rows):
        expected = naive_features(signal.numpy(), config)
        np.testing.assert_allclose(features[row, : frame_lengths[row]].numpy(), expected, rtol=0, atol=tolerance)


def test_silence_is_kaldis_floor() -> None:
    features, _ = FeatureExtractor(FeatureConfig())(torch.full((1, 800), 0.25), torch.tensor([800]))
    torch.testing.assert_close(features, torch.full_like(features, math.log(2.0**-23)), rtol=0, atol=1e-5)


# Batching ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(32, 400), min_size=1, max_size=4),
    snip_edges=st.booleans(),
    chain=st.sampled_from(
        [{}, {"num_deltas": 2}, {"cmvn": "sliding", "cmn_window": 7}, {"cmvn": "utterance", "norm_vars": True}]
    ),
)
def test_padding_and_company_change_no_frame(counts: list[int], snip_edges: bool, chain: dict[str, Any]) -> None:
    # In float64, because dividing by the deviation of two nearly equal frames magnifies rounding.
    extractor = FeatureExtractor(FeatureConfig(**SMALL, snip_edges=snip_edges, **chain), torch.float64)
    rows = [torch.rand(count, dtype=torch.float64) - 0.5 for count in counts]
    waveform, lengths = pad(rows, 0.9)
    waveform = torch.nn.functional.pad(waveform, (0, 50), value=math.nan)
    features, frame_lengths = extractor(waveform, lengths)
    for row, signal in enumerate(rows):
        alone, _ = extractor(signal[None], lengths[row : row + 1])
        torch.testing.assert_close(features[row, : frame_lengths[row]], alone[0], rtol=0, atol=1e-8)
        assert features[row, frame_lengths[row] :].eq(0).all()


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = FeatureExtractor(FeatureConfig(**SMALL))
    waveform, lengths = pad([torch.rand(n) - 0.5 for n in (2000, 900, 1500, 2000, 33)])
    whole, _ = extractor(waveform, lengths)
    for chunk in (1, 7, 181, 400):  # below, at and above one utterance's frames
        monkeypatch.setattr("spkadapt.features._CPU_CHUNK", chunk)
        torch.testing.assert_close(extractor(waveform, lengths)[0], whole, rtol=0, atol=1e-5)


def test_mixed_precision_does_not_reach_the_features() -> None:
    extractor = FeatureExtractor(FeatureConfig(kind="mfcc"))
    waveform, lengths = torch.rand(1, 4000) - 0.5, torch.tensor([4000])
    expected, _ = extractor(waveform, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(waveform, lengths)[0], expected)


def test_the_waveform_is_left_as_it_was_and_nothing_is_saved() -> None:
    extractor = FeatureExtractor(FeatureConfig())
    waveform = torch.rand(2, 4000) - 0.5
    before = waveform.clone()
    extractor(waveform, torch.tensor([4000, 3000]))
    assert torch.equal(waveform, before)
    assert extractor.state_dict() == {}


# Counting frames, and errors -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    num_samples=st.integers(0, 500), length=st.integers(3, 60), shift=st.integers(1, 60), snip_edges=st.booleans()
)
def test_num_frames_counts_the_frames(num_samples: int, length: int, shift: int, snip_edges: bool) -> None:
    shift = min(shift, length)
    config = FeatureConfig(
        sample_rate=1000,
        frame_length=length / 1000,
        frame_shift=shift / 1000,
        low_freq=0.0,
        high_freq=500.0,
        num_mel_bins=1,
        snip_edges=snip_edges,
    )
    assert (config.frame_samples, config.shift_samples) == (length, shift)
    if snip_edges:
        expected = sum(start + length <= num_samples for start in range(0, num_samples, shift))
    else:  # a frame for each whole shift, and one more if at least half a shift is left
        expected = num_samples // shift + (num_samples % shift >= shift - shift // 2)
    assert num_frames(num_samples, config) == expected
    if expected:
        check_length(num_samples, config)
        frames, frame_lengths = frame_waveform(torch.zeros(1, num_samples), torch.tensor([num_samples]), config)
        assert frames.shape == (1, expected, length)
        assert frame_lengths.tolist() == [expected]
    else:
        with pytest.raises(InputError, match=f"an utterance of {num_samples} samples"):
            check_length(num_samples, config)


@pytest.mark.parametrize(("snip_edges", "least", "seconds"), [(True, 200, 0.025), (False, 40, 0.005)])
def test_an_utterance_too_short_for_a_frame(snip_edges: bool, least: int, seconds: float) -> None:
    extractor = FeatureExtractor(FeatureConfig(snip_edges=snip_edges))
    assert extractor(torch.rand(1, 800), torch.tensor([least]))[0].isfinite().all()
    with pytest.raises(
        InputError, match=f"too short for one frame; expected at least {least} samples \\({seconds} s\\)"
    ):
        extractor(torch.rand(2, 800), torch.tensor([800, least - 1]))


def test_a_length_beyond_the_waveform() -> None:
    with pytest.raises(
        InputError, match="utterance 1 of the batch has a length of 900 samples, and the waveform only 800"
    ):
        FeatureExtractor(FeatureConfig())(torch.rand(2, 800), torch.tensor([800, 900]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fbnk"}, 'kind is "fbnk"; did you mean "fbank"?'),
        ({"cmvn": "slide"}, 'cmvn is "slide"; did you mean "sliding"?'),
        ({"sample_rate": 0}, "sample_rate is 0; expected a rate above 0 Hz"),
        ({"frame_length": 0.0001}, "frame_length is 0.0001; expected at least two samples, in seconds"),
        ({"frame_shift": 0.03}, "frame_shift is 0.03; expected one sample to frame_length, in seconds"),
        ({"frame_shift": 0.0}, "frame_shift is 0.0; expected one sample to frame_length, in seconds"),
        ({"num_mel_bins": 0}, "num_mel_bins is 0; expected at least 1"),
        ({"kind": "mfcc", "num_ceps": 41}, "num_ceps is 41; expected from 1 to num_mel_bins"),
        ({"high_freq": 4001.0}, "high_freq is 4001.0; expected at most 4000 Hz, half of sample_rate"),
        ({"low_freq": 3700.0}, "low_freq is 3700.0; expected from 0 Hz to below high_freq"),
        ({"low_freq": -1.0}, "low_freq is -1.0; expected from 0 Hz to below high_freq"),
        ({"use_energy": True}, 'use_energy is True; expected false unless kind is "mfcc"'),
        ({"preemphasis": 1.5}, "preemphasis is 1.5; expected from 0 to 1"),
        ({"cepstral_lifter": -1.0}, "cepstral_lifter is -1.0; expected at least 0"),
        ({"num_deltas": 3}, "num_deltas is 3; expected 0, 1 or 2"),
        ({"delta_window": 0}, "delta_window is 0; expected at least 1 frame"),
        ({"cmn_window": 0}, "cmn_window is 0; expected at least 1 frame"),
        ({"norm_vars": True}, 'norm_vars is True; expected false while cmvn is "none"'),
        (
            {"num_mel_bins": 100},
            "num_mel_bins is 100, and filter 2 lies between two bins of the 256-point FFT; "
            "expected fewer filters or a longer frame_length",
        ),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        FeatureConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["fbank", "mfcc"])
@pytest.mark.parametrize("num_deltas", [0, 1, 2])
def test_num_features_is_what_comes_out(kind: str, num_deltas: int) -> None:
    extractor = FeatureExtractor(FeatureConfig(kind=kind, num_deltas=num_deltas))  # type: ignore[arg-type]
    assert extractor(torch.rand(1, 800), torch.tensor([800]))[0].shape == (1, 10, extractor.num_features)
    assert extractor.num_features == {"fbank": 40, "mfcc": 24}[kind] * (1 + num_deltas)
