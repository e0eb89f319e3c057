"""Filterbank energies and cepstra as Kaldi computes them, for padded batches, on any device.

The order is Kaldi's: frames → energies or cepstra → deltas → mean (and variance) normalisation; the last two stand
in `frames`. Everything here takes `lengths`, the absolute count of samples or frames of each utterance: what lies
beyond them is padding, never changes a frame, and comes out as zero.

Source: D. Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; parity with its `compute-fbank-feats`,
`compute-mfcc-feats` is tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from spkadapt.errors import InputError, suggest
from spkadapt.frames import compute_deltas, mask_padding, sliding_cmn, utterance_cmvn

Kind = Literal["fbank", "mfcc"]
Cmvn = Literal["none", "sliding", "utterance"]

# Kaldi's features are those of 16-bit integers, and it floors every energy at this before the logarithm.
INTEGER_SCALE = 32768.0
ENERGY_FLOOR = torch.finfo(torch.float32).eps

# Frames worked on at once: few enough that a CPU's caches hold them, enough that a GPU stays busy.
_CPU_CHUNK, _GPU_CHUNK = 1024, 1 << 17


@dataclass(frozen=True)
class FeatureConfig:
    """What to compute from a waveform. The names are Kaldi's; there is no dither, so features are deterministic.

    Args:
        kind: "fbank" (log mel energies) or "mfcc" (their cosine transform).
        sample_rate: of the waveform, in Hz.
        frame_length: of the Povey window, in seconds.
        frame_shift: from one frame to the next, in seconds.
        num_mel_bins: triangular filters, evenly spaced in mel.
        num_ceps: cepstra kept, C0 included (mfcc only).
        low_freq: lower edge of the first filter, in Hz.
        high_freq: upper edge of the last filter, in Hz; at most half of `sample_rate`.
        snip_edges: only frames that lie wholly inside the utterance; otherwise one frame per shift, and the
            signal is mirrored at both ends.
        use_energy: C0 becomes the frame's log-energy before pre-emphasis and window (mfcc only). Kaldi's own
            default is true, and its VAD reads that C0.
        preemphasis: coefficient of the first difference taken of each frame.
        cepstral_lifter: sine lifter that scales the higher cepstra up (mfcc only); 0 for none.
        num_deltas: orders of time derivatives appended: 0, 1 (velocity) or 2 (and acceleration).
        delta_window: frames to each side that a derivative of the first order is taken over.
        cmvn: "none", "sliding" (a window around each frame) or "utterance".
        cmn_window: frames of the sliding window.
        norm_vars: divide by the standard deviation as well (cmvn other than "none").
    """

    kind: Kind = "fbank"
    sample_rate: int = 8000
    frame_length: float = 0.025
    frame_shift: float = 0.010
    num_mel_bins: int = 40
    num_ceps: int = 24
    low_freq: float = 20.0
    high_freq: float = 3700.0
    snip_edges: bool = False
    use_energy: bool = False
    preemphasis: float = 0.97
    cepstral_lifter: float = 22.0
    num_deltas: int = 0
    delta_window: int = 2
    cmvn: Cmvn = "none"
    cmn_window: int = 300
    norm_vars: bool = False

    def __post_init__(self) -> None:
        _check_config(self)
        mel_filterbank(self)  # says so if a filter came out empty

    @property
    def frame_samples(self) -> int:
        """Samples in a frame; a fraction is dropped, as Kaldi does."""
        return int(self.sample_rate * self.frame_length + 1e-6)

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next; a fraction is dropped, as Kaldi does."""
        return int(self.sample_rate * self.frame_shift + 1e-6)

    @property
    def fft_size(self) -> int:
        """The least power of two that holds a frame."""
        return 1 << (self.frame_samples - 1).bit_length()


def _check_config(config: FeatureConfig) -> None:
    for field, value, choices in (("kind", config.kind, get_args(Kind)), ("cmvn", config.cmvn, get_args(Cmvn))):
        if value not in choices:
            raise InputError(f'{field} is "{value}"; {suggest(value, choices)}')
    nyquist = config.sample_rate / 2
    mfcc = config.kind == "mfcc"
    rules = [
        ("sample_rate", config.sample_rate > 0, "a rate above 0 Hz"),
        ("frame_length", config.frame_samples >= 2, "at least two samples, in seconds"),
        (
            "frame_shift",
            1 <= config.shift_samples <= config.frame_samples,
            "one sample to frame_length, in seconds",
        ),
        ("num_mel_bins", config.num_mel_bins >= 1, "at least 1"),
        ("num_ceps", not mfcc or 1 <= config.num_ceps <= config.num_mel_bins, "from 1 to num_mel_bins"),
        ("high_freq", config.high_freq <= nyquist, f"at most {nyquist:g} Hz, half of sample_rate"),
        ("low_freq", 0 <= config.low_freq < config.high_freq, "from 0 Hz to below high_freq"),
        ("use_energy", mfcc or not config.use_energy, 'false unless kind is "mfcc"'),
        ("preemphasis", 0 <= config.preemphasis <= 1, "from 0 to 1"),
        ("cepstral_lifter", config.cepstral_lifter >= 0, "at least 0"),
        ("num_deltas", config.num_deltas in (0, 1, 2), "0, 1 or 2"),
        ("delta_window", config.delta_window >= 1, "at least 1 frame"),
        ("cmn_window", config.cmn_window >= 1, "at least 1 frame"),
        ("norm_vars", not config.norm_vars or config.cmvn != "none", 'false while cmvn is "none"'),
    ]
    for field, holds, expected in rules:
        if not holds:
            raise InputError(f"{field} is {getattr(config, field)}; expected {expected}")


