"""Recordings on disk to waveforms in memory, and what is wrong with a file when that fails.

Every format that libsndfile knows is read (WAV with PCM, mu-law or float samples, FLAC, NIST SPHERE, Ogg, …).
A recording must have one channel, and a rate no lower than the one asked for.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from spkadapt.errors import InputError, suggest

# Segment times are usually written in whole milliseconds, so an end may overshoot by that much and mean the end.
_ROUNDING_SECONDS = 0.001
_MOST_SAMPLES = 2**40


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Args:
        sample_rate: in Hz.
        num_samples: of its one channel, or of the stretch asked for.
    """

    sample_rate: int
    num_samples: int


def inspect_audio(path: str | Path, *, start: float = 0.0, duration: float | None = None) -> AudioInfo:
    """Read the header of `path`, or of `duration` seconds of it from `start`, without decoding its samples.

    Raises:
        InputError: the file is missing, empty, not audio, or has more than one channel; or the stretch asked for
            lies outside it.
    """
    path = Path(path)
    with _open_mono(path) as file:
        first, last = _sample_range(file, path, start, duration)
        return AudioInfo(file.samplerate, last - first)


def load_audio(
    path: str | Path, sample_rate: int, *, start: float = 0.0, duration: float | None = None
) -> torch.Tensor:
    """Read `path`, or `duration` seconds of it from `start`, and resample it down to `sample_rate`.

    Returns:
        waveform (samples,): float32 in [-1, 1), a 16-bit integer divided by 32768. Samples recorded as floats keep
        their scale, and resampling may overshoot full scale by a little.

    Raises:
        InputError: the file is missing, empty, truncated or not audio; it has several channels, NaN or infinite
            samples, or a rate below `sample_rate`; or the stretch asked for lies outside it.
    """
    path = Path(path)
    with _open_mono(path) as file:
        file_rate = file.samplerate
        _check_rate(file, path, sample_rate)
        first, last = _sample_range(file, path, start, duration)
        waveform = _decode(file, path, first, last)
    return waveform if file_rate == sample_rate else _downsample(waveform, file_rate, sample_rate)


def recode(waveform: np.ndarray, sample_rate: int, codec: str) -> np.ndarray:
    """Encode by one of libsndfile's codecs, such as `GSM610`, in memory, and decode again.

    Shape: `(samples,)`, full scale ±1 → `(samples,)`, float32.

    Raises:
        InputError: libsndfile has no such codec for WAV.
    """
    if not soundfile.check_format("WAV", codec):
        raise InputError(f'there is no codec "{codec}"; {suggest(codec, soundfile.available_subtypes("WAV"))}')
    encoded = io.BytesIO()
    soundfile.write(encoded, waveform, sample_rate, format="WAV", subtype=codec)
    encoded.seek(0)
    decoded, _ = soundfile.read(encoded, dtype="float32")
    # Codecs with frames fill up the last one.
    return decoded[: len(waveform)]


def check_audio(
    paths: Sequence[Path],
    sample_rate: int,
    *,
    num_threads: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> list[InputError]:
    """Decode every file wholly and return what is wrong, in the order of `paths`, at most one error a file.

    A path that occurs several times (segments of one recording) is decoded once.

    Args:
        paths: the files.
        sample_rate: the rate, in Hz, that they will be loaded at.
        num_threads: how many files to decode at the same time.
        on_progress: called after each file with the number of files done so far.
    """
    errors = []
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda path: _find_error(path, sample_rate), dict.fromkeys(paths))
        for num_done, error in enumerate(results, start=1):
            if error is not None:
                errors.append(error)
            if on_progress is not None:
                on_progress(num_done)
    return errors


def _find_error(path: Path, sample_rate: int) -> InputError | None:
    """What would keep `path` from being loaded whole at `sample_rate`."""
    try:
        with _open_mono(path) as file:
            _check_rate(file, path, sample_rate)
            _decode(file, path, 0, file.frames)
    except InputError as error:
        return error
    return None


