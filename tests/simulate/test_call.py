"""Simulated calls: what each part of the chain leaves of sines, noise and impulses, and who draws what."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.audio import recode
from spkadapt.errors import InputError
from spkadapt.simulate import call
from spkadapt.simulate.call import (
    CALL_SAMPLE_RATE,
    LINES,
    Line,
    SimulateConfig,
    add_room,
    at_speed,
    relay_call,
    simulate_call,
)
from spkadapt.simulate.channel import Handset, mulaw

FLAT = Handset(tilt=0.0, resonance=1000.0, gain=0.0, width=0.3)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def sine(frequency: float, num_samples: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency / CALL_SAMPLE_RATE * np.arange(num_samples))).astype(np.float32)


def power_db(waveform: np.ndarray, low: float, high: float) -> float:
    """Mean power in a band of the Hann-windowed waveform, dB."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / CALL_SAMPLE_RATE)
    return float(10 * np.log10(spectrum[(frequencies >= low) & (frequencies <= high)].mean()))


def energy(waveform: np.ndarray) -> float:
    return float(np.sum(waveform.astype(np.float64) ** 2))


def impulse(num_samples: int) -> np.ndarray:
    return np.eye(1, num_samples, dtype=np.float32)[0]


class Spy:
    """Records what a function of `call` is given and gives back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[tuple[tuple, np.ndarray]] = []
        function = getattr(call, name)

        def spied(*args: object) -> np.ndarray:
            result = function(*args)
            self.calls.append((args, result))
            return result

        monkeypatch.setattr(call, name, spied)


def only(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    """All calls are of this line, through a handset that colours nothing."""
    monkeypatch.setattr(call, "LINES", (line,))
    monkeypatch.setattr(Handset, "sample", classmethod(lambda cls, generator: FLAT))


# Lines ------------------------------------------------------------------


def test_the_shares_of_the_lines_are_those_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    band, coded = Spy(monkeypatch, "telephone_band"), Spy(monkeypatch, "_code")
    monkeypatch.setattr(call, "recode", lambda waveform, rate, codec: waveform)  # dear, and not the point
    assert sum(line.share for line in LINES) == pytest.approx(1)
    generator, num_calls = np.random.default_rng(0), 2000
    for _ in range(num_calls):
        simulate_call(noise(50), generator)
    found: Counter[int] = Counter()
    edges: list[tuple[float, float]] = []
    for ((_, _, low, high), _), ((_, codec, _), _) in zip(band.calls, coded.calls, strict=True):
        matching = [
            number
            for number, line in enumerate(LINES)
            if line.codec == codec
            and line.band[0] - 50 <= low <= line.band[0] + 50
            and line.band[1] - 150 <= high <= line.band[1] + 50
        ]
        assert len(matching) == 1  # the bands of no two lines of one codec meet
        found[matching[0]] += 1
        edges.append((low - LINES[matching[0]].band[0], high - LINES[matching[0]].band[1]))
    for drawn, least, greatest in zip(np.transpose(edges), (-50, -150), (50, 50), strict=True):
        assert drawn.min() < least + 2
        assert drawn.max() > greatest - 2
    for number, line in enumerate(LINES):
        deviation = np.sqrt(num_calls * line.share * (1 - line.share))
        assert abs(found[number] - num_calls * line.share) < 4 * deviation, line


def test_the_room_is_heard_on_a_speakerphone_and_in_a_fifth_of_the_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "recode", lambda waveform, rate, codec: waveform)
    rooms = Spy(monkeypatch, "add_room")
    generator, num_calls = np.random.default_rng(1), 500
    for line, share in zip(LINES, (0.2, 0.2, 1.0), strict=True):
        assert line.is_far == (share == 1)
        rooms.calls.clear()
        monkeypatch.setattr(call, "LINES", (Line(1.0, line.snr, line.band, line.is_far, line.codec),))
        for _ in range(num_calls):
            simulate_call(noise(50), generator)
        assert abs(len(rooms.calls) - share * num_calls) <= 4 * np.sqrt(num_calls * share * (1 - share))


@pytest.mark.parametrize("line", LINES)
def test_the_band_of_a_line_is_what_is_left(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    """White noise keeps its power from 100 Hz inside the band, and from 100 Hz beyond it is the codec's noise."""
    only(monkeypatch, Line(1.0, (60.0, 60.0), line.band, False, "ULAW"))
    spy = Spy(monkeypatch, "telephone_band")
    out = simulate_call(noise(1 << 16), np.random.default_rng(2))
    ((_, rate, low, high), banded) = spy.calls[0]
    assert rate == CALL_SAMPLE_RATE
    assert banded.shape == out.shape
    middle = power_db(out, 1000, 2000)
    assert power_db(out, low + 100, low + 200) == pytest.approx(middle, abs=1)
    assert power_db(out, high - 200, high - 100) == pytest.approx(middle, abs=1)
    # μ-law's own noise lies 37 dB below, spread over all frequencies; the filter's stop-band far lower.
    assert power_db(out, 0, low - 100) < middle - 30
    assert power_db(out, high + 100, 4000) < middle - 30


