"""Real speech over simulated telephone calls, embedded by Resemblyzer: shifts of real embeddings, truth known.

    python recipes/selection_study/telephone.py --weights pretrained.pt [--shared FOLDER] [--out FILE]

`pretrained.pt` is in the wheel of resemblyzer 0.1.4 (`pip download --no-deps resemblyzer==0.1.4`), of which
nothing else is needed. Speakers of speechocean762 call twice, four utterances a call; all utterances of a call go
through one handset, band and level of noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio
from scipy import signal
from torch import nn

from spkadapt.audio import load_audio
from spkadapt.files import atomic_path
from spkadapt.manifest import Utterance, load_manifest
from spkadapt.simulate.channel import Handset, add_noise, mulaw, telephone_band

LINES = ("quiet", "handsets", "noisy", "three phones")
"""What the calls of a shift go through: see `transmit`."""
NUM_CALLERS, CALLS, UTTERANCES, NUM_SOURCE_UTTERANCES = 90, 2, 4, 5
SECONDS, RATE = 3.5, 8000
_WINDOW, _HOP = 160, 77  # frames of 10 ms: 1.6 s, 1.3 a second, as in Resemblyzer


class Resemblyzer(nn.Module):
    """The GE2E network of Wan et al. (2018) as Resemblyzer trained it: three LSTMs, the last state, a ReLU."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity")})
        self.mel = torchaudio.transforms.MelSpectrogram(
            16000, n_fft=400, hop_length=160, n_mels=40, norm="slaney", mel_scale="slaney", pad_mode="constant"
        )

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Waveforms `(samples,)` at 16 kHz → embeddings `(num_waveforms, 256)`, means over windows of 1.6 s."""
        windows = [self._windows(waveform) for waveform in waveforms]
        states = torch.relu(self.linear(self.lstm(torch.cat(windows))[1][0][-1]))
        parts = (states / states.norm(dim=1, keepdim=True)).split([len(part) for part in windows])
        means = torch.stack([part.mean(dim=0) for part in parts])
        return (means / means.norm(dim=1, keepdim=True)).numpy()

    def _windows(self, waveform: np.ndarray) -> torch.Tensor:
        waveform = _trim(waveform)
        level = 10 * np.log10(np.mean(waveform**2) + 1e-12)
        waveform = waveform * 10 ** (max(0.0, -30 - level) / 20)
        frames = self.mel(torch.from_numpy(waveform.astype(np.float32))).T
        frames = torch.cat([frames, frames.new_zeros(max(0, _WINDOW - len(frames)), 40)])
        return frames.unfold(0, _WINDOW, _HOP).transpose(1, 2)


def _trim(waveform: np.ndarray) -> np.ndarray:
    """The waveform from its first to its last stretch of 30 ms that is within 30 dB of the loudest."""
    power = (waveform[: len(waveform) // 480 * 480].reshape(-1, 480) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > 1e-3 * power.max())
    return waveform[480 * loud[0] : 480 * (loud[-1] + 1)]


def transmit(waveform: np.ndarray, line: str, call: int) -> np.ndarray:
    """An utterance `(samples,)` at 8 kHz as it is heard in a call; what is drawn depends on the call alone."""
    random = np.random.default_rng(call)
    phone = random.integers(3)
    handset, snr = Handset.sample(random), random.uniform(25, 40)
    low, high = 300.0, 3400.0
    if line == "quiet":
        handset = Handset(0.3 * handset.tilt, handset.resonance, 0.3 * handset.gain, handset.width)
    if line == "noisy":
        snr = random.uniform(3, 18)
    if line == "three phones":
        # One colour, band and noise to each kind of phone, and a little of its own to each call.
        kind = Handset.sample(np.random.default_rng(int(phone)))
        waveform = kind.apply(waveform, RATE)
        handset = Handset(0.3 * handset.tilt, handset.resonance, 0.3 * handset.gain, handset.width)
        low, high, snr = 200.0 + 150 * phone, 3500.0 - 350 * phone, snr - 10.0 * phone
    heard = add_noise(waveform, snr, random, random.uniform(0, 1.5))
    heard = telephone_band(handset.apply(heard, RATE), RATE, low, high)
    return mulaw(heard * (0.3 / np.abs(heard).max()))


def group_by_speaker(items: Iterable[Utterance]) -> list[list[Utterance]]:
    """The utterances of each speaker, speakers in the order of their names."""
    by_speaker: dict[str, list[Utterance]] = {}
    for item in items:
        by_speaker.setdefault(str(item.speaker_id), []).append(item)
    return [by_speaker[name] for name in sorted(by_speaker)]


def embed_source(model: Resemblyzer, speakers: Sequence[Sequence[Utterance]]) -> dict[str, np.ndarray]:
    """Each speaker's first `NUM_SOURCE_UTTERANCES` as they were recorded."""
    chosen = [utterances[:NUM_SOURCE_UTTERANCES] for utterances in speakers]
    rows = [model.embed([_load(item, 16000) for item in utterances]) for utterances in chosen]
    names = [str(item.speaker_id) for utterances in chosen for item in utterances]
    return {"source": np.concatenate(rows), "source_speakers": np.array(names)}


def embed_calls(model: Resemblyzer, callers: Sequence[Sequence[Utterance]]) -> dict[str, np.ndarray]:
    """One array of embeddings for each of `LINES`, with the speaker and the call of each row."""
    rows: dict[str, list[np.ndarray]] = {line: [] for line in LINES}
    speakers, calls = [], []
    for caller, utterances in enumerate(callers):
        utterances = utterances[: CALLS * UTTERANCES]
        clean = [_load(item, RATE) for item in utterances]
        of_caller = [CALLS * caller + place // UTTERANCES for place in range(len(utterances))]
        for line in LINES:
            heard = [transmit(waveform, line, call) for waveform, call in zip(clean, of_caller, strict=True)]
            rows[line].append(model.embed([signal.resample_poly(waveform, 2, 1) for waveform in heard]))
        speakers += [str(item.speaker_id) for item in utterances]
        calls += of_caller
    embeddings = {line: np.concatenate(parts) for line, parts in rows.items()}
    return {**embeddings, "speakers": np.array(speakers), "calls": np.array(calls)}


def _load(item: Utterance, rate: int) -> np.ndarray:
    return load_audio(item.path, rate).numpy()[: int(SECONDS * rate)]


def main() -> None:
    """Write the source's embeddings and those of the calls to one npz file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("runs/selection_study/telephone.npz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = Resemblyzer(arguments.weights).eval()
    speakers = group_by_speaker(load_manifest(arguments.shared / "corpora/speechocean762/manifest.csv"))
    arrays = embed_source(model, speakers[:-NUM_CALLERS]) | embed_calls(model, speakers[-NUM_CALLERS:])
    with atomic_path(arguments.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
