"""The features of a corpus, computed once and kept on disk.

A finished store is a folder with `frames.npy`, every utterance's frames one after another, and
`store.json`, whose frames are whose. The frames are memory-mapped, so a store may be larger than memory.
Extraction writes shards and goes on after the last whole shard when it is interrupted; `store.json` is
written last, so a folder without it is not a store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from spkadapt.audio import load_audio
from spkadapt.errors import InputError
from spkadapt.features import FeatureConfig, FeatureExtractor, check_length
from spkadapt.files import atomic_path, write_json
from spkadapt.manifest import Recording
from spkadapt.vad import VadConfig, energy_vad, log_energy

SHARD_SIZE = 512
BATCH_SIZE = 16

WaveformChange = Callable[[Recording, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Frames of many utterances.

    Attributes:
        name: the folder's name, by which the caller tells stores of other content apart.
        utterance_ids: in the order of the frames.
        offsets: int64 `(num_utterances + 1,)`; utterance i owns the frames `offsets[i]:offsets[i + 1]`.
        frames: float32 `(total_frames, num_features)`, memory-mapped.
    """

    name: str
    utterance_ids: tuple[str, ...]
    offsets: torch.Tensor
    frames: torch.Tensor

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Open a finished store."""
        index = json.loads((folder / "store.json").read_text())
        # Copy-on-write: torch warns of read-only arrays, and nothing here writes.
        frames = np.load(folder / "frames.npy", mmap_mode="c", allow_pickle=False)
        lengths = torch.tensor(index["lengths"])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return cls(folder.name, tuple(index["utterance_ids"]), offsets, torch.from_numpy(frames))

    @property
    def num_features(self) -> int:
        """The size of one frame."""
        return self.frames.shape[1]

    @property
    def lengths(self) -> torch.Tensor:
        """Frames of each utterance, int64 `(num_utterances,)`."""
        return self.offsets.diff()

    def rows(self, utterance_ids: Sequence[str]) -> torch.Tensor:
        """The positions of the given utterances within the store."""
        position = {name: row for row, name in enumerate(self.utterance_ids)}
        return torch.tensor([position[name] for name in utterance_ids], dtype=torch.int64)

    def utterance(self, row: int) -> torch.Tensor:
        """The frames of one utterance, `(frames, num_features)`."""
        return self.frames[int(self.offsets[row]) : int(self.offsets[row + 1])]


def extract_features(
    recordings: Sequence[Recording],
    folder: Path,
    features: FeatureConfig,
    vad: VadConfig | None = None,
    *,
    device: str = "cpu",
    change: WaveformChange | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> FeatureStore:
    """Compute the features of `recordings` into `folder`, or open them if they are already there.

    Args:
        recordings: utterances with unique ids and readable audio.
        folder: the store's folder; the caller names it after what determines the content.
        features: what to compute.
        vad: drop the frames that this finds unvoiced; an utterance with no voiced frame keeps all of its frames.
        device: where to compute.
        change: what becomes of each waveform before its features are computed, such as a simulated call.
        on_progress: called with the number of utterances done so far.

    Raises:
        InputError: no recordings, or one whose audio is bad or too short for one frame.
    """
    if (folder / "store.json").is_file():
        return FeatureStore.open(folder)
    if not recordings:
        raise InputError("there are no recordings to compute features of")
    extractor = FeatureExtractor(features).to(device)
    shards = [recordings[first : first + SHARD_SIZE] for first in range(0, len(recordings), SHARD_SIZE)]
    done = 0
    for number, shard in enumerate(shards):
        path = folder / f"shard-{number:05d}.npz"
        if not path.is_file():
            frames = _extract_shard(shard, extractor, features, vad, device, change)
            with atomic_path(path) as temporary:
                np.savez(temporary, frames=np.concatenate(frames), lengths=[len(rows) for rows in frames])
        done += len(shard)
        if on_progress is not None:
            on_progress(done)
    try:
        _merge_shards(folder, recordings, len(shards), {"features": asdict(features), "vad": vad and asdict(vad)})
    except FileNotFoundError:
        # Another process computed the same store, was first, and has cleared the shards away.
        if not (folder / "store.json").is_file():
            raise
        for number in range(len(shards)):
            (folder / f"shard-{number:05d}.npz").unlink(missing_ok=True)
    return FeatureStore.open(folder)


def _extract_shard(
    recordings: Sequence[Recording],
    extractor: FeatureExtractor,
    features: FeatureConfig,
    vad: VadConfig | None,
    device: str,
    change: WaveformChange | None,
) -> list[np.ndarray]:
    """The frames of each recording, in order; batches are of similar length so that little is padded."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waveforms = list(pool.map(lambda item: _load(item, features, change), recordings))
    order = sorted(range(len(recordings)), key=lambda row: len(waveforms[row]))
    frames: list[np.ndarray] = [np.empty(0)] * len(recordings)
    for first in range(0, len(order), BATCH_SIZE):
        rows = order[first : first + BATCH_SIZE]
        batch = [waveforms[row] for row in rows]
        for row, kept in zip(rows, _extract_batch(batch, extractor, features, vad, device), strict=True):
            frames[row] = kept
    return frames


def _load(recording: Recording, features: FeatureConfig, change: WaveformChange | None) -> torch.Tensor:
    start, duration = (0.0, None) if recording.start is None else (recording.start, recording.duration)
    waveform = load_audio(recording.path, features.sample_rate, start=start, duration=duration)
    if change is not None:
        waveform = change(recording, waveform)
    try:
        check_length(len(waveform), features)
    except InputError as error:
        raise InputError(str(error), path=recording.path) from None
    return waveform


def _extract_batch(
    waveforms: Sequence[torch.Tensor],
    extractor: FeatureExtractor,
    features: FeatureConfig,
    vad: VadConfig | None,
    device: str,
) -> list[np.ndarray]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=device)
    padded = pad_sequence(list(waveforms), batch_first=True).to(device)
    frames, num_frames = extractor(padded, lengths)
    keep = torch.arange(frames.shape[1], device=device) < num_frames[:, None]
    if vad is not None:
        voiced = energy_vad(log_energy(padded, lengths, features), num_frames, vad)
        keep &= voiced | ~voiced.any(dim=1, keepdim=True)
    return [rows[kept].cpu().numpy() for rows, kept in zip(frames, keep, strict=True)]


def _merge_shards(
    folder: Path, recordings: Sequence[Recording], num_shards: int, made_with: dict[str, Any]
) -> None:
    paths = [folder / f"shard-{number:05d}.npz" for number in range(num_shards)]
    lengths: list[int] = []
    for path in paths:
        with np.load(path, allow_pickle=False) as shard:
            lengths += shard["lengths"].tolist()
            num_features = shard["frames"].shape[1]
    with atomic_path(folder / "frames.npy") as temporary:
        merged = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(sum(lengths), num_features)
        )
        first = 0
        for path in paths:
            with np.load(path, allow_pickle=False) as shard:
                frames = shard["frames"]
            merged[first : first + len(frames)] = frames
            first += len(frames)
        merged.flush()
        del merged
    index = {"utterance_ids": [item.utterance_id for item in recordings], "lengths": lengths, **made_with}
    write_json(folder / "store.json", index)
    for path in paths:
        path.unlink(missing_ok=True)
