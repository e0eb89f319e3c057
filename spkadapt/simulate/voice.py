"""A talker made by rule: a source-filter synthesiser whose every speaker parameter is known.

Speech is an excitation through a filter that changes slowly (Fant 1960). With frames m of a Hann window w that
overlap by half and so add up to one, the waveform is

    y = Σ_m  h_m * (w_m x)  +  a_m * (w_m n)  +  f_m * (w_m n)

where `*` is convolution, done by FFT, and

- x(t) = Σ_k cos(k φ(t)), φ' = 2π F0(t): all harmonics below half the sample rate, in closed form;
- n is white Gaussian noise;
- h_m = G · T · V: the glottal pulse derivative G of Klatt & Klatt (1990), 2u - 3u² over the open phase
  0 <= u <= 1 of open_quotient / F0 seconds; a tilt T; the vocal tract V, a cascade of Klatt's (1980)
  second-order resonators, one per formant;
- a_m is aspiration through the same V, and f_m frication through one resonator of its own.

h and a together, and f alone, are scaled to unit output power, so that a phone's `voicing` and `frication` are the
levels that come out. The targets of successive phones are low-pass filtered in time, which is coarticulation.

This is *synthetic* speech: speech-like in its spectra and their movement, and not intelligible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from spkadapt.errors import InputError, suggest
from spkadapt.simulate.channel import Waveform
from spkadapt.simulate.phones import CONSONANTS, FEMALE_SCALE, PAUSE, VOWELS, Phone

Array: TypeAlias = NDArray[np.floating]
Spectrum: TypeAlias = NDArray[np.complexfloating]

FRAME_SHIFT = 0.008  # seconds between the filters h_m; their window is twice as long
_FFT_LENGTH = 0.064  # seconds; a resonance of 50 Hz bandwidth has decayed by 65 dB over the 48 ms past a window
NUM_FORMANTS = 8  # a tract of 17.5 cm has eight resonances below 8 kHz
_BANDWIDTHS = np.array([60.0, 80.0, 120.0, 180.0, 250.0, 350.0, 450.0, 550.0])  # Hz


@dataclass(frozen=True)
class Voice:
    """Who is speaking: the parameters that stay the same in every utterance of one speaker.

    Attributes:
        gender: "m" or "f"; which vowel table applies.
        f0: mean fundamental frequency, Hz.
        f0_range: standard deviation of the intonation, in octaves.
        jitter: standard deviation of F0 from one frame to the next, as a fraction.
        open_quotient: fraction of the glottal cycle in which the folds are open.
        tilt: how far the source is down at 3 kHz beyond the glottal pulse's own fall, dB; above 0.
        aspiration: breath noise at 3 kHz relative to the harmonics there, dB.
        formant_scales: this speaker's formants over those of an average talker of the same gender, F1-F8.
        bandwidth_scale: this speaker's formant bandwidths over the average ones.
        frication_scale: this speaker's frication centres over the average ones.
        rate: speaking rate over the average one.
    """

    gender: str
    f0: float
    f0_range: float
    jitter: float
    open_quotient: float
    tilt: float
    aspiration: float
    formant_scales: tuple[float, ...]
    bandwidth_scale: float
    frication_scale: float
    rate: float

    def __post_init__(self) -> None:
        if self.gender not in VOWELS:
            raise InputError(f'a voice of gender "{self.gender}"; {suggest(self.gender, VOWELS)}')
        if len(self.formant_scales) != NUM_FORMANTS:
            raise InputError(f"found {len(self.formant_scales)} formant scales; expected {NUM_FORMANTS}")
        if not 0 < self.open_quotient <= 1:
            raise InputError(f"an open quotient of {self.open_quotient:g}; expected 0 < open_quotient <= 1")
        for name in ("f0", "tilt", "bandwidth_scale", "frication_scale", "rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"a voice with {name} {getattr(self, name):g}; expected a number above 0")

    @classmethod
    def sample(cls, gender: str, generator: np.random.Generator) -> Voice:
        """A random speaker: the tract's length varies by 5 %, and each formant by 4 % of its own."""
        mean_f0, spread = (120.0, 0.14) if gender == "m" else (205.0, 0.11)
        length = generator.normal(0.0, 0.05)
        offsets = generator.normal(0.0, 0.04, NUM_FORMANTS)
        return cls(
            gender=gender,
            f0=float(mean_f0 * np.exp(generator.normal(0.0, spread))),
            f0_range=generator.uniform(0.08, 0.2),
            jitter=generator.uniform(0.003, 0.012),
            open_quotient=generator.uniform(0.45, 0.8),
            tilt=generator.uniform(2.0, 12.0),
            aspiration=generator.uniform(-15.0, 0.0),
            formant_scales=tuple(float(scale) for scale in np.exp(length + offsets)),
            bandwidth_scale=float(np.exp(generator.normal(0.0, 0.2))),
            frication_scale=float(np.exp(generator.normal(0.0, 0.08))),
            rate=float(np.exp(generator.normal(0.0, 0.12))),
        )

    def scale_formants(self, formants: Sequence[float]) -> Array:
        """This speaker's F1-F8 in Hz for an average talker's F1-F3; F4-F8 are those of a uniform tube."""
        upper = 1000.0 * (np.arange(3, NUM_FORMANTS) + 0.5) * (FEMALE_SCALE if self.gender == "f" else 1.0)
        return np.concatenate((formants, upper)) * np.asarray(self.formant_scales)


