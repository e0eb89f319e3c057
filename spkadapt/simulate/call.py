"""A telephone call as a whole: room, noise, handset, band and codec, each drawn at random.

What telephone recordings differ in, as far as it can be made from any recording: co-training on several simulated
calls of one utterance teaches a network to see past them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import signal

from spkadapt.audio import recode
from spkadapt.errors import InputError
from spkadapt.simulate.channel import Array, Handset, Waveform, add_noise, mulaw, telephone_band

CALL_SAMPLE_RATE = 8000
SIMULATION_VERSION = 1
"""To be raised with any change of what the functions below give, lest features of before be taken for theirs."""


@dataclass(frozen=True)
class SimulateConfig:
    """How many simulated versions of each recording join the recording itself.

    Attributes:
        source_copies: calls made of each recording of the source domain.
        target_domain_copies: of the target domain, the same recording over one more handset, noise and codec.
        target_domain_speeds: the target domain's recordings at these speeds too, pitch and tempo alike, as other
            voices (Ko et al. 2015; as new speakers, Yamamoto et al. 2019).
        seed: of all draws.
    """

    source_copies: int = 0
    target_domain_copies: int = 0
    target_domain_speeds: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.source_copies, self.target_domain_copies, self.seed) < 0:
            raise InputError("source_copies, target_domain_copies and seed of the simulation must be ≥ 0")
        for speed in self.target_domain_speeds:
            if not 0.5 <= speed <= 2 or speed == 1:
                raise InputError(f"speed is {speed}; expected 0.5 to 2, and not 1, which is there anyhow")
        if len(set(self.target_domain_speeds)) < len(self.target_domain_speeds):
            raise InputError(f"speeds are {list(self.target_domain_speeds)}; expected each but once")


@dataclass(frozen=True)
class Line:
    """What one kind of telephone does.

    Attributes:
        share: of all calls.
        snr: least and greatest signal-to-noise ratio, dB.
        band: the pass-band, Hz.
        is_far: whether the talker is away from the microphone, so that the room is heard.
        codec: `ULAW` (G.711) or `GSM610` (GSM 06.10 full rate).
    """

    share: float
    snr: tuple[float, float]
    band: tuple[float, float]
    is_far: bool
    codec: str


LINES = (
    Line(0.45, (15.0, 35.0), (250.0, 3400.0), False, "ULAW"),
    Line(0.35, (8.0, 25.0), (180.0, 3500.0), False, "GSM610"),
    Line(0.20, (5.0, 20.0), (350.0, 3300.0), True, "ULAW"),
)
"""A landline, a cell phone and a speakerphone."""


def simulate_call(waveform: Array, generator: np.random.Generator) -> Waveform:
    """A recording as if it had been said into a random telephone.

    Shape: `(samples,)` at `CALL_SAMPLE_RATE`, not silent → `(samples,)`, float32.

    Raises:
        InputError: the recording is silent.
    """
    line = LINES[generator.choice(len(LINES), p=[line.share for line in LINES])]
    if line.is_far or generator.random() < 0.2:
        waveform = add_room(waveform, generator)
    waveform = add_noise(waveform, generator.uniform(*line.snr), generator, generator.uniform(0.0, 1.5))
    waveform = Handset.sample(generator).apply(waveform, CALL_SAMPLE_RATE)
    low, high = line.band
    waveform = telephone_band(
        waveform, CALL_SAMPLE_RATE, low + generator.uniform(-50, 50), high + generator.uniform(-150, 50)
    )
    return _code(waveform, line.codec, generator)


def relay_call(waveform: Array, generator: np.random.Generator) -> Waveform:
    """A telephone call with the noise, the handset (at 0.6 of its colour) and the codec of a second one.

    Shape and errors: as for `simulate_call`.
    """
    waveform = add_noise(waveform, generator.uniform(10.0, 30.0), generator, generator.uniform(0.0, 1.5))
    drawn = Handset.sample(generator)
    handset = Handset(0.6 * drawn.tilt, drawn.resonance, 0.6 * drawn.gain, drawn.width)
    waveform = handset.apply(waveform, CALL_SAMPLE_RATE)
    return _code(waveform, "GSM610" if generator.random() < 0.3 else "ULAW", generator)


def at_speed(speed: float) -> Callable[[Array, np.random.Generator], Waveform]:
    """What plays a waveform at another speed: tempo, pitch and formants change alike. It draws nothing.

    The speed is rounded to a fraction with a denominator of at most 100, so that two decimals are exact.

    Shape: `(samples,)` → `(⌈samples / speed⌉,)`, float32.
    """
    ratio = Fraction(speed).limit_denominator(100)

    def change(waveform: Array, generator: np.random.Generator) -> Waveform:
        return signal.resample_poly(waveform, ratio.denominator, ratio.numerator).astype(np.float32)

    return change


def add_room(waveform: Array, generator: np.random.Generator) -> Waveform:
    """The waveform with a diffuse tail 14 to 2 dB below it: noise that decays by 60 dB within 0.2 to 0.6 s.

    A model of late reverberation alone (Polack, 1988), without the pattern of early reflections.
    """
    reverberation_time = generator.uniform(0.2, 0.6)
    times = np.arange(CALL_SAMPLE_RATE // 2) / CALL_SAMPLE_RATE
    tail = generator.standard_normal(len(times)) * 10 ** (-3 * times / reverberation_time)
    tail *= generator.uniform(0.2, 0.8) / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    return signal.oaconvolve(waveform, tail)[: len(waveform)].astype(np.float32)


def _code(waveform: Array, codec: str, generator: np.random.Generator) -> Waveform:
    """The waveform at a random level, encoded and decoded."""
    peak = np.abs(waveform).max()
    levelled = (waveform * (generator.uniform(0.1, 0.6) / peak)).astype(np.float32) if peak else waveform
    return mulaw(levelled) if codec == "ULAW" else recode(levelled, CALL_SAMPLE_RATE, codec)
