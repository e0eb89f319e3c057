"""The synthetic talker against brute-force twins and against the parameters it was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.simulate import voice as synthesis
from spkadapt.simulate.phones import VOWELS
from spkadapt.simulate.voice import Voice, random_utterance, render, steady_vowel

RATE = 16000


def _voice(seed: int, gender: str = "m", **changes: object) -> Voice:
    return replace(Voice.sample(gender, np.random.default_rng(seed)), **changes)


def _resonators(formants: np.ndarray, bandwidths: np.ndarray, frequency: float) -> np.ndarray:
    """The responses of Klatt's resonators at one frequency, one by one, straight from their definition."""
    z = np.exp(2j * np.pi * frequency / RATE)
    pole = np.exp((-np.pi * bandwidths + 2j * np.pi * formants) / RATE)
    return 1 / ((1 - pole / z) * (1 - pole.conj() / z))


@given(st.floats(60, 400), st.floats(60, 400))
@settings(max_examples=20, deadline=None)
def test_harmonics_are_the_sum_of_cosines(start: float, end: float) -> None:
    hop = 128
    f0 = np.linspace(start, end, 5)
    pitch = np.interp(np.arange(4 * hop) / hop, np.arange(5), f0)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    limit = RATE / (2 * pitch) - 1
    twin = np.zeros(4 * hop)
    for k in range(1, 140):
        twin += np.clip(limit - k + 1, 0, 1) * np.cos(k * phase)
    np.testing.assert_allclose(synthesis._harmonics(f0, hop, RATE), twin, atol=1e-6)


def test_harmonics_at_the_pulse_itself() -> None:
    # 200 Hz at 16 kHz: every 80th sample is a pulse, where the closed form is 0 / 0. There 39 + 0 cosines add up.
    harmonics = synthesis._harmonics(np.full(3, 200.0), 80, RATE)
    np.testing.assert_allclose(harmonics[79::80], 39.0, atol=1e-6)


def test_glottal_spectrum_is_the_integral() -> None:
    cycles = np.array([0.0, 0.1, 0.5, 1.0, 3.3, 20.0])
    u = (np.arange(200_000) + 0.5) / 200_000
    twin = [np.mean((2 * u - 3 * u**2) * np.exp(-2j * np.pi * c * u)) for c in cycles]
    np.testing.assert_allclose(synthesis._glottal_spectrum(cycles), twin, atol=1e-8)


def test_resonator_polynomials_have_the_poles_they_should() -> None:
    centres, bandwidths = np.array([[500.0, 1500.0, 7900.0]]), np.array([[60.0, 90.0, 100.0]])
    roots = np.roots(synthesis._resonator_polynomials(centres, bandwidths, RATE)[0])
    angles = np.sort(np.angle(roots[np.abs(roots) > 1e-9])) * RATE / (2 * np.pi)
    np.testing.assert_allclose(angles, [-1500, -500, 500, 1500], rtol=1e-9)  # 7900 Hz cannot be made
    radii = np.sort(np.abs(roots))[-4:]
    np.testing.assert_allclose(-np.log(radii) * RATE / np.pi, [90, 90, 60, 60], rtol=1e-9)