@dataclass(frozen=True, eq=False)
class Tracks:
    """What is said, one row each `FRAME_SHIFT`: all that `render` needs besides the voice.

    Attributes:
        f0: (frames,), Hz.
        formants: (frames, NUM_FORMANTS), Hz.
        damping: (frames,), factor on all formant bandwidths.
        voicing, frication: (frames,), RMS amplitudes of the two kinds of sound.
        centre, width: (frames,), frequency and bandwidth of the frication, Hz.
    """

    f0: Array
    formants: Array
    damping: Array
    voicing: Array
    frication: Array
    centre: Array
    width: Array


def steady_vowel(voice: Voice, vowel: str, duration: float) -> Tracks:
    """One vowel held for `duration` seconds at the voice's mean F0, without intonation or jitter.

    Raises:
        InputError: no such vowel.
    """
    table = VOWELS[voice.gender]
    if vowel not in table:
        raise InputError(f'no vowel "{vowel}"; {suggest(vowel, table)}')
    frames = np.ones(_count_frames(duration))
    return Tracks(
        f0=voice.f0 * frames,
        formants=np.outer(frames, voice.scale_formants(table[vowel])),
        damping=frames,
        voicing=frames,
        frication=0 * frames,
        centre=2500 * frames,
        width=1500 * frames,
    )


def random_utterance(voice: Voice, duration: float, generator: np.random.Generator) -> Tracks:
    """About `duration` seconds (within one frame) of random syllables, with pauses, between two silences."""
    phones = _draw_phones(voice, duration, generator)
    shifts = [max(1, round(phone.duration / FRAME_SHIFT)) for phone in phones]
    num_frames = _count_frames(duration)

    def track(values: Sequence[float], smoothing: float) -> Array:
        return _smooth(np.repeat(np.asarray(values, np.float64), shifts)[:num_frames], smoothing)

    formants = np.array([voice.scale_formants(phone.formants) for phone in phones])
    # Speech fades out where the utterance is cut, so that it does not end in a click.
    fade = np.minimum(1.0, np.arange(num_frames)[::-1] * FRAME_SHIFT / 0.1)
    return Tracks(
        f0=_draw_f0(voice, num_frames, generator),
        formants=np.stack([track(column, 0.08) for column in formants.T], axis=1),
        damping=track([phone.damping for phone in phones], 0.04),
        voicing=fade * track([10 ** (phone.voicing / 20) for phone in phones], 0.032),
        frication=fade * track([10 ** (phone.frication / 20) for phone in phones], 0.016),
        centre=track([phone.centre * voice.frication_scale for phone in phones], 0.016),
        width=track([phone.width for phone in phones], 0.016),
    )


def _count_frames(duration: float) -> int:
    return round(duration / FRAME_SHIFT) + 1


def _draw_phones(voice: Voice, duration: float, generator: np.random.Generator) -> list[Phone]:
    """Consonant-vowel syllables, with a pause after one in eight, until `duration` seconds are full."""
    vowels, consonants = VOWELS[voice.gender], list(CONSONANTS)
    tract = FEMALE_SCALE if voice.gender == "f" else 1.0
    phones = [PAUSE]
    while sum(max(1, round(phone.duration / FRAME_SHIFT)) for phone in phones) < _count_frames(duration):
        stretch = generator.uniform(0.7, 1.4) / voice.rate
        onset = CONSONANTS[consonants[generator.integers(len(consonants))]]
        phones += [
            phone._replace(
                formants=tuple(tract * formant for formant in phone.formants), duration=phone.duration * stretch
            )
            for phone in onset
        ]
        nucleus = list(vowels.values())[generator.integers(len(vowels))]
        phones.append(Phone(nucleus, generator.normal(0.0, 2.0), duration=0.13 * stretch))
        if generator.random() < 1 / 8:
            phones.append(PAUSE)
    return phones


