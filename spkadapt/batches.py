"""What the training loop sees: crops balanced over speakers, crops of the target domain, spliced frames.

Every batch is a function of (seed, step) alone: no sampler has a state, so a run that is killed at step n
goes on at step n with the very batches it would have seen, and asking for a batch of the target domain
never shifts what is drawn from the source domain.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def crop_frames(
    store: FeatureStore, rows: torch.Tensor, num_frames: int, generator: torch.Generator
) -> torch.Tensor:
    """A random crop of each utterance; one shorter than the crop is repeated from its start.

    Shape: rows `(batch,)` → `(batch, num_frames, num_features)`.
    """
    lengths = store.lengths[rows]
    room = (lengths - num_frames).clamp_min(0) + 1
    starts = (torch.rand(len(rows), generator=generator, dtype=torch.float64) * room).long()
    within = (starts[:, None] + torch.arange(num_frames)) % lengths[:, None]
    return store.frames[store.offsets[rows][:, None] + within]


class SourceBatches:
    """Labelled crops of the source domain, balanced over speakers.

    Each batch has `batch_size` crops. Speakers are drawn without replacement (all of them once before any
    comes twice), and one utterance of each uniformly.

    Args:
        store: the features.
        manifest: labelled utterances, all of them in the store.
        batch_size: crops a batch.
        num_frames: frames a crop.
        seed: decides all draws.

    Raises:
        InputError: fewer than two speakers.
    """

    def __init__(
        self, store: FeatureStore, manifest: Manifest, *, batch_size: int, num_frames: int, seed: int
    ) -> None:
        speakers = manifest.speakers()
        self.speaker_ids = tuple(sorted(set(speakers)))
        if len(self.speaker_ids) < 2:
            raise InputError(f"the source domain has {len(self.speaker_ids)} speakers; training needs at least 2")
        rows = store.rows([item.utterance_id for item in manifest])
        index = {speaker: number for number, speaker in enumerate(self.speaker_ids)}
        numbers = torch.tensor([index[speaker] for speaker in speakers])
        self._rows_of = [rows[numbers == number] for number in range(len(self.speaker_ids))]
        self._store, self._batch_size, self._num_frames, self._seed = store, batch_size, num_frames, seed

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(batch, num_frames, num_features)` and speaker numbers `(batch,)` of this step."""
        generator = step_generator(self._seed, SOURCE_STREAM, step)
        num_speakers = len(self._rows_of)
        rounds = -(-self._batch_size // num_speakers)
        shuffled = [torch.randperm(num_speakers, generator=generator) for _ in range(rounds)]
        speakers = torch.cat(shuffled)[: self._batch_size]
        draws = torch.rand(len(speakers), generator=generator, dtype=torch.float64)
        chosen = [self._rows_of[speaker] for speaker in speakers.tolist()]
        rows = torch.stack(
            [rows[int(draw * len(rows))] for rows, draw in zip(chosen, draws.tolist(), strict=True)]
        )
        return crop_frames(self._store, rows, self._num_frames, generator), speakers


class TargetDomainBatches:
    """Unlabelled crops of the target domain, utterances drawn uniformly without replacement.

    Raises:
        InputError: the pool has fewer utterances than a batch.
    """

    def __init__(
        self, store: FeatureStore, pool: UnlabelledPool, *, batch_size: int, num_frames: int, seed: int
    ) -> None:
        if len(pool) < batch_size:
            raise InputError(
                f"the target-domain pool has {len(pool)} utterances, fewer than a batch of {batch_size}; "
                "give more recordings or lower train.batch_size"
            )
        self._rows = store.rows([item.utterance_id for item in pool.recordings])
        self._store, self._batch_size, self._num_frames, self._seed = store, batch_size, num_frames, seed

    def batch(self, step: int) -> torch.Tensor:
        """Features `(batch, num_frames, num_features)` of this step."""
        generator = step_generator(self._seed, TARGET_DOMAIN_STREAM, step)
        chosen = torch.randperm(len(self._rows), generator=generator)[: self._batch_size]
        return crop_frames(self._store, self._rows[chosen], self._num_frames, generator)


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
