"""What a telephone call does to a waveform: a handset's colour, noise, a narrow band, and μ-law.

Every function takes a NumPy array whose last axis is time, `waveform (..., samples)` with full scale ±1, and
returns float32 of the same shape. Whatever is random is drawn from the `numpy.random.Generator` handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from spkadapt.errors import InputError

Waveform: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[np.floating]

_TRANSITION = 200.0  # Hz from the telephone band's pass-band to its stop-band
_ATTENUATION = 62.0  # dB; Kaiser's formula may fall 1 dB short of what it is asked for
_MULAW_FULL_SCALE = 8192.0  # G.711 states μ-law in 14-bit integers


def telephone_band(waveform: Array, sample_rate: int, low: float = 300.0, high: float = 3400.0) -> Waveform:
    """Keep `low`-`high` Hz, the band of a telephone line.

    The filter is a Kaiser-windowed FIR whose delay is taken out again, so that its phase is zero. Its response
    is -6 dB at `low` and at `high`, 0 dB (within 0.01 dB) from 100 Hz inside them, and at most -60 dB from
    100 Hz outside them. The first and last 18 ms see the silence beyond the ends.

    Raises:
        InputError: unless 100 < low, low + 200 <= high, and high + 100 < sample_rate / 2.
    """
    half = _TRANSITION / 2
    if not (half < low and low + _TRANSITION <= high and high + half < sample_rate / 2):
        raise InputError(
            f"a band of {low:g} to {high:g} Hz at {sample_rate} Hz; expected {half:g} < low, "
            f"low + {_TRANSITION:g} <= high, and high < {sample_rate / 2 - half:g}"
        )
    num_taps, beta = signal.kaiserord(_ATTENUATION, 2 * _TRANSITION / sample_rate)
    taps = signal.firwin(num_taps | 1, (low, high), window=("kaiser", beta), pass_zero=False, fs=sample_rate)
    return _filter_zero_phase(waveform, taps)


def _filter_zero_phase(waveform: Array, taps: Array) -> Waveform:
    """Convolve with symmetric `taps` (odd in number), centred, so that nothing is delayed."""
    margin = len(taps) // 2
    shape = (1,) * (np.ndim(waveform) - 1) + (-1,)
    filtered = signal.oaconvolve(waveform, taps.reshape(shape), mode="full", axes=-1)
    return filtered[..., margin : filtered.shape[-1] - margin].astype(np.float32)


def _mulaw_tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Decision and output magnitudes of the 128 codes of one sign, in 14-bit units (G.711 tables 2a and 2b).

    Code 16 e + m, of segment e and step m, has output (2m + 33) 2^e - 33 and begins at (2m + 32) 2^e - 33.
    """
    segment, step = np.divmod(np.arange(128), 16)
    decisions = (2 * step + 32) * 2.0**segment - 33
    outputs = (2 * step + 33) * 2.0**segment - 33
    return decisions, outputs


def mulaw(waveform: Array) -> Waveform:
    """The waveform after ITU-T G.711 μ-law encoding and decoding (ITU-T G.711, 1988).

    Each sample becomes the nearest of 255 values, finely spaced near zero and coarsely near full scale; louder
    samples than 8031/8192 saturate. Quantising twice changes nothing.
    """
    decisions, outputs = _mulaw_tables()
    waveform = np.asarray(waveform)
    magnitude = np.abs(waveform).astype(np.float64) * _MULAW_FULL_SCALE
    codes = np.searchsorted(decisions, magnitude, side="right") - 1
    return (np.sign(waveform) * outputs[codes] / _MULAW_FULL_SCALE).astype(np.float32)


@dataclass(frozen=True)
class Handset:
    """The colour that one microphone gives to everything said into it.

    In decibels, at f Hz, with octaves o = log2(f / resonance):

        colour(f) = tilt * log2(f / 1000) + gain * exp(-(o / width)^2 / 2)

    held constant below 100 Hz, where a microphone's tilt ends.

    Attributes:
        tilt: spectral tilt, dB per octave; no gain at 1000 Hz.
        resonance: centre of the resonance (or dip), Hz.
        gain: height of the resonance, dB; negative for a dip.
        width: standard deviation of the resonance, octaves.
    """

    tilt: float
    resonance: float
    gain: float
    width: float

    def __post_init__(self) -> None:
        if not (self.resonance > 0 and self.width > 0):
            raise InputError(
                f"a handset with resonance {self.resonance:g} Hz and width {self.width:g} octaves; "
                "expected both above 0"
            )

    @classmethod
    def sample(cls, generator: np.random.Generator) -> Handset:
        """A random handset: tilt ±4 dB per octave, and a resonance or dip of up to 10 dB within the band."""
        return cls(
            tilt=generator.uniform(-4.0, 4.0),
            resonance=500.0 * 2.0 ** generator.uniform(0.0, 2.6),
            gain=generator.uniform(-10.0, 10.0),
            width=generator.uniform(0.2, 0.5),
        )

    def compute_colour(self, frequencies: Array) -> NDArray[np.float64]:
        """The gain in dB at each of `frequencies` (Hz), by the equation above."""
        frequencies = np.maximum(np.asarray(frequencies, np.float64), 100.0)
        octaves = np.log2(frequencies / self.resonance)
        return self.tilt * np.log2(frequencies / 1000.0) + self.gain * np.exp(-((octaves / self.width) ** 2) / 2)

    def apply(self, waveform: Array, sample_rate: int) -> Waveform:
        """Colour the waveform by a zero-phase FIR of 32 ms that follows the equation to within 0.5 dB in band."""
        frequencies = np.linspace(0.0, sample_rate / 2, 1025)
        gains = 10 ** (self.compute_colour(frequencies) / 20)
        num_taps = round(0.032 * sample_rate) | 1
        return _filter_zero_phase(waveform, signal.firwin2(num_taps, frequencies, gains, fs=sample_rate))


def add_noise(waveform: Array, snr_db: float, generator: np.random.Generator, exponent: float = 0.0) -> Waveform:
    """Add Gaussian noise whose power is exactly `snr_db` dB below the waveform's, over the whole last axis.

    Args:
        waveform: (..., samples).
        snr_db: 10 log10 of the waveform's energy over the noise's.
        generator: where the noise is drawn from.
        exponent: the noise's power spectrum falls as f^-exponent: 0 is white, 1 pink. Room noise is near 1.

    Raises:
        InputError: the waveform is silent, so that no noise has that ratio to it.
    """
    waveform = np.asarray(waveform)
    energy = np.sum(waveform.astype(np.float64) ** 2, axis=-1, keepdims=True)
    if not np.all(energy > 0):
        raise InputError(f"a silent waveform has no noise {snr_db:g} dB below it; expected some signal")
    noise = generator.standard_normal(waveform.shape)
    if exponent:
        spectrum = np.fft.rfft(noise, axis=-1)
        bins = np.maximum(np.arange(spectrum.shape[-1]), 1)
        noise = np.fft.irfft(spectrum * bins ** (-exponent / 2), n=waveform.shape[-1], axis=-1)
    noise *= np.sqrt(energy / np.sum(noise**2, axis=-1, keepdims=True)) * 10 ** (-snr_db / 20)
    return (waveform + noise).astype(np.float32)