@pytest.mark.parametrize("line", LINES)
def test_the_noise_has_a_ratio_within_the_lines_range(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    only(monkeypatch, Line(1.0, line.snr, line.band, False, "ULAW"))
    spy, generator = Spy(monkeypatch, "add_noise"), np.random.default_rng(3)
    for _ in range(200):
        simulate_call(noise(400), generator)
    ratios = []
    exponents = [exponent for (*_, exponent), _ in spy.calls]
    assert 0 <= min(exponents) < 0.1
    assert 1.4 < max(exponents) <= 1.5
    for (before, asked, *_), after in spy.calls:
        ratios.append(10 * np.log10(energy(before) / energy(after.astype(np.float64) - before)))
        assert ratios[-1] == pytest.approx(asked, abs=1e-2)
    least, greatest = line.snr
    assert least - 1e-2 <= min(ratios) < least + 0.1 * (greatest - least)
    assert greatest - 0.1 * (greatest - least) < max(ratios) <= greatest + 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_the_noise_is_in_the_call(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Within the band, a sine stands above all else in the call as it stood above the noise that was drawn."""
    only(monkeypatch, Line(1.0, (0.0, 0.0), (300.0, 3400.0), False, "ULAW"))
    monkeypatch.setattr(call, "add_room", lambda waveform, generator: waveform)
    spy, num_samples = Spy(monkeypatch, "add_noise"), 1 << 15
    out = simulate_call(sine(1000, num_samples), np.random.default_rng(seed))
    ((before, *_), after) = spy.calls[0]
    frequencies = np.fft.rfftfreq(num_samples, 1 / CALL_SAMPLE_RATE)
    inside = (frequencies > 450) & (frequencies < 3150)
    is_line = frequencies == 1000
    assert is_line.sum() == 1
    power = np.abs(np.fft.rfft(out.astype(np.float64))) ** 2
    noise_power = np.abs(np.fft.rfft(after.astype(np.float64) - before)) ** 2
    sine_power = np.abs(np.fft.rfft(before.astype(np.float64))[is_line]).item() ** 2
    found = power[is_line].item() / power[inside & ~is_line].sum()
    expected = sine_power / noise_power[inside & ~is_line].sum()
    assert 10 * np.log10(found / expected) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("codec", ["ULAW", "GSM610"])
def test_the_codec_has_the_last_word(monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    only(monkeypatch, Line(1.0, (30.0, 30.0), (250.0, 3400.0), False, codec))
    recoded = Spy(monkeypatch, "recode")
    band = Spy(monkeypatch, "telephone_band")
    out = simulate_call(noise(3001), np.random.default_rng(5))
    assert out.dtype == np.float32
    assert out.shape == (3001,)
    (_, banded) = band.calls[0]
    if codec == "ULAW":
        np.testing.assert_array_equal(mulaw(out), out)  # its values are G.711's
        assert not recoded.calls
    else:
        ((levelled, rate, name), result) = recoded.calls[0]
        assert (rate, name) == (CALL_SAMPLE_RATE, "GSM610")
        np.testing.assert_array_equal(out, result)
        np.testing.assert_array_equal(out, recode(levelled, CALL_SAMPLE_RATE, "GSM610"))
        np.testing.assert_allclose(levelled / np.abs(levelled).max(), banded / np.abs(banded).max(), atol=1e-6)
        assert not np.array_equal(mulaw(out), out)


def test_what_happens_to_speech_happens_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room, then noise, then the handset, then the band, then the codec: each is given what the last one left."""
    only(monkeypatch, Line(1.0, (20.0, 20.0), (300.0, 3400.0), True, "ULAW"))
    steps = [Spy(monkeypatch, name) for name in ("add_room", "add_noise", "telephone_band", "_code")]
    coloured: list[tuple[np.ndarray, np.ndarray]] = []
    apply = Handset.apply

    def note(self: Handset, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        coloured.append((waveform, apply(self, waveform, sample_rate)))
        return coloured[-1][1]

    monkeypatch.setattr(Handset, "apply", note)
    waveform = noise(500)
    out = simulate_call(waveform, np.random.default_rng(0))
    room, noisy, band, coded = ((spy.calls[0][0][0], spy.calls[0][1]) for spy in steps)
    chain = [room, noisy, coloured[0], band, coded]
    assert chain[0][0] is waveform
    assert all(given is left for (_, left), (given, _) in itertools.pairwise(chain))
    assert out is chain[-1][1]


# Levels ------------------------------------------------------------------


@pytest.mark.parametrize("change", [simulate_call, relay_call])
def test_levels_are_drawn_anew_whatever_the_recording_had(monkeypatch: pytest.MonkeyPatch, change) -> None:
    monkeypatch.setattr(call, "recode", lambda waveform, rate, codec: waveform)
    monkeypatch.setattr(call, "mulaw", lambda waveform: waveform)
    generator = np.random.default_rng(6)
    peaks = [np.abs(change(10.0**level * noise(300), generator)).max() for level in np.linspace(-3, 1, 400)]
    assert 0.1 - 1e-6 <= min(peaks) < 0.11
    assert 0.59 < max(peaks) <= 0.6 + 1e-6
    assert np.mean(peaks) == pytest.approx(0.35, abs=4 * 0.5 / np.sqrt(12 * 400))


@pytest.mark.parametrize("change", [simulate_call, relay_call])
def test_the_level_of_the_recording_is_no_matter(change) -> None:
    quiet, loud = (change(scale * noise(2000), np.random.default_rng(7)) for scale in (2.0**-6, 1.0))
    np.testing.assert_allclose(quiet, loud, atol=1e-6)


@pytest.mark.parametrize("change", [simulate_call, relay_call])
def test_silence_has_no_call(change) -> None:
    for seed in range(8):
        with pytest.raises(InputError, match=r"a silent waveform has no noise .* dB below it"):
            change(np.zeros(100, np.float32), np.random.default_rng(seed))


# Draws ------------------------------------------------------------------


@given(st.integers(0, 2**31), st.sampled_from([simulate_call, relay_call]), st.integers(200, 2000))
@settings(max_examples=25, deadline=None)
def test_a_call_is_its_generators_and_another_is_another(seed: int, change, num_samples: int) -> None:
    waveform = noise(num_samples)
    before = waveform.copy()
    first, again, other = (change(waveform, np.random.default_rng(number)) for number in (seed, seed, seed + 1))
    np.testing.assert_array_equal(waveform, before)
    np.testing.assert_array_equal(first, again)
    assert first.shape == waveform.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert not np.array_equal(first, other)


def test_nothing_else_is_drawn_from() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate_call(noise(300), np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# Relays ------------------------------------------------------------------


def test_a_relay_adds_noise_of_10_to_30_db_and_0_6_of_a_handset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "recode", lambda waveform, rate, codec: waveform)
    drawn: list[Handset] = []
    applied: list[Handset] = []
    sample, apply = Handset.sample.__func__, Handset.apply

    def note_sample(cls: type[Handset], generator: np.random.Generator) -> Handset:
        drawn.append(sample(cls, generator))
        return drawn[-1]

    def note_apply(self: Handset, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        applied.append(self)
        assert sample_rate == CALL_SAMPLE_RATE
        return apply(self, waveform, sample_rate)

    monkeypatch.setattr(Handset, "sample", classmethod(note_sample))
    monkeypatch.setattr(Handset, "apply", note_apply)
    spy, coded = Spy(monkeypatch, "add_noise"), Spy(monkeypatch, "_code")
    generator, num_calls = np.random.default_rng(8), 400
    for _ in range(num_calls):
        relay_call(noise(100), generator)
    ratios = [ratio for (_, ratio, *_), _ in spy.calls]
    assert 10 <= min(ratios) < 11
    assert 29 < max(ratios) <= 30
    frequencies = np.geomspace(100, 4000, 50)
    for one, other in zip(drawn, applied, strict=True):
        np.testing.assert_allclose(
            other.compute_colour(frequencies), 0.6 * one.compute_colour(frequencies), atol=1e-9
        )
    codecs = Counter(codec for (_, codec, _), _ in coded.calls)
    assert codecs.keys() == {"ULAW", "GSM610"}
    assert abs(codecs["GSM610"] - 0.3 * num_calls) < 4 * np.sqrt(num_calls * 0.3 * 0.7)


def test_a_relay_keeps_the_band_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second telephone network passes on what the first let through, and limits nothing anew."""
    monkeypatch.setattr(Handset, "sample", classmethod(lambda cls, generator: FLAT))
    out = relay_call(noise(1 << 15), np.random.default_rng(1))
    assert power_db(out, 3600, 3900) == pytest.approx(power_db(out, 1000, 2000), abs=2)


# The room ------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_room_is_the_direct_sound_and_a_tail_14_to_2_db_below_it(seed: int) -> None:
    response = add_room(impulse(CALL_SAMPLE_RATE), np.random.default_rng(seed)).astype(np.float64)
    response[0] -= 1.0
    level = 10 * np.log10(energy(response))
    assert 20 * np.log10(0.2) - 1e-4 <= level <= 20 * np.log10(0.8) + 1e-4
    assert np.abs(response[CALL_SAMPLE_RATE // 2 :]).max() < 1e-6  # half a second at most


def test_the_tail_decays_by_60_db_within_its_time() -> None:
    """The level of the mean of many squared tails falls along a line of −60 dB a reverberation time."""

    class Fixed:
        """Draws this reverberation time, this level, and noise."""

        def __init__(self, seed: int) -> None:
            self._noise = np.random.default_rng(seed)
            self._values = [0.4, 0.5]

        def uniform(self, low: float, high: float) -> float:
            value = self._values.pop(0)
            assert low < value < high
            return value

        def standard_normal(self, size: int) -> np.ndarray:
            return self._noise.standard_normal(size)

    squares = np.zeros(CALL_SAMPLE_RATE // 2)
    for seed in range(200):
        response = add_room(impulse(CALL_SAMPLE_RATE // 2), Fixed(seed)).astype(np.float64)  # type: ignore[arg-type]
        response[0] -= 1.0
        squares += response**2
        assert energy(response) == pytest.approx(0.25, rel=1e-4)
    levels = 10 * np.log10(squares.reshape(-1, 100).mean(axis=1))
    times = (np.arange(len(levels)) + 0.5) * 100 / CALL_SAMPLE_RATE
    slope, _ = np.polyfit(times, levels, 1)
    assert slope == pytest.approx(-60 / 0.4, rel=0.01)


def test_reverberation_times_are_from_0_2_to_0_6_s() -> None:
    """A tenth of a tail's energy is left after a sixth of the time in which it falls by 60 dB."""
    times = []
    for seed in range(300):
        response = add_room(impulse(CALL_SAMPLE_RATE // 2), np.random.default_rng(seed)).astype(np.float64)
        response[0] -= 1.0
        share = np.cumsum(response**2) / energy(response)
        times.append(6 * np.searchsorted(share, 0.9) / CALL_SAMPLE_RATE)
    assert 0.17 < min(times) < 0.25
    assert 0.55 < max(times) < 0.65
    assert np.mean(times) == pytest.approx(0.4, abs=0.03)


def test_the_room_is_linear_and_causal() -> None:
    first, second = noise(5000, 1), noise(5000, 2)
    alone = [add_room(waveform, np.random.default_rng(3)).astype(np.float64) for waveform in (first, second)]
    both = add_room(first + second, np.random.default_rng(3))
    np.testing.assert_allclose(both, sum(alone), atol=1e-5)
    late = np.concatenate([np.zeros(1000, np.float32), first])
    delayed = add_room(late, np.random.default_rng(3))
    assert np.abs(delayed[:1000]).max() < 1e-6
    np.testing.assert_allclose(delayed[1000:], alone[0], atol=1e-5)


# Speeds ------------------------------------------------------------------


@given(st.integers(50, 200), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_a_recording_at_a_speed_is_as_much_shorter(percent: int, num_samples: int) -> None:
    out = at_speed(percent / 100)(noise(num_samples), np.random.default_rng(0))
    assert out.dtype == np.float32
    assert len(out) == -(-num_samples * 100 // percent)


@pytest.mark.parametrize("speed", [0.5, 0.9, 0.97, 1.03, 1.1, 1.2, 2.0])
def test_the_frequency_of_a_sine_is_times_the_speed(speed: float) -> None:
    num_samples, frequency = 1 << 15, 700.0
    out = at_speed(speed)(sine(frequency, num_samples), np.random.default_rng(0)).astype(np.float64)
    # Away from the ends, where the filter hangs over the edge, the sine itself, in phase to the last sample.
    inner = slice(200, len(out) - 200)
    time = np.arange(len(out)) / CALL_SAMPLE_RATE
    expected = 0.3 * np.sin(2 * np.pi * frequency * speed * time)
    assert np.abs(out - expected)[inner].max() < 2e-3


def test_a_faster_recording_folds_nothing_back() -> None:
    """3500 Hz at twice the speed would be 7000 Hz, beyond what 8 kHz can hold."""
    out = at_speed(2.0)(sine(3500, 1 << 14), np.random.default_rng(0))
    assert power_db(out[200:-200], 0, 4000) < power_db(sine(3500, 1 << 14), 0, 4000) - 40


def test_a_speed_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    at_speed(0.9)(noise(100), generator)
    assert generator.bit_generator.state == state


# Settings ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["source_copies", "target_domain_copies", "seed"])
def test_negative_counts(name: str) -> None:
    with pytest.raises(
        InputError, match="source_copies, target_domain_copies and seed of the simulation must be ≥ 0"
    ):
        SimulateConfig(**{name: -1})


@pytest.mark.parametrize("speed", [0.49, 2.01, 1.0, 0.0, -0.9, float("nan"), float("inf")])
def test_bad_speeds(speed: float) -> None:
    with pytest.raises(InputError, match=f"speed is {speed}; expected 0.5 to 2, and not 1"):
        SimulateConfig(target_domain_speeds=(0.9, speed))


def test_a_speed_given_twice() -> None:
    with pytest.raises(InputError, match=r"speeds are \[0.9, 1.1, 0.9\]; expected each but once"):
        SimulateConfig(target_domain_speeds=(0.9, 1.1, 0.9))


def test_good_settings() -> None:
    assert SimulateConfig() == SimulateConfig(0, 0, (), 0)
    SimulateConfig(2, 1, (0.5, 0.9, 1.1, 2.0), 3)