def _draw_f0(voice: Voice, num_frames: int, generator: np.random.Generator) -> Array:
    """Intonation that wanders over about 0.2 s, falls by its own range from start to end, and jitters."""
    wander = _smooth(generator.standard_normal(num_frames), 0.4)
    wander *= voice.f0_range / max(float(np.std(wander)), 1e-9)
    declination = voice.f0_range * np.linspace(1.0, -1.0, num_frames)
    octaves = wander - np.mean(wander) + declination
    return voice.f0 * 2.0**octaves * (1 + voice.jitter * generator.standard_normal(num_frames))


def _smooth(track: Array, duration: float) -> Array:
    """Convolve with a Hann window of `duration` seconds, the ends held."""
    half = round(duration / FRAME_SHIFT / 2)
    window = np.hanning(2 * half + 3)
    return np.convolve(np.pad(track, half + 1, mode="edge"), window / window.sum(), mode="valid")


def render(voice: Voice, tracks: Tracks, sample_rate: int, generator: np.random.Generator) -> Waveform:
    """The waveform of `tracks` said by `voice`: the equation at the top of this module.

    Returns:
        (samples,) float32, of `(frames - 1) * hop` samples where hop = round(FRAME_SHIFT * sample_rate). A vowel
        of voicing 1 has an RMS near 1, so scale before writing. The generator draws the noise alone.
    """
    hop = round(FRAME_SHIFT * sample_rate)
    num_blocks = round(_FFT_LENGTH / FRAME_SHIFT)
    num_samples = (len(tracks.f0) - 1) * hop
    harmonics = _harmonics(tracks.f0, hop, sample_rate)
    noise = generator.standard_normal(num_samples)
    filters = _compute_filters(voice, tracks, sample_rate, num_blocks * hop)
    excitations = (_frame_spectra(signal, hop, num_blocks * hop) for signal in (harmonics, noise))
    spectra = sum(excited * shaped for excited, shaped in zip(excitations, filters, strict=True))
    frames = fft.irfft(spectra, n=num_blocks * hop, axis=-1).reshape(-1, num_blocks, hop)
    output = np.zeros((len(frames) + num_blocks, hop))
    for block in range(num_blocks):
        output[block : block + len(frames)] += frames[:, block]
    return output.ravel()[hop : hop + num_samples].astype(np.float32)


def _harmonics(f0: Array, hop: int, sample_rate: int) -> Array:
    """Σ_k cos(k φ) over all k F0 below half the sample rate, (samples,), for F0 at every `hop` samples.

    By the Dirichlet kernel the sum to K is sin((K + 1/2) φ) / (2 sin(φ / 2)) - 1/2. The next harmonic is added
    with weight κ - K, where κ = sample_rate / (2 F0) - 1, so that the sum is continuous while F0 moves.
    """
    samples = np.arange((len(f0) - 1) * hop)
    pitch = np.interp(samples / hop, np.arange(len(f0)), f0)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    limit = sample_rate / (2 * pitch) - 1
    count = np.floor(limit)
    half = np.sin(phase / 2)
    at_pulse = np.abs(half) < 1e-7
    kernel = np.sin((count + 0.5) * phase) / (2 * np.where(at_pulse, 1.0, half))
    kernel = np.where(at_pulse, count + 0.5, kernel) - 0.5
    return kernel + (limit - count) * np.cos((count + 1) * phase)


def _frame_spectra(signal: Array, hop: int, fft_length: int) -> Spectrum:
    """Spectra (frames, bins) of Hann windows of 2 hops, centred at every hop from the first sample on."""
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, hop), 2 * hop)[::hop]
    return fft.rfft((frames * window).astype(np.float32), n=fft_length, axis=-1)