@pytest.mark.parametrize(("gender", "vowel"), [("m", "ɑ"), ("m", "i"), ("f", "u"), ("f", "æ")])
def test_steady_vowel_is_the_explicit_sum_over_harmonics(gender: str, vowel: str) -> None:
    """y(t) = c Σ_k |H(k F0)| cos(k φ + arg H(k F0)), with c from the power of the whole, integrated finely."""
    voice = _voice(3, gender, aspiration=-200.0)
    waveform = render(voice, steady_vowel(voice, vowel, 0.4), RATE, np.random.default_rng(0))
    formants = voice.scale_formants(VOWELS[gender][vowel])
    formants = formants[formants < 0.48 * RATE]
    bandwidths = synthesis._BANDWIDTHS[: len(formants)] * voice.bandwidth_scale

    def transfer(frequency: float) -> complex:
        glottis = synthesis._glottal_spectrum(np.array([frequency * voice.open_quotient / voice.f0]))[0]
        tilt = 1 / (1 + 1j * frequency / 3000 * np.sqrt(10 ** (voice.tilt / 10) - 1))
        return glottis * tilt * np.prod(_resonators(formants, bandwidths, frequency))

    grid = np.arange(0, RATE / 2, 4.0)
    power = sum(abs(transfer(f)) ** 2 for f in grid) * 4.0 / (2 * voice.f0)
    phase = 2 * np.pi * voice.f0 * np.arange(1, len(waveform) + 1) / RATE
    limit = RATE / (2 * voice.f0) - 1
    twin = np.zeros(len(waveform))
    for k in range(1, int(limit) + 2):
        gain = transfer(k * voice.f0) * min(1.0, limit - k + 1) / np.sqrt(power)
        twin += (gain * np.exp(1j * k * phase)).real
    middle = slice(1600, -1600)  # past the filters' onset
    # The cascade's tail beyond the 64 ms FFT is below -60 dB.
    assert np.std(waveform[middle] - twin[middle]) < 1e-3 * np.std(twin[middle])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from("mf"), st.sampled_from(sorted(VOWELS["m"])))
def test_f0_by_autocorrelation_is_the_voices(seed: int, gender: str, vowel: str) -> None:
    voice = _voice(seed, gender)
    waveform = render(voice, steady_vowel(voice, vowel, 0.6), RATE, np.random.default_rng(seed))
    spectrum = np.abs(np.fft.rfft(waveform[800:-800], 1 << 18)) ** 2  # lags in steps of 1/16 sample
    correlation = np.fft.irfft(np.pad(spectrum, (0, 15 * (1 << 17))))[: 16 * 400]
    lags = np.arange(len(correlation)) / 16
    near = (lags > 0.7 * RATE / voice.f0) & (lags < 1.4 * RATE / voice.f0)
    measured = RATE / lags[near][np.argmax(correlation[near])]
    assert measured == pytest.approx(voice.f0, rel=0.01)


@pytest.mark.parametrize(("gender", "vowel"), [("m", "ʌ"), ("m", "ɛ"), ("f", "ɪ"), ("f", "æ")])
def test_spectral_peaks_are_the_voices_formants(gender: str, vowel: str) -> None:
    voice = _voice(5, gender, f0=40.0, aspiration=-200.0, bandwidth_scale=0.7)
    waveform = render(voice, steady_vowel(voice, vowel, 1.2), RATE, np.random.default_rng(0))[3200:-3200]
    harmonics = np.arange(1, 125) * voice.f0
    phase = 2 * np.pi * np.arange(len(waveform)) / RATE
    window = np.hanning(len(waveform))
    amplitudes = np.array([abs(np.sum(window * waveform * np.exp(-1j * phase * f))) for f in harmonics])
    amplitudes /= np.abs(synthesis._glottal_spectrum(harmonics * voice.open_quotient / voice.f0))
    amplitudes /= np.abs(synthesis._tilt_spectrum(harmonics, voice.tilt))
    peaks = harmonics[1:-1][(amplitudes[1:-1] > amplitudes[:-2]) & (amplitudes[1:-1] > amplitudes[2:])]
    formants = voice.scale_formants(VOWELS[gender][vowel])
    bandwidths = synthesis._BANDWIDTHS * voice.bandwidth_scale
    for index, formant in enumerate(formants[:4]):
        others = np.arange(len(formants)) != index
        # The skirts of the other formants pull a peak by (bandwidth / 2)² times their logarithmic slope.
        around = [
            np.log(np.abs(np.prod(_resonators(formants[others], bandwidths[others], formant + shift))))
            for shift in (-1, 1)
        ]
        pull = (bandwidths[index] / 2) ** 2 * abs(around[1] - around[0]) / 2
        assert np.min(np.abs(peaks - formant)) <= voice.f0 / 2 + 2 * pull
        assert pull < 15  # the bound says something


