"""Reading recordings: what comes back, and what each kind of bad file is answered with."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spkadapt.audio import AudioInfo, check_audio, inspect_audio, load_audio, recode
from spkadapt.errors import InputError
from spkadapt.simulate.channel import mulaw


def integers(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, num_samples).astype(np.int16)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """One second of 16-bit noise at 16 kHz."""
    path = tmp_path / "noise.wav"
    soundfile.write(path, integers(16000), 16000)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_samples_are_integers_over_32768(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, integers(5000), 8000, subtype="PCM_16")
    waveform = load_audio(path, 8000)
    assert waveform.dtype == torch.float32
    np.testing.assert_array_equal(waveform.numpy(), integers(5000) / 32768)
    assert inspect_audio(path) == AudioInfo(sample_rate=8000, num_samples=5000)


def test_mu_law_is_expanded_as_g711_says(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 292, b"WAVE", b"fmt ", 16, 7, 1, 8000, 8000, 1, 8, b"data", 256
    )
    path = tmp_path / "mulaw.wav"
    path.write_bytes(header + codes.tobytes())
    inverted = ~codes
    magnitude = (((inverted & 15).astype(int) * 8 + 132) << ((inverted >> 4) & 7)) - 132
    expected = np.where(inverted & 128, -magnitude, magnitude) / 32768
    np.testing.assert_array_equal(load_audio(path, 8000).numpy(), expected)


def test_real_telephone_call(shared: Path) -> None:
    path = shared / "corpora/wuw2/audio/00001/wuw00001-name.wav"
    info = inspect_audio(path)
    assert info == AudioInfo(8000, 26976)  # the manifest's 3.372 s
    assert load_audio(path, 8000).shape == (26976,)


@pytest.mark.parametrize(
    ("start", "duration"), [(0.0, 0.25), (0.1, None), (0.5, 0.5), (0.9995, 0.0005), (0.123, 0.4)]
)
def test_part_of_a_file_is_that_part_of_the_whole(wav: Path, start: float, duration: float | None) -> None:
    end = 1.0 if duration is None else start + duration
    whole = load_audio(wav, 16000)
    part = load_audio(wav, 16000, start=start, duration=duration)
    assert torch.equal(part, whole[round(start * 16000) : round(end * 16000)])


def test_an_end_rounded_up_to_a_millisecond_means_the_end(tmp_path: Path) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, integers(8003), 8000)  # 1.000375 s
    assert load_audio(path, 8000, start=0.0, duration=1.001).shape == (8003,)
    with pytest.raises(InputError, match=r"beyond the file's 1\.00038 s"):
        load_audio(path, 8000, start=0.0, duration=1.002)


@pytest.mark.parametrize("file_rate", [16000, 11025, 44100])
def test_downsampling_keeps_tones_below_3700_hz_and_removes_those_above_4000(
    tmp_path: Path, file_rate: int
) -> None:
    time = np.arange(file_rate) / file_rate
    path = tmp_path / "tone.wav"
    for frequency in (300.0, 3700.0, 4050.0, 5200.0):
        soundfile.write(path, 0.5 * np.sin(2 * math.pi * frequency * time), file_rate, subtype="FLOAT")
        waveform = load_audio(path, 8000).double().numpy()
        assert len(waveform) == 8000
        tone = 0.5 * np.sin(2 * math.pi * frequency * np.arange(8000) / 8000)
        expected = tone if frequency < 4000 else np.zeros(8000)
        # The ends, where the filter hangs over the recording's edge, are another matter.
        assert np.abs(waveform - expected)[200:-200].max() < 3e-4, frequency


def test_a_rate_that_is_too_low_is_an_error(wav: Path) -> None:
    with pytest.raises(
        InputError, match=r"noise.wav: wrong rate: recorded at 16000 Hz, and 22050 Hz was asked for"
    ):
        load_audio(wav, 22050)


@pytest.mark.parametrize(
    ("start", "duration", "message"),
    [
        (-0.1, None, "start is -0.1 s; expected from 0 to below the file's 1 s"),
        (1.0, None, "start is 1 s; expected from 0 to below the file's 1 s"),
        (math.nan, None, "start is nan s"),
        (0.6, 0.5, "0.5 s from 0.6 s end at 1.1 s, beyond the file's 1 s"),
        (0.0, math.nan, "nan s from 0 s end at nan s"),
        (0.0, math.inf, "inf s from 0 s end at inf s"),
        (0.5, 0.0, "duration is 0 s; expected at least one sample"),
        (0.5, -0.2, "duration is -0.2 s; expected at least one sample"),
    ],
)
def test_a_stretch_outside_the_file_is_an_error(
    wav: Path, start: float, duration: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_audio(wav, 16000, start=start, duration=duration)
    assert error.value.path == wav


def make_bad_file(kind: str, folder: Path) -> Path:
    """A file of 8 kHz (or none) with one defect."""
    path = folder / (f"{kind}.flac" if "flac" in kind else f"{kind}.wav")
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("utterance_id,path\n" * 20)
    elif kind == "headerless":
        path = path.with_suffix(".raw")
        path.write_bytes(integers(800).tobytes())
    elif kind == "no_samples":
        soundfile.write(path, np.zeros(0, np.int16), 8000)
    elif kind == "stereo":
        soundfile.write(path, integers(800).reshape(400, 2), 8000)
    elif kind in ("nan", "inf"):
        samples = np.zeros(800, np.float32)
        samples[[3, 700]] = float(kind)
        soundfile.write(path, samples, 8000, subtype="FLOAT")
    elif kind != "missing":
        soundfile.write(path, integers(20000), 8000)
        whole = bytearray(path.read_bytes())
        if kind == "flac_unknown_length":  # the 36-bit count of samples in STREAMINFO
            whole[21] &= 0xF0
            whole[22:26] = bytes(4)
        else:
            whole = whole[
                : {"half_flac": len(whole) // 2, "flac_less_a_byte": -1, "flac_head": 4, "half_wav": 20000}[kind]
            ]
        path.write_bytes(whole)
    return path


BAD_FILES = {
    "missing": "no such file",
    "folder": "is a folder; expected an audio file",
    "empty": r"the file is empty \(0 bytes\); expected audio",
    "text": r"not readable as audio \(Format not recognised\)",
    "headerless": r"not readable as audio \(no header\)",
    "no_samples": "holds no samples",
    "stereo": r"has 2 channels; expected 1 \(mono\)",
    "nan": "2 of 800 samples are NaN or infinite",
    "inf": "2 of 800 samples are NaN or infinite",
    "flac_unknown_length": "its header does not say how many samples it holds",
    "half_flac": "truncated",
    "flac_less_a_byte": "truncated",
    "flac_head": "not readable as audio",
    "half_wav": "truncated: the header promises 40000 bytes of samples, the file holds 19956",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path: Path, kind: str) -> None:
    path = make_bad_file(kind, tmp_path)
    with pytest.raises(InputError, match=BAD_FILES[kind]) as error:
        load_audio(path, 8000)
    assert error.value.path == path
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "no_samples", "stereo", "half_wav"])
def test_the_header_alone_tells(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=BAD_FILES[kind]):
        inspect_audio(make_bad_file(kind, tmp_path))


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_is_whole(wav: Path, declared: int) -> None:
    content = bytearray(wav.read_bytes())
    content[40:44] = struct.pack("<I", declared)
    wav.write_bytes(content)
    assert load_audio(wav, 16000).shape == (16000,)


def test_check_audio_lists_every_bad_file_in_order(tmp_path: Path, wav: Path) -> None:
    bad = [make_bad_file(kind, tmp_path) for kind in BAD_FILES]
    low = tmp_path / "low.wav"
    soundfile.write(low, integers(100), 4000)
    paths = [wav, *bad, wav, low, bad[0], wav]
    progress: list[int] = []
    errors = check_audio(paths, 8000, num_threads=3, on_progress=progress.append)
    assert [error.path for error in errors] == [*bad, low]
    assert "wrong rate: recorded at 4000 Hz, and 8000 Hz was asked for" in str(errors[-1])
    for error, message in zip(errors, BAD_FILES.values(), strict=False):
        with pytest.raises(InputError, match=message):
            raise error
    assert progress == list(range(1, len(bad) + 3))  # each path once


def test_check_audio_of_good_files_is_empty(wav: Path) -> None:
    assert check_audio([wav], 16000) == []
    assert check_audio([], 16000) == []


def speech_like(num_samples: int) -> np.ndarray:
    """Noise below 1 kHz with a pitch of 120 Hz: what a codec of speech is made for."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(num_samples))
    frequencies = np.fft.rfftfreq(num_samples, 1 / 8000)
    tone = sum(np.sin(2 * np.pi * 120 * number * np.arange(num_samples) / 8000) / number for number in range(1, 9))
    waveform = tone + 0.1 * np.fft.irfft(spectrum * (frequencies < 1000), num_samples)
    return (0.3 * waveform / np.abs(waveform).max()).astype(np.float32)


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 320, 321, 8000])
@pytest.mark.parametrize("codec", ["ULAW", "ALAW", "GSM610", "PCM_16"])
def test_recoding_keeps_the_length(num_samples: int, codec: str) -> None:
    waveform = speech_like(8000)[:num_samples]
    before = waveform.copy()
    decoded = recode(waveform, 8000, codec)
    assert decoded.shape == waveform.shape
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(waveform, before)