@contextmanager
def _open_mono(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a recording whose header promises at least one sample of one channel."""
    if path.is_dir():
        raise InputError("is a folder; expected an audio file", path=path)
    if not path.exists():
        raise InputError("no such file", path=path)
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes); expected audio", path=path)
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a .raw file, which has no header
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else "no header"
        raise InputError(f"not readable as audio ({reason.strip(' .')})", path=path) from error
    with file:
        if file.channels != 1:
            raise InputError(f"has {file.channels} channels; expected 1 (mono)", path=path)
        if file.frames == 0:
            raise InputError("holds no samples", path=path)
        if file.frames > _MOST_SAMPLES:  # a FLAC that was written to a pipe
            raise InputError("its header does not say how many samples it holds; encode it anew", path=path)
        _check_wav_is_whole(file, path)
        yield file


def _check_wav_is_whole(file: soundfile.SoundFile, path: Path) -> None:
    """Reject a WAV cut short, which libsndfile would read as if it had ended there.

    libsndfile notes the mismatch only in its log. A program that writes WAV to a pipe cannot know the size and
    leaves a huge one (2 GiB or more); that is no damage.
    """
    mismatch = re.search(r"^data ?: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if mismatch is None:
        return
    promised, present = int(mismatch[1]), int(mismatch[2])
    if present < promised < 0x7FFF0000:
        raise InputError(
            f"truncated: the header promises {promised} bytes of samples, the file holds {present}", path=path
        )


def _check_rate(file: soundfile.SoundFile, path: Path, sample_rate: int) -> None:
    if file.samplerate < sample_rate:
        raise InputError(
            f"wrong rate: recorded at {file.samplerate} Hz, and {sample_rate} Hz was asked for; "
            "upsampling would not bring back the missing band",
            path=path,
        )


def _sample_range(file: soundfile.SoundFile, path: Path, start: float, duration: float | None) -> tuple[int, int]:
    """First sample and the one past the last, at the file's own rate."""
    rate, num_samples = file.samplerate, file.frames
    seconds = num_samples / rate
    if not 0 <= start < seconds:
        raise InputError(f"start is {start:g} s; expected from 0 to below the file's {seconds:g} s", path=path)
    first = round(start * rate)
    if duration is None:
        return first, num_samples
    if not start + duration <= seconds + _ROUNDING_SECONDS:
        raise InputError(
            f"{duration:g} s from {start:g} s end at {start + duration:g} s, beyond the file's {seconds:g} s",
            path=path,
        )
    last = min(round((start + duration) * rate), num_samples)
    if last <= first:
        raise InputError(f"duration is {duration:g} s; expected at least one sample", path=path)
    return first, last


def _decode(file: soundfile.SoundFile, path: Path, first: int, last: int) -> torch.Tensor:
    """Samples `first` to `last` (exclusive), every one of them there and finite."""
    try:
        file.seek(first)
        samples = file.read(last - first, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise InputError(f"truncated or damaged ({error.error_string.strip(' .')})", path=path) from error
    if len(samples) != last - first:
        raise InputError(f"truncated: expected {last - first} samples, found {len(samples)}", path=path)
    waveform = torch.from_numpy(samples)
    num_bad = int((~torch.isfinite(waveform)).sum())
    if num_bad:
        raise InputError(f"{num_bad} of {len(samples)} samples are NaN or infinite", path=path)
    return waveform


def _downsample(waveform: torch.Tensor, file_rate: int, sample_rate: int) -> torch.Tensor:
    """Band-limited resampling with a Kaiser window.

    Much longer than torchaudio's default, this filter is flat within 0.01 dB up to 0.925 of the new Nyquist
    frequency (3700 of 4000 Hz, where a telephone filterbank ends) and lets nothing above -90 dB fold back.
    """
    return resample(
        waveform,
        file_rate,
        sample_rate,
        lowpass_filter_width=80,
        rolloff=0.965,
        resampling_method="sinc_interp_kaiser",
        beta=9.0,
    )