def num_frames(num_samples: int, config: FeatureConfig) -> int:
    """How many frames an utterance of `num_samples` has.

    With frames of `l` samples every `s` samples: `1 + ⌊(n − l) / s⌋` (0 if n < l) where `snip_edges`, and
    `⌊(n + ⌊s/2⌋) / s⌋` otherwise, which is n / s rounded, and does not depend on `l`.
    """
    if config.snip_edges:
        return max(0, 1 + (num_samples - config.frame_samples) // config.shift_samples)
    return (num_samples + config.shift_samples // 2) // config.shift_samples


def check_length(num_samples: int, config: FeatureConfig) -> None:
    """Raise InputError unless an utterance of `num_samples` has a frame."""
    if num_frames(num_samples, config) >= 1:
        return
    least = config.frame_samples if config.snip_edges else config.shift_samples - config.shift_samples // 2
    raise InputError(
        f"an utterance of {num_samples} samples ({num_samples / config.sample_rate:g} s) is too short for one "
        f"frame; expected at least {least} samples ({least / config.sample_rate:g} s)"
    )


class FeatureExtractor(nn.Module):
    """Waveforms to features. It has no parameters, and no gradient flows through it to the waveform.

    Args:
        config: what to compute.
        dtype: torch.float32 or torch.float64; waveforms are cast to it, and the features have it.
    """

    window: torch.Tensor
    mel_weights: torch.Tensor
    dct: torch.Tensor

    def __init__(self, config: FeatureConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        # Each row twice: once for the square of the real part of an FFT bin, once for that of the imaginary one.
        mel_weights = mel_filterbank(config).repeat_interleave(2, dim=0)
        self.register_buffer("window", povey_window(config.frame_samples).to(dtype), persistent=False)
        self.register_buffer("mel_weights", mel_weights.to(dtype), persistent=False)
        self.register_buffer("dct", liftered_dct(config).to(dtype), persistent=False)

    @property
    def num_features(self) -> int:
        """Coefficients a frame, deltas included."""
        return self._num_static * (1 + self.config.num_deltas)

    @property
    def _num_static(self) -> int:
        return self.config.num_mel_bins if self.config.kind == "fbank" else self.config.num_ceps

    @torch.no_grad()
    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the features of a padded batch.

        Args:
            waveform: (batch, samples) in [-1, 1).
            lengths: (batch,) samples of each utterance.

        Returns:
            features (batch, frames, num_features), zero beyond each utterance's end, and frame_lengths (batch,).

        Raises:
            InputError: an utterance is too short for one frame, or longer than the waveform.
        """
        # Mixed precision must not reach the front end: half a float's digits cannot hold mel energies.
        with torch.autocast(waveform.device.type, enabled=False):
            frames, frame_lengths = frame_waveform(waveform.to(self.window.dtype), lengths, self.config)
            features = mask_padding(self._static_features(frames), frame_lengths)
            if self.config.num_deltas:
                features = compute_deltas(
                    features, frame_lengths, self.config.num_deltas, self.config.delta_window
                )
            if self.config.cmvn == "sliding":
                features = sliding_cmn(features, frame_lengths, self.config.cmn_window, self.config.norm_vars)
            elif self.config.cmvn == "utterance":
                features = utterance_cmvn(features, frame_lengths, self.config.norm_vars)
        return features, frame_lengths

    def _static_features(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (batch, frames, frame_samples) of 16-bit scale to features, a chunk at a time to bound memory."""
        num_rows, num = frames.shape[:2]
        chunk = _CPU_CHUNK if frames.device.type == "cpu" else _GPU_CHUNK
        rows_at_once = max(1, chunk // num)
        features = frames.new_empty(num_rows, num, self._num_static)
        for row in range(0, num_rows, rows_at_once):
            for first in range(0, num, chunk):
                part = slice(row, row + rows_at_once), slice(first, first + chunk)
                features[part] = self._transform(frames[part])
        return features

    def _transform(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (..., frame_samples) of 16-bit scale to log mel energies or cepstra (..., num)."""
        centred = frames - frames.mean(-1, keepdim=True)
        emphasised = centred.clone()
        # Kaldi scales the first sample as well; the Povey window, being 0 there, makes that void.
        emphasised[..., 1:].sub_(centred[..., :-1], alpha=self.config.preemphasis)
        spectrum = torch.fft.rfft(emphasised.mul_(self.window), n=self.config.fft_size)
        power = torch.view_as_real(spectrum).flatten(-2).square_()
        log_mel = (power @ self.mel_weights).clamp_(min=ENERGY_FLOOR).log_()
        if self.config.kind == "fbank":
            return log_mel
        cepstra = log_mel @ self.dct
        if self.config.use_energy:
            cepstra[..., 0] = frame_log_energy(frames)
        return cepstra


def frame_waveform(
    waveform: torch.Tensor, lengths: torch.Tensor, config: FeatureConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut waveforms into overlapping frames of 16-bit scale.

    Without `snip_edges`, frame t is centred on sample (t + ½) · shift, and an utterance is mirrored at its own two
    ends (…, x₁, x₀, x₀, x₁, …), as often as a frame needs it.

    Waveforms (batch, samples) in [-1, 1) and lengths (batch,) in samples give frames (batch, frames,
    frame_samples) and frame_lengths (batch,). Frames share memory, so do not write to them; those beyond an
    utterance's end hold anything.

    Raises:
        InputError: an utterance is too short for one frame, or longer than the waveform.
    """
    counts = lengths.tolist()
    for row, count in enumerate(counts):
        if count > waveform.shape[1]:
            raise InputError(
                f"utterance {row} of the batch has a length of {count} samples, "
                f"and the waveform only {waveform.shape[1]}"
            )
        check_length(count, config)
    frame_counts = [num_frames(count, config) for count in counts]
    num_needed = (max(frame_counts) - 1) * config.shift_samples + config.frame_samples
    waveform = waveform[:, : max(counts)]
    signal = waveform[:, :num_needed] if config.snip_edges else _mirror_ends(waveform, lengths, config)
    frames = (signal[:, :num_needed] * INTEGER_SCALE).unfold(1, config.frame_samples, config.shift_samples)
    return frames, torch.tensor(frame_counts, device=waveform.device)


def _mirror_ends(waveform: torch.Tensor, lengths: torch.Tensor, config: FeatureConfig) -> torch.Tensor:
    """(batch, before + samples + frame_samples): the waveforms, mirrored where their frames reach beyond them."""
    before = config.frame_samples // 2 - config.shift_samples // 2
    after = config.frame_samples
    mirrored = nn.functional.pad(waveform, (before, after))
    ends = lengths.to(waveform.device)[:, None]
    outside = torch.arange(-before, after, device=waveform.device).repeat(len(ends), 1)
    outside[:, before:] += ends
    phase = outside % (2 * ends)
    inside = torch.minimum(phase, 2 * ends - 1 - phase)
    return mirrored.scatter_(1, outside + before, waveform.gather(1, inside))


def frame_log_energy(frames: torch.Tensor) -> torch.Tensor:
    """Natural log of each frame's energy around its mean, before pre-emphasis and window: (…, n) to (…)."""
    return (frames.var(-1, correction=0) * frames.shape[-1]).clamp_(min=ENERGY_FLOOR).log_()


def povey_window(num_samples: int) -> torch.Tensor:
    """(num_samples,), float64: a Hann window to the power of 0.85, which is 0 at both ends."""
    return torch.hann_window(num_samples, periodic=False, dtype=torch.float64) ** 0.85


def mel_filterbank(config: FeatureConfig) -> torch.Tensor:
    """(fft_size / 2 + 1, num_mel_bins), float64: triangles in mel = 1127 ln(1 + f / 700) over the FFT's bins.

    Raises:
        InputError: a filter is so narrow that it holds no bin of the FFT.
    """
    edges = 1127 * torch.tensor([config.low_freq, config.high_freq], dtype=torch.float64).div(700).log1p()
    step = (edges[1] - edges[0]) / (config.num_mel_bins + 1)
    left = edges[0] + step * torch.arange(config.num_mel_bins)
    frequencies = (
        torch.arange(config.fft_size // 2 + 1, dtype=torch.float64) * config.sample_rate / config.fft_size
    )
    mel = 1127 * frequencies.div(700).log1p()[:, None]
    weights = torch.minimum(mel - left, left + 2 * step - mel).div(step).clamp(min=0)
    weights[-1] = 0  # Kaldi leaves the Nyquist bin out
    empty = (weights.amax(0) == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"num_mel_bins is {config.num_mel_bins}, and filter {empty[0] + 1} lies between two bins of the "
            f"{config.fft_size}-point FFT; expected fewer filters or a longer frame_length"
        )
    return weights


def liftered_dct(config: FeatureConfig) -> torch.Tensor:
    """(num_mel_bins, num_ceps), float64: the orthonormal DCT-II, its column i scaled by 1 + Q/2 · sin(πi / Q)."""
    order = torch.arange(config.num_ceps, dtype=torch.float64)
    centres = torch.arange(config.num_mel_bins, dtype=torch.float64)[:, None] + 0.5
    dct = math.sqrt(2 / config.num_mel_bins) * torch.cos(math.pi / config.num_mel_bins * centres * order)
    dct[:, 0] = math.sqrt(1 / config.num_mel_bins)
    if config.cepstral_lifter == 0:
        return dct
    return dct * (1 + config.cepstral_lifter / 2 * torch.sin(math.pi * order / config.cepstral_lifter))