def test_frication_and_voicing_are_the_levels_that_come_out() -> None:
    voice = _voice(1, f0=60.0)
    vowel = steady_vowel(voice, "ʌ", 4.0)
    nothing = 0 * vowel.voicing
    hiss = replace(vowel, voicing=nothing, frication=nothing + 0.5)
    # Noise of 1500 Hz bandwidth over 4 s: the RMS is uncertain by 0.6 %.
    assert np.std(render(voice, hiss, RATE, np.random.default_rng(0))) == pytest.approx(0.5, rel=0.03)
    assert np.std(render(voice, vowel, RATE, np.random.default_rng(0))) == pytest.approx(1.0, rel=0.05)
    silent = render(voice, replace(vowel, voicing=nothing), RATE, np.random.default_rng(0))
    np.testing.assert_array_equal(silent, 0.0)


def test_breath_is_as_far_below_the_harmonics_as_asked() -> None:
    voice = _voice(1, f0=100.0, aspiration=-6.0)
    tracks = steady_vowel(voice, "ʌ", 4.0)
    whole = render(voice, tracks, RATE, np.random.default_rng(0)).astype(np.float64)
    tone = render(voice, replace(tracks, voicing=0 * tracks.voicing), RATE, np.random.default_rng(0))
    assert not tone.any()
    blocks = whole[: len(whole) // 3200 * 3200].reshape(-1, 3200)[1:-1]  # 200 ms: harmonics on every 20th bin
    spectra = np.fft.rfft(blocks, axis=-1)
    power = np.mean(np.abs(spectra) ** 2, axis=0)
    bins = np.arange(len(power))
    near = (bins > 560) & (bins < 640)  # 2.8-3.2 kHz
    noise = power[near & (bins % 20 != 0)].mean()
    harmonic = power[near & (bins % 20 == 0)].mean() / 20 - noise / 20
    assert 10 * np.log10(noise / harmonic) == pytest.approx(-6.0, abs=1.5)  # the glottal ripple is 1 dB


def test_utterances_are_finite_seeded_and_as_long_as_asked() -> None:
    for seed, gender in enumerate("mfmf"):
        voice = _voice(seed, gender)
        first, second, other = (
            render(voice, random_utterance(voice, 1.0, generator), RATE, generator)
            for generator in map(np.random.default_rng, (7, 7, 8))
        )
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)
        assert np.isfinite(first).all()
        assert abs(len(first) / RATE - 1.0) <= synthesis.FRAME_SHIFT
        assert 0.1 < np.std(first) < 3


def test_utterances_move_as_far_as_the_voice_does() -> None:
    voice = _voice(0, f0_range=0.15, jitter=0.0)
    tracks = random_utterance(voice, 4.0, np.random.default_rng(0))
    octaves = np.log2(tracks.f0 / voice.f0)
    assert octaves.mean() == pytest.approx(0.0, abs=1e-9)
    assert 0.1 < octaves.std() < 0.3
    still = random_utterance(replace(voice, f0_range=0.0), 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(still.f0, voice.f0)
    # Coarticulation: no formant jumps by more than its target range times the smoothing window's peak.
    assert np.abs(np.diff(tracks.formants[:, 0])).max() < (730 - 220) * 1.2 * 2 / 10
    assert np.ptp(tracks.formants[:, 0]) > 150
    np.testing.assert_allclose(tracks.formants[:, 3:], voice.scale_formants((1, 1, 1))[3:] * np.ones((501, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gender": "x"}, 'a voice of gender "x"; choose from: m, f'),
        ({"formant_scales": (1.0,)}, "found 1 formant scales; expected 8"),
        ({"open_quotient": 1.5}, "an open quotient of 1.5; expected 0 < open_quotient <= 1"),
        ({"f0": 0.0}, "a voice with f0 0; expected a number above 0"),
        ({"tilt": float("nan")}, "a voice with tilt nan; expected a number above 0"),
    ],
)
def test_impossible_voices_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _voice(0, **changes)


def test_unknown_vowels_are_refused() -> None:
    with pytest.raises(InputError, match='no vowel "y"; choose from: i, ɪ'):
        steady_vowel(_voice(0), "y", 1.0)
