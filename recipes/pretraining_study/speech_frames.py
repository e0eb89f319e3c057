"""The frames of the study: speechocean762 through the package's own front end, as many of each utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spkadapt.batches import SplicedFrames, frame_statistics
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.features import FeatureConfig
from spkadapt.manifest import Manifest, load_manifest
from spkadapt.pipeline.corpus import prepare_features
from spkadapt.progress import Progress
from spkadapt.vad import VadConfig

# The front end of recipes/phone, and the context of Hinton et al. (2012).
FEATURES = FeatureConfig(low_freq=100, high_freq=3700, cmvn="sliding")
CONTEXT = 5
NUM_POOL, NUM_TEST = 6, 2


@dataclass(frozen=True, eq=False)
class StudyFrames:
    """Spliced, standardised frames; a speaker's number is its class.

    Attributes:
        pool: (num_speakers, NUM_POOL, frames, dim): what is pretrained on, and labelled as far as the budget goes.
        test: (num_speakers, NUM_TEST, frames, dim): what accuracy is measured on, and nothing else.
        context: frames in one spliced frame, which `dim` is a multiple of.
    """

    pool: Tensor
    test: Tensor
    context: int

    @property
    def num_speakers(self) -> int:
        """How many classes there are."""
        return len(self.pool)

    def unlabelled(self) -> Tensor:
        """All frames of the pool, (n, dim)."""
        return self.pool.flatten(0, 2)

    def labelled(self, budget: int, seed: int) -> tuple[Tensor, Tensor]:
        """Frames (n, dim) and classes (n,) of `budget` utterances a speaker.

        Which ones is drawn for each speaker by the seed; those of a small budget are among those of a larger one.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(self.pool.shape[:2], generator=generator).argsort(dim=1)[:, :budget]
        chosen = self.pool[torch.arange(self.num_speakers)[:, None], drawn]
        return chosen.flatten(0, 2), _classes(chosen)

    def tested(self) -> tuple[Tensor, Tensor]:
        """Frames (n, dim) and classes (n,) of the test utterances, those of an utterance side by side."""
        return self.test.flatten(0, 2), _classes(self.test)


def _classes(frames: Tensor) -> Tensor:
    return torch.arange(len(frames)).repeat_interleave(frames[0, :, :, 0].numel())


def load_speech_frames(
    corpus: Path, cache: Path, progress: Progress, *, frames_per_utterance: int, num_speakers: int | None = None
) -> StudyFrames:
    """The frames of speechocean762: of a speaker's eight utterances, the last two in the manifest are the test.

    Frames without speech are dropped (energy VAD); of the others, evenly spaced ones are kept. The mean and
    standard deviation of a feature are those of the pool.

    Args:
        corpus: the folder with manifest.csv.
        cache: where features are kept.
        progress: where to show how far it has come.
        frames_per_utterance: kept of each; of an utterance with fewer, some come twice.
        num_speakers: the first so many; None for all.

    Raises:
        InputError: bad audio, or a speaker with another number of utterances.
    """
    manifest = load_manifest(corpus / "manifest.csv")
    store, _ = prepare_features(
        list(manifest), FEATURES, VadConfig(), cache, progress, skip_bad=False, device="cpu"
    )
    rows = _rows_of_speakers(manifest, store, corpus)[:num_speakers]
    mean, std = frame_statistics(store, rows[:, :NUM_POOL].flatten())

    def take(part: Tensor) -> Tensor:
        source = SplicedFrames(
            store, part.flatten(), left_context=CONTEXT, right_context=CONTEXT, mean=mean, std=std
        )
        frames = source.take(_evenly_spaced(store.lengths[part.flatten()], frames_per_utterance))
        return frames.view(*part.shape, frames_per_utterance, source.dim)

    return StudyFrames(take(rows[:, :NUM_POOL]), take(rows[:, NUM_POOL:]), 2 * CONTEXT + 1)


def _rows_of_speakers(manifest: Manifest, store: FeatureStore, corpus: Path) -> Tensor:
    """(num_speakers, utterances): where in the store each speaker's utterances are, in the manifest's order."""
    utterances: dict[str, list[str]] = {}
    for item, speaker in zip(manifest, manifest.speakers(), strict=True):
        utterances.setdefault(speaker, []).append(item.utterance_id)
    for speaker, ids in utterances.items():
        if len(ids) != NUM_POOL + NUM_TEST:
            raise InputError(
                f"speaker {speaker} has {len(ids)} utterances; expected {NUM_POOL} + {NUM_TEST}",
                path=corpus / "manifest.csv",
            )
    return torch.stack([store.rows(ids) for ids in utterances.values()])


def _evenly_spaced(lengths: Tensor, num: int) -> Tensor:
    """(utterances · num,): places among all frames of all utterances, `num` in each, the ends left out alike."""
    within = ((torch.arange(num) + 0.5) / num * lengths[:, None]).long()
    return (within + (lengths.cumsum(0) - lengths)[:, None]).flatten()


def synthetic_frames(
    num_speakers: int, frames_per_utterance: int, num_features: int, context: int, seed: int
) -> StudyFrames:
    """Speakers that differ in the mean of a few hidden causes, for tests of the study itself."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mixing, voices = normal(4, num_features * context) / 2, normal(num_speakers, 1, 1, 4)
    parts: Sequence[Tensor] = [
        (voices + normal(num_speakers, num, frames_per_utterance, 4)) @ mixing
        + normal(num_speakers, num, frames_per_utterance, num_features * context) / 4
        for num in (NUM_POOL, NUM_TEST)
    ]
    return StudyFrames(parts[0], parts[1], context)
