"""What the training loop sees: crops balanced over speakers, crops of the target domain, spliced frames.

Every batch is a function of (seed, step) alone: no sampler has a state, so a run that is killed at step n
goes on at step n with the very batches it would have seen, and asking for a batch of the target domain
never shifts what is drawn from the source domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.manifest import Manifest, UnlabelledPool

SOURCE_STREAM, TARGET_DOMAIN_STREAM = 0, 1


def step_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """A generator of its own for each (seed, stream, step), well mixed by NumPy's SeedSequence."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


@dataclass(frozen=True, eq=False)
class SourceBatch:
    """Labelled crops.

    Attributes:
        features: `(batch, num_frames, num_features)`.
        speakers: `(batch,)`, numbers in the order of `SourceBatches.speaker_ids`.
        domains: `(batch,)`, numbers of the recording conditions; all zero where none is known.
    """

    features: torch.Tensor
    speakers: torch.Tensor
    domains: torch.Tensor

    def to(self, device: str | torch.device) -> SourceBatch:
        """The same on another device."""
        return SourceBatch(self.features.to(device), self.speakers.to(device), self.domains.to(device))


@dataclass(frozen=True, eq=False)
class TargetDomainBatch:
    """Unlabelled crops, two by two of one recording session.

    Attributes:
        features: `(batch, num_frames, num_features)`.
        recordings: `(batch,)`, numbers of the sessions; crops of one share a speaker.
    """

    features: torch.Tensor
    recordings: torch.Tensor

    def to(self, device: str | torch.device) -> TargetDomainBatch:
        """The same on another device."""
        return TargetDomainBatch(self.features.to(device), self.recordings.to(device))


