"""The telephone channel against its stated response, ITU-T G.711's tables, libsndfile, and exact ratios."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.simulate.channel import Handset, add_noise, mulaw, telephone_band


def _response_db(impulse_response: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    frequencies = np.fft.rfftfreq(len(impulse_response), 1 / sample_rate)
    return frequencies, 20 * np.log10(np.abs(np.fft.rfft(impulse_response.astype(np.float64))) + 1e-12)


def _impulse(num_samples: int) -> np.ndarray:
    impulse = np.zeros(num_samples, np.float32)
    impulse[num_samples // 2] = 1.0
    return impulse


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_telephone_band_has_the_stated_response(sample_rate: int) -> None:
    frequencies, gain = _response_db(telephone_band(_impulse(1 << 15), sample_rate), sample_rate)
    inside = (frequencies > 400) & (frequencies < 3300)
    outside = (frequencies < 200) | (frequencies > 3500)
    assert np.abs(gain[inside]).max() < 0.01
    assert gain[outside].max() < -60
    edges = np.interp([300.0, 3400.0], frequencies, gain)
    np.testing.assert_allclose(edges, -6.02, atol=0.1)


def test_telephone_band_delays_nothing_and_filters_each_row() -> None:
    filtered = telephone_band(_impulse(4001), 8000)
    np.testing.assert_allclose(filtered, filtered[::-1], atol=1e-7)
    batch = np.random.default_rng(0).standard_normal((2, 3, 1000))
    rows = telephone_band(batch, 8000)
    assert rows.dtype == np.float32
    assert rows.shape == batch.shape
    np.testing.assert_allclose(rows[1, 2], telephone_band(batch[1, 2], 8000), atol=1e-6)


@pytest.mark.parametrize(("rate", "low", "high"), [(6000, 300, 3400), (8000, 50, 3400), (8000, 3000, 3100)])
def test_telephone_band_refuses_a_band_it_cannot_make(rate: int, low: float, high: float) -> None:
    with pytest.raises(InputError, match=f"a band of {low} to {high} Hz at {rate} Hz; expected 100 < low"):
        telephone_band(np.zeros(100), rate, low, high)


def test_mulaw_has_the_outputs_of_g711() -> None:
    outputs = np.unique(np.round(mulaw(np.linspace(-1, 1, 1 << 17)) * 8192).astype(int))
    assert len(outputs) == 255  # plus and minus zero are one value
    np.testing.assert_array_equal(outputs, -outputs[::-1])
    positive = outputs[outputs >= 0]
    # ITU-T G.711 table 2a: the first output of each segment, and the last of all.
    np.testing.assert_array_equal(positive[::16], [0, 33, 99, 231, 495, 1023, 2079, 4191])
    assert positive[-1] == 8031


def test_mulaw_is_libsndfiles_on_every_16_bit_sample() -> None:
    samples = np.arange(-32767, 32768, dtype=np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8000, subtype="ULAW", format="WAV")
    buffer.seek(0)
    theirs, _ = soundfile.read(buffer, dtype="int16")
    np.testing.assert_array_equal(mulaw(samples / 32768) * 32768, theirs)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_mulaw_twice_is_mulaw_once_and_errs_by_half_a_step(values: list[float]) -> None:
    waveform = np.array(values, np.float32)
    once = mulaw(waveform)
    np.testing.assert_array_equal(mulaw(once), once)
    unsaturated = np.abs(waveform) * 8192 < 8159
    magnitude = np.abs(waveform[unsaturated]) * 8192.0
    half_step = 2.0 ** np.floor(np.log2((magnitude + 33) / 32))
    assert np.all(np.abs(np.abs(once[unsaturated]) * 8192.0 - magnitude) <= half_step)


def test_mulaw_snr_on_speech_like_levels_is_the_textbook_one() -> None:
    # Laplacian samples, the textbook's model of speech, 20 dB below full scale.
    waveform = np.random.default_rng(0).laplace(scale=0.1 / np.sqrt(2), size=400_000).clip(-0.97, 0.97)
    error = mulaw(waveform) - waveform
    snr = 10 * np.log10(np.mean(waveform**2) / np.mean(error**2))
    step = 2.0 ** (np.floor(np.log2((np.abs(waveform) * 8192 + 33) / 32)) + 1) / 8192
    high_resolution = 10 * np.log10(np.mean(waveform**2) / np.mean(step**2 / 12))
    assert snr == pytest.approx(high_resolution, abs=0.05)
    # Jayant & Noll (1984): 6.02 * 8 + 4.77 - 20 log10(ln 256), for the smooth curve that G.711 approximates.
    assert snr == pytest.approx(6.02 * 8 + 4.77 - 20 * np.log10(np.log(256)), abs=1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8000, 16000]))
def test_handset_filters_as_its_equation_says(seed: int, sample_rate: int) -> None:
    handset = Handset.sample(np.random.default_rng(seed))
    frequencies, gain = _response_db(handset.apply(_impulse(1 << 13), sample_rate), sample_rate)
    inside = (frequencies >= 300) & (frequencies <= 3400)
    np.testing.assert_allclose(gain[inside], handset.compute_colour(frequencies[inside]), atol=0.5)


def test_handset_colour_is_the_sum_of_its_parts() -> None:
    tilted = Handset(tilt=3.0, resonance=2000.0, gain=0.0, width=0.3)
    np.testing.assert_allclose(tilted.compute_colour([50, 100, 1000, 4000]), [-9.966, -9.966, 0, 6], atol=1e-3)
    resonant = Handset(tilt=0.0, resonance=2000.0, gain=-6.0, width=0.5)
    one_sigma = 2000 * 2**0.5
    np.testing.assert_allclose(resonant.compute_colour([2000, one_sigma]), [-6, -6 * np.exp(-0.5)])


def test_handset_refuses_a_resonance_of_no_width() -> None:
    with pytest.raises(InputError, match="resonance 500 Hz and width 0 octaves; expected both above 0"):
        Handset(tilt=0.0, resonance=500.0, gain=3.0, width=0.0)


@given(st.floats(-20, 60), st.floats(0, 2), st.integers(0, 1000))
def test_add_noise_has_exactly_the_ratio_asked_for(snr_db: float, exponent: float, seed: int) -> None:
    waveform = np.random.default_rng(1).standard_normal((2, 501)) * [[0.01], [1.0]]
    noise = add_noise(waveform, snr_db, np.random.default_rng(seed), exponent).astype(np.float64) - waveform
    measured = 10 * np.log10(np.sum(waveform**2, axis=-1) / np.sum(noise**2, axis=-1))
    np.testing.assert_allclose(measured, snr_db, atol=0.02)  # float32 output: 2^-24 of the sum, at 60 dB


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_add_noise_falls_as_its_exponent_says(exponent: float) -> None:
    num_samples = 1 << 18
    tone = np.zeros(num_samples)
    tone[0] = 1e-3  # any signal, far below the noise
    noise = add_noise(tone, -100.0, np.random.default_rng(0), exponent)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[2**n : 2 ** (n + 1)].mean() for n in range(8, 17)]
    slope = np.polyfit(np.log(2.0) * np.arange(8, 17), np.log(octaves), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)


def test_add_noise_is_seeded_and_refuses_silence() -> None:
    waveform = np.ones(100)
    first, second = (add_noise(waveform, 10.0, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(InputError, match="a silent waveform has no noise 10 dB below it"):
        add_noise(np.zeros(100), 10.0, np.random.default_rng(3))