def _compute_filters(voice: Voice, tracks: Tracks, sample_rate: int, fft_length: int) -> tuple[Spectrum, Spectrum]:
    """The filters of the harmonics, h, and of the noise, a + f; each (frames, bins)."""
    # Single precision, like the waveform: the error is below -80 dB, and the time is halved.
    frequencies = np.float32(sample_rate / fft_length) * np.arange(fft_length // 2 + 1, dtype=np.float32)
    f0 = tracks.f0[:, None].astype(np.float32)
    bandwidths = _BANDWIDTHS * voice.bandwidth_scale * tracks.damping[:, None]
    tract = 1 / _response(_resonator_polynomials(tracks.formants, bandwidths, sample_rate), fft_length)
    source = _glottal_spectrum(frequencies * voice.open_quotient / f0) * _tilt_spectrum(frequencies, voice.tilt)
    breath = _breath_amplitude(voice, f0, sample_rate)
    # Power per Hz: a harmonic of amplitude 1 each F0 Hz, and white noise of variance 1.
    density = _square(tract) * (_square(source) / (2 * f0) + breath**2 * 2 / sample_rate)
    power = density.sum(axis=-1, keepdims=True) * sample_rate / fft_length
    voiced = tract * np.sqrt(tracks.voicing[:, None] ** 2 / power).astype(np.float32)
    frication = tracks.frication[:, None].astype(np.float32) * _frication_filters(tracks, sample_rate, fft_length)
    return voiced * source, voiced * breath + frication


def _frication_filters(tracks: Tracks, sample_rate: int, fft_length: int) -> Spectrum:
    """One resonator, and a zero at 0 Hz against rumble, scaled so that white noise keeps its power."""
    poles = _resonator_polynomials(tracks.centre[:, None], tracks.width[:, None], sample_rate)
    shape = _response(np.array([[1.0, -1.0]]), fft_length) / _response(poles, fft_length)
    power = _square(shape).sum(axis=-1, keepdims=True) * 2 / fft_length
    return shape / np.sqrt(power)


def _response(coefficients: Array, fft_length: int) -> Spectrum:
    """Frequency responses (frames, bins) of the FIR filters `coefficients` (frames, taps)."""
    return fft.rfft(coefficients.astype(np.float32), n=fft_length, axis=-1)


def _square(spectrum: Spectrum) -> Array:
    """|spectrum|², without the square root that `abs` takes."""
    return spectrum.real**2 + spectrum.imag**2


def _resonator_polynomials(centres: Array, bandwidths: Array, sample_rate: int) -> Array:
    """Coefficients in z^-1 (frames, 2 resonators + 1) of Π_i (1 - 2 r_i cos θ_i z^-1 + r_i² z^-2), Klatt (1980).

    θ = 2π centre / sample_rate and r = exp(-π bandwidth / sample_rate). A resonance that lies above 0.48 of the
    sample rate cannot be made and is left out.
    """
    radius = np.exp(-np.pi * bandwidths / sample_rate) * (centres < 0.48 * sample_rate)
    linear = -2 * radius * np.cos(2 * np.pi * centres / sample_rate)
    square = radius**2
    product = np.ones((len(centres), 1))
    for index in range(centres.shape[1]):
        grown = np.pad(product, ((0, 0), (0, 2)))
        grown[:, 1:-1] += linear[:, index, None] * product
        grown[:, 2:] += square[:, index, None] * product
        product = grown
    return product


def _glottal_spectrum(cycles: Array) -> Spectrum:
    """∫ (2u - 3u²) exp(-2πj c u) du over 0 <= u <= 1, at c `cycles` per open phase; 0 at c = 0."""
    phase = 2 * np.pi * np.where(cycles == 0, 1.0, cycles)
    inverse = 1j / phase
    end = np.cos(phase) - 1j * np.sin(phase)
    spectrum = inverse * (inverse * (2 + 6 * inverse) - end * (1 - inverse * (4 - 6 * inverse)))
    return np.where(cycles == 0, 0.0, spectrum)


def _tilt_spectrum(frequencies: Array, tilt: float) -> Spectrum:
    """A first-order low-pass that is `tilt` dB down at 3 kHz."""
    cutoff = 3000.0 / math.sqrt(10 ** (tilt / 10) - 1)
    return 1 / (1 + 1j * frequencies / cutoff)


def _breath_amplitude(voice: Voice, f0: Array, sample_rate: int) -> Array:
    """The noise amplitude at which breath is `aspiration` dB from the harmonics' power per Hz at 3 kHz.

    There the glottal spectrum is close to 1 / (2π 3000 open_quotient / F0), by its leading term.
    """
    harmonic = 10 ** (-voice.tilt / 20) * f0 / (2 * np.pi * 3000.0 * voice.open_quotient)
    return 10 ** (voice.aspiration / 20) * harmonic * np.sqrt(sample_rate / (4 * f0))