def test_gsm_loses_something_and_keeps_most() -> None:
    waveform = speech_like(16000)
    decoded = recode(waveform, 8000, "GSM610")
    inner = slice(320, None)  # the codec needs two frames to begin with
    error = np.sum((decoded - waveform)[inner] ** 2) / np.sum(waveform[inner] ** 2)
    assert np.corrcoef(decoded[inner], waveform[inner])[0, 1] > 0.97
    assert 5 < -10 * np.log10(error) < 30  # μ-law's is 37 dB
    # It has a memory: what a frame decodes to depends on those before it.
    assert not np.array_equal(recode(waveform[1600:], 8000, "GSM610")[:160], decoded[1600:1760])


def test_recoding_by_mu_law_is_g711() -> None:
    """Bit for bit on 16-bit samples but the last of each code: libsndfile rounds floats to 14 bits first."""
    samples = np.arange(-32767, 32768)
    is_last = mulaw(samples / 32768) != mulaw((samples + np.sign(samples)) / 32768)
    assert is_last.sum() == 254
    decoded = recode((samples / 32768).astype(np.float32), 8000, "ULAW")
    np.testing.assert_array_equal(decoded[~is_last], mulaw(samples / 32768)[~is_last])


def test_recoding_as_integers_rounds_to_them() -> None:
    waveform = speech_like(4000)
    decoded = recode(waveform, 8000, "PCM_16")
    np.testing.assert_array_equal(decoded * 32768, np.round(decoded * 32768))
    assert np.abs(decoded - waveform).max() <= 1 / 32768


def test_an_unknown_codec() -> None:
    with pytest.raises(InputError, match=r'there is no codec "GSM601"; did you mean "GSM610"\?'):
        recode(np.zeros(100, np.float32), 8000, "GSM601")
    with pytest.raises(InputError, match='there is no codec "VORBIS"'):  # of Ogg, not of WAV
        recode(np.zeros(100, np.float32), 8000, "VORBIS")