class _Crops:
    """Random crops of the utterances of groups.

    Args:
        voices: for each voice that the utterances are to be had in, as they were recorded first, the features;
            where there are several, they are of the same utterances through other channels, and each crop is of
            any of them alike.
        utterance_ids: of the utterances.
        groups: the number of each one's group; those of another voice are groups of their own, numbered on.
        num_frames: frames a crop.
    """

    def __init__(
        self,
        voices: Sequence[Sequence[FeatureStore]],
        utterance_ids: Sequence[str],
        groups: np.ndarray,
        num_frames: int,
    ) -> None:
        self._num_frames, self._num_utterances = num_frames, len(utterance_ids)
        self._versions = [[(store, store.rows(utterance_ids)) for store in stores] for stores in voices]
        self.groups = np.concatenate([groups + voice * (groups.max() + 1) for voice in range(len(voices))])
        self._members = [np.flatnonzero(self.groups == number) for number in range(int(self.groups.max()) + 1)]

    def draw(
        self, num_groups: int, num_each: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops and their places, utterances of one voice after another.

        All groups come once before any comes twice.

        Shape: `(num_groups * num_each, num_frames, num_features)`, `(num_groups * num_each,)`, a group's in a row.
        """
        rounds = -(-num_groups // len(self._members))
        order = [torch.randperm(len(self._members), generator=generator) for _ in range(rounds)]
        groups = torch.cat(order)[:num_groups].repeat_interleave(num_each)
        draws = torch.rand(len(groups), generator=generator, dtype=torch.float64).tolist()
        chosen = [self._members[group] for group in groups.tolist()]
        places = torch.tensor([int(own[int(draw * len(own))]) for own, draw in zip(chosen, draws, strict=True)])
        version = torch.rand(len(places), generator=generator, dtype=torch.float64)
        starts = torch.rand(len(places), generator=generator, dtype=torch.float64)
        first, _ = self._versions[0][0]
        crops = first.frames.new_empty(len(places), self._num_frames, first.num_features)
        for voice, versions in enumerate(self._versions):
            for number, (store, rows) in enumerate(versions):
                mine = (places // self._num_utterances == voice) & ((version * len(versions)).long() == number)
                of_mine = rows[places[mine] % self._num_utterances]
                crops[mine] = cut_frames(store, of_mine, self._num_frames, starts[mine])
        return crops, places

    def middles(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The middle of every utterance in every voice, as it was recorded, and their places, batch by batch."""
        for voice, versions in enumerate(self._versions):
            store, rows = versions[0]
            for some in torch.arange(len(rows)).split(batch_size):
                middle = torch.full((len(some),), 0.5, dtype=torch.float64)
                crops = cut_frames(store, rows[some], self._num_frames, middle)
                yield crops, some + voice * self._num_utterances


def cut_frames(store: FeatureStore, rows: torch.Tensor, num_frames: int, starts: torch.Tensor) -> torch.Tensor:
    """A crop of each utterance; one shorter than the crop is repeated from its start.

    Args:
        starts: where each crop begins, from 0, as early as can be, to below 1.

    Shape: rows and starts `(batch,)` → `(batch, num_frames, num_features)`.
    """
    lengths = store.lengths[rows]
    room = (lengths - num_frames).clamp_min(0) + 1
    within = ((starts * room).long()[:, None] + torch.arange(num_frames)) % lengths[:, None]
    return store.frames[store.offsets[rows][:, None] + within]


class SourceBatches:
    """Labelled crops of the source domain, balanced over speakers.

    Each batch has `batch_size` crops. Speakers are drawn without replacement (all of them once before any
    comes twice), and of each `crops_per_speaker` crops of any of its utterances.

    Args:
        stores: the features, and those of the same utterances through simulated channels, if any.
        manifest: labelled utterances, all of them in each store.
        batch_size: crops a batch.
        num_frames: frames a crop.
        seed: decides all draws.
        crops_per_speaker: more than one where a term looks at how the crops of one speaker differ.

    Raises:
        InputError: fewer than two speakers.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        manifest: Manifest,
        *,
        batch_size: int,
        num_frames: int,
        seed: int,
        crops_per_speaker: int = 1,
    ) -> None:
        ids, numbers = np.unique(manifest.speakers(), return_inverse=True)
        self.speaker_ids = tuple(ids.tolist())
        if len(self.speaker_ids) < 2:
            raise InputError(f"the source domain has {len(self.speaker_ids)} speakers; training needs at least 2")
        domains = np.unique([item.domain or "" for item in manifest], return_inverse=True)[1]
        self._speakers, self._domains = torch.from_numpy(numbers), torch.from_numpy(domains)
        self._crops = _Crops([stores], [item.utterance_id for item in manifest], numbers, num_frames)
        self._num_speakers, self._num_each, self._seed = batch_size // crops_per_speaker, crops_per_speaker, seed

    def batch(self, step: int) -> SourceBatch:
        """The crops of this step."""
        generator = step_generator(self._seed, SOURCE_STREAM, step)
        features, places = self._crops.draw(self._num_speakers, self._num_each, generator)
        return SourceBatch(features, self._speakers[places], self._domains[places])

    def whole(self) -> Iterator[SourceBatch]:
        """The middle of every utterance, as it was recorded, in batches that never change."""
        for features, places in self._crops.middles(self._num_speakers * self._num_each):
            yield SourceBatch(features, self._speakers[places], self._domains[places])


class TargetDomainBatches:
    """Unlabelled crops of the target domain: recording sessions balanced, two crops of each.

    Where nothing is known of an utterance's session, it is one of its own. The two crops are of any of the
    session's utterances, in `batch_size // 2` sessions a batch.

    Args:
        voices: the features of the pool as it was recorded and, where there are more, at other speeds: other
            voices, whose sessions are sessions of their own. Each is a list of stores as for `SourceBatches`.
        pool: the recordings, all of them in each store.
        batch_size, num_frames, seed: as for `SourceBatches`.
    """

    def __init__(
        self,
        voices: Sequence[Sequence[FeatureStore]],
        pool: UnlabelledPool,
        *,
        batch_size: int,
        num_frames: int,
        seed: int,
    ) -> None:
        ids = [item.utterance_id for item in pool.recordings]
        self._crops = _Crops(voices, ids, number_recordings(pool), num_frames)
        self._recordings = torch.from_numpy(self._crops.groups)
        self.num_recordings = int(self._recordings.max()) + 1
        self._batch_size, self._seed = batch_size, seed

    def batch(self, step: int) -> TargetDomainBatch:
        """The crops of this step."""
        generator = step_generator(self._seed, TARGET_DOMAIN_STREAM, step)
        features, places = self._crops.draw(max(1, self._batch_size // 2), 2, generator)
        return TargetDomainBatch(features, self._recordings[places])

    def whole_pool(self) -> Iterator[TargetDomainBatch]:
        """The middle of every utterance in every voice, as it was recorded, in batches that never change."""
        for features, places in self._crops.middles(self._batch_size):
            yield TargetDomainBatch(features, self._recordings[places])


def number_recordings(pool: UnlabelledPool) -> np.ndarray:
    """The number of each recording's session; one whose session is unknown is a session of its own."""
    names = [(item.session_id is not None, item.session_id or item.utterance_id) for item in pool.recordings]
    index = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([index[name] for name in names])


class SplicedFrames:
    """Standardised frames with their context, made as they are asked for: what pretraining reads.

    Args:
        store: the features.
        rows: the utterances to draw from.
        left_context, right_context: frames spliced on; an utterance's edge frames are repeated beyond its ends.
        mean, std: `(num_features,)`, subtracted from and divided into every frame.
        device: where the spliced frames are wanted.
    """

    def __init__(
        self,
        store: FeatureStore,
        rows: torch.Tensor,
        *,
        left_context: int,
        right_context: int,
        mean: torch.Tensor,
        std: torch.Tensor,
        device: str = "cpu",
    ) -> None:
        lengths = store.lengths[rows]
        ends = lengths.cumsum(0)
        self._first = store.offsets[rows].repeat_interleave(lengths)
        self._last = (store.offsets[rows + 1] - 1).repeat_interleave(lengths)
        self._position = self._first + torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)
        self._context = torch.arange(-left_context, right_context + 1)
        self._frames, self._mean, self._std, self._device = store.frames, mean, std, device
        self.dim = store.num_features * len(self._context)

    def __len__(self) -> int:
        return len(self._position)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """The spliced frames `(batch, dim)` at the given places among all frames of `rows`."""
        first, last = self._first[indices, None], self._last[indices, None]
        places = torch.clamp(self._position[indices, None] + self._context, first, last)
        return ((self._frames[places] - self._mean) / self._std).flatten(start_dim=1).to(self._device)


def frame_statistics(store: FeatureStore, rows: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over all frames of the given utterances, each float32 `(num_features,)`.

    Sums run in float64, one utterance at a time, so that the store need not fit in memory. A constant feature
    gets a standard deviation of one.
    """
    total = torch.zeros(store.num_features, dtype=torch.float64)
    squares = torch.zeros_like(total)
    count = 0
    for row in rows:
        frames = store.utterance(int(row)).double()
        total += frames.sum(dim=0)
        squares += frames.square().sum(dim=0)
        count += len(frames)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    std = torch.where(variance > 1e-10, variance.sqrt(), torch.ones_like(variance))
    return mean.float(), std.float()
