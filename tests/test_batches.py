"""Batches: functions of (seed, step) and nothing else, balanced, and never across the end of an utterance."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.batches import (
    SOURCE_STREAM,
    TARGET_DOMAIN_STREAM,
    SourceBatches,
    SplicedFrames,
    TargetDomainBatches,
    cut_frames,
    frame_statistics,
    number_recordings,
    step_generator,
)
from spkadapt.errors import InputError
from spkadapt.feature_store import FeatureStore
from spkadapt.frames import splice_frames
from spkadapt.manifest import Manifest, Recording, UnlabelledPool, Utterance
from spkadapt.pretrain import FrameSource
from spkadapt.train import MODEL_STREAM

PROPERTY = settings(max_examples=60, deadline=None)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def make_store(lengths: list[int]) -> FeatureStore:
    """Frames that say where they come from: (utterance, place within it)."""
    frames = [[row, place] for row, length in enumerate(lengths) for place in range(length)]
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    names = tuple(f"utt{row}" for row in range(len(lengths)))
    return FeatureStore("store", names, offsets, torch.tensor(frames, dtype=torch.float32))


def make_manifest(speakers: list[str | None]) -> Manifest:
    """One utterance each; they stand in the store in the opposite order."""
    last = len(speakers) - 1
    return Manifest(
        tuple(Utterance(f"utt{last - row}", Path("a"), speaker_id=name) for row, name in enumerate(speakers))
    )


SPEAKERS = ["s3", "s1", "s1", "s2", "s3", "s1", "s1", "s2"]
STORE = make_store([9, 30, 12, 25, 3, 18, 40, 7])
MANIFEST = make_manifest(list(SPEAKERS))


def source_batches(seed: int = 0, batch_size: int = 7) -> SourceBatches:
    return SourceBatches([STORE], MANIFEST, batch_size=batch_size, num_frames=10, seed=seed)


def target_domain_batches(seed: int = 0, batch_size: int = 6) -> TargetDomainBatches:
    return TargetDomainBatches([[STORE]], MANIFEST.unlabelled(), batch_size=batch_size, num_frames=10, seed=seed)


# What decides a batch -----------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    once, again = source_batches(), source_batches()
    pool, pool_again = target_domain_batches(), target_domain_batches()
    expected = [(once.batch(step), pool.batch(step)) for step in range(6)]
    torch.manual_seed(99)  # global state plays no part, and neither does what was asked for before
    for step in (4, 0, 5):
        labelled, unlabelled = expected[step]
        for batch, known in ((again.batch(step), labelled), (pool_again.batch(step), unlabelled)):
            assert vars(batch).keys() == vars(known).keys()
            assert all(torch.equal(getattr(batch, name), value) for name, value in vars(known).items())


def test_drawing_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    source_batches().batch(0)
    target_domain_batches().batch(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_seeds_and_streams_all_differ() -> None:
    """Every (seed, stream, step) starts a generator of its own, neighbours included."""
    draws = {
        tuple(torch.randint(2**40, (2,), generator=step_generator(seed, stream, step)).tolist())
        for seed in range(10)
        for stream in range(3)
        for step in range(50)
    }
    assert len(draws) == 10 * 3 * 50
    assert len({SOURCE_STREAM, TARGET_DOMAIN_STREAM, MODEL_STREAM}) == 3
    for batches in (
        [source_batches(seed).batch(step).features for seed in (0, 1) for step in (0, 1)],
        [target_domain_batches(seed).batch(step).features for seed in (0, 1) for step in (0, 1)],
    ):
        assert not any(torch.equal(one, other) for one, other in itertools.combinations(batches, 2))


# Balance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 7, 12])
def test_speakers_are_balanced_exactly(batch_size: int) -> None:
    batches = source_batches(batch_size=batch_size)
    assert batches.speaker_ids == ("s1", "s2", "s3")
    for step in range(20):
        batch = batches.batch(step)
        assert batch.features.shape == (batch_size, 10, 2)
        counts = Counter(batch.speakers.tolist())
        assert {counts[number] for number in range(3)} <= {batch_size // 3, -(-batch_size // 3)}


def test_crops_are_of_the_speaker_they_are_labelled_with() -> None:
    speaker_of = {item.utterance_id: item.speaker_id for item in MANIFEST}
    batches = source_batches()
    seen: Counter[str] = Counter()
    for step in range(200):
        batch = batches.batch(step)
        for crop, number in zip(batch.features, batch.speakers.tolist(), strict=True):
            name = f"utt{int(crop[0, 0])}"
            assert speaker_of[name] == batches.speaker_ids[number]
            seen[name] += 1
    # Of the 1,400 draws a third is of each speaker, and each of a speaker's utterances is as likely as another.
    for name, speaker in speaker_of.items():
        expected = 1400 / 3 / SPEAKERS.count(str(speaker))
        assert abs(seen[name] - expected) < 5 * expected**0.5


def make_pool(sessions: list[str | None]) -> UnlabelledPool:
    """One recording each, in the order of the store."""
    items = (Recording(f"utt{row}", Path("a"), session_id=name) for row, name in enumerate(sessions))
    return UnlabelledPool(tuple(items))


CALLS = ["c2", "c1", None, "c1", "c2", "c1", "c1", None]


def test_the_pool_is_drawn_two_crops_a_call_and_calls_evenly() -> None:
    batches = TargetDomainBatches([[STORE]], make_pool(list(CALLS)), batch_size=6, num_frames=10, seed=0)
    calls, utterances = Counter[int](), Counter[int]()
    for step in range(400):
        batch = batches.batch(step)
        first, second = batch.recordings[::2], batch.recordings[1::2]
        assert torch.equal(first, second)
        assert len(set(first.tolist())) == 3
        calls.update(first.tolist())
        drawn = batch.features[:, 0, 0].int().tolist()
        assert [number_recordings(make_pool(list(CALLS)))[row] for row in drawn] == batch.recordings.tolist()
        utterances.update(drawn)
    assert batches.num_recordings == 4
    assert all(abs(calls[number] - 300) < 5 * (400 * 3 / 4 * 1 / 4) ** 0.5 for number in range(4))
    for row, call in enumerate(CALLS):  # 600 crops of each call, its utterances alike
        expected = 600 / max(1, CALLS.count(call) if call else 1)
        assert abs(utterances[row] - expected) < 5 * expected**0.5


def test_other_voices_have_sessions_of_their_own() -> None:
    """The second voice adds 100 to the utterance, and has a version that adds 200."""
    plus = [FeatureStore("s", STORE.utterance_ids, STORE.offsets, STORE.frames + 100 * n) for n in (0, 1, 2)]
    pool = make_pool(list(CALLS))
    batches = TargetDomainBatches([[plus[0]], plus[1:]], pool, batch_size=8, num_frames=10, seed=0)
    assert batches.num_recordings == 8
    numbers, seen = number_recordings(pool), Counter[int]()
    for step in range(200):
        batch = batches.batch(step)
        for crop, recording in zip(batch.features, batch.recordings.tolist(), strict=True):
            version, row = divmod(int(crop[0, 0]), 100)
            assert recording == numbers[row] + 4 * (version > 0)
            seen[version] += 1
    assert abs(seen[0] - 800) < 5 * 400**0.5
    assert abs(seen[1] - 400) < 5 * 300**0.5
    whole = list(batches.whole_pool())
    assert torch.cat([batch.recordings for batch in whole]).tolist() == [*numbers, *(numbers + 4)]
    assert {int(batch.features[0, 0, 0]) // 100 for batch in whole} == {0, 1}


def test_recordings_without_a_session_are_of_their_own() -> None:
    """Even where a session bears the name of such an utterance."""
    numbers = number_recordings(make_pool(["a", None, "a", "utt1", None]))
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 4
    assert set(numbers.tolist()) == {0, 1, 2, 3}


def test_crops_are_of_all_versions_alike() -> None:
    """A second store holds the same utterances, 100 added to their place in it, in another order."""
    reverse = torch.arange(8).flip(0)
    frames = torch.cat([STORE.utterance(int(row)) + 100 for row in reverse])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), STORE.lengths[reverse].cumsum(0)])
    other = FeatureStore("other", tuple(f"utt{int(row)}" for row in reverse), offsets, frames)
    batches = SourceBatches([STORE, other], MANIFEST, batch_size=6, num_frames=10, seed=0)
    speaker_of = {item.utterance_id: item.speaker_id for item in MANIFEST}
    versions = Counter[bool]()
    for step in range(100):
        batch = batches.batch(step)
        for crop, number in zip(batch.features, batch.speakers.tolist(), strict=True):
            is_other = bool(crop[0, 0] >= 100)
            row = int(crop[0, 0]) - 100 * is_other
            assert speaker_of[f"utt{row}"] == batches.speaker_ids[number]
            versions[is_other] += 1
    assert abs(versions[True] - 300) < 5 * 150**0.5


def test_several_crops_of_a_speaker() -> None:
    batches = SourceBatches([STORE], MANIFEST, batch_size=6, num_frames=10, seed=0, crops_per_speaker=2)
    for step in range(10):
        speakers = batches.batch(step).speakers
        assert torch.equal(speakers[::2], speakers[1::2])
        assert sorted(speakers[::2].tolist()) == [0, 1, 2]


def test_domains_of_the_source_are_numbered() -> None:
    items = [replace(item, domain=name) for item, name in zip(MANIFEST, "babbaabb", strict=True)]
    batches = SourceBatches([STORE], Manifest(tuple(items)), batch_size=7, num_frames=10, seed=0)
    domain_of = {item.utterance_id: item.domain for item in items}
    batch = batches.batch(0)
    for crop, number in zip(batch.features, batch.domains.tolist(), strict=True):
        assert domain_of[f"utt{int(crop[0, 0])}"] == "ab"[number]


def test_the_whole_pool_is_the_middle_of_each_utterance() -> None:
    batches = TargetDomainBatches([[STORE]], make_pool(list(CALLS)), batch_size=3, num_frames=6, seed=0)
    seen = list(batches.whole_pool())
    assert [len(batch.recordings) for batch in seen] == [3, 3, 2]
    starts = torch.cat([batch.features[:, 0] for batch in seen])
    assert starts[:, 0].int().tolist() == list(range(8))
    assert starts[:, 1].int().tolist() == [
        (length - 6 + 1) // 2 if length >= 6 else 0 for length in [9, 30, 12, 25, 3, 18, 40, 7]
    ]
    assert (
        torch.cat([batch.recordings for batch in seen]).tolist()
        == number_recordings(make_pool(list(CALLS))).tolist()
    )


def test_the_whole_source_is_the_middle_of_each_utterance() -> None:
    batches = source_batches(batch_size=3)
    seen = list(batches.whole())
    assert [len(batch.speakers) for batch in seen] == [3, 3, 2]
    starts = torch.cat([batch.features[:, 0] for batch in seen])
    assert starts[:, 0].int().tolist() == list(range(8))[::-1]
    assert starts[6, 1] == (30 - 10 + 1) // 2
    numbers = torch.cat([batch.speakers for batch in seen]).tolist()
    assert [batches.speaker_ids[number] for number in numbers] == SPEAKERS


# Crops --------------------------------------------------------------------------------------------------------


@PROPERTY
@given(lengths=LENGTHS, num_frames=st.integers(1, 15), seed=st.integers(0, 100))
def test_crops_lie_within_their_utterance(lengths: list[int], num_frames: int, seed: int) -> None:
    rows = torch.arange(len(lengths)).flip(0)
    starts = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    crops = cut_frames(make_store(lengths), rows, num_frames, starts)
    assert crops.shape == (len(lengths), num_frames, 2)
    for row, crop in zip(rows.tolist(), crops, strict=True):
        assert crop[:, 0].eq(row).all()
        start = int(crop[0, 1])
        if lengths[row] >= num_frames:
            assert crop[:, 1].tolist() == list(range(start, start + num_frames))
            assert start + num_frames <= lengths[row]
        else:  # repeated from its start
            assert crop[:, 1].tolist() == [place % lengths[row] for place in range(num_frames)]


def test_every_crop_comes_up() -> None:
    """First and last place included: 5 places of a crop of 6 frames in 10, each about 200 times of 1,000."""
    draws = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    crops = cut_frames(make_store([10]), torch.zeros(1000, dtype=torch.int64), 6, draws)
    starts = Counter(crops[:, 0, 1].int().tolist())
    assert sorted(starts) == [0, 1, 2, 3, 4]
    assert all(abs(count - 200) < 5 * 160**0.5 for count in starts.values())


# What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speakers", [["s1"], ["s1", "s1", "s1"]])
def test_one_speaker_is_no_task(speakers: list[str | None]) -> None:
    manifest, store = make_manifest(speakers), make_store([5] * len(speakers))
    with pytest.raises(InputError) as caught:
        SourceBatches([store], manifest, batch_size=2, num_frames=3, seed=0)
    assert str(caught.value) == "the source domain has 1 speakers; training needs at least 2"


def test_source_without_labels() -> None:
    with pytest.raises(InputError, match="1 of 2 utterances have no speaker_id, the first is utt0"):
        SourceBatches([make_store([5, 5])], make_manifest(["s1", None]), batch_size=2, num_frames=3, seed=0)


def test_a_pool_smaller_than_a_batch_comes_again() -> None:
    batch = TargetDomainBatches([[STORE]], make_pool(["a"] * 8), batch_size=6, num_frames=5, seed=0).batch(0)
    assert batch.features.shape == (6, 5, 2)
    assert batch.recordings.tolist() == [0] * 6


# Spliced frames -----------------------------------------------------------------------------------------------


@PROPERTY
@given(lengths=LENGTHS, left=st.integers(0, 4), right=st.integers(0, 4), data=st.data())
def test_spliced_frames_match_the_naive_splice(
    lengths: list[int], left: int, right: int, data: st.DataObject
) -> None:
    store = make_store(lengths)
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    mean, std = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.25])
    spliced = SplicedFrames(store, torch.tensor(rows), left_context=left, right_context=right, mean=mean, std=std)
    expected = []
    for row in rows:
        for place in range(lengths[row]):
            context = [min(max(place + shift, 0), lengths[row] - 1) for shift in range(-left, right + 1)]
            expected.append([value for at in context for value in ((row - 0.5) / 2, (at + 1) / 0.25)])
    assert isinstance(spliced, FrameSource)
    assert len(spliced) == len(expected)
    assert spliced.dim == 2 * (left + 1 + right)
    order = torch.randperm(len(expected))
    assert torch.equal(spliced.take(order), torch.tensor(expected)[order])


def test_pretraining_reads_what_the_network_will() -> None:
    """The frames of each utterance are those that `FrameDnn` splices for itself."""
    lengths = [4, 1, 9]
    store = make_store(lengths)
    mean, std = frame_statistics(store, [0, 1, 2])
    spliced = SplicedFrames(store, torch.arange(3), left_context=2, right_context=3, mean=mean, std=std)
    first = 0
    for row, length in enumerate(lengths):
        standardised = ((store.utterance(row) - mean) / std)[None]
        expected = splice_frames(standardised, torch.tensor([length]), 2, 3)[0]
        assert torch.equal(spliced.take(torch.arange(first, first + length)), expected)
        first += length


# Statistics ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    lengths=LENGTHS,
    centre=st.floats(-30, 30),
    scale=st.sampled_from([0.01, 1.0, 20.0]),
    constant=st.floats(-30, 30, width=32),
    data=st.data(),
)
def test_statistics_match_numpy_in_float64(
    lengths: list[int], centre: float, scale: float, constant: float, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    store = make_store(lengths)
    store.frames.copy_(centre + scale * torch.randn(store.frames.shape))
    store.frames[:, 1] = constant
    chosen = np.concatenate([store.utterance(row).numpy().astype(np.float64) for row in rows])
    mean, std = frame_statistics(store, torch.tensor(rows))
    assert mean.dtype == std.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), chosen.mean(axis=0), rtol=1e-6, atol=1e-6)
    if len(chosen) > 1:
        np.testing.assert_allclose(std[0].numpy(), chosen[:, 0].std(), rtol=1e-4)
    assert std[1] == 1


def test_statistics_of_a_large_store_do_not_lose_digits() -> None:
    """A sum in float32 would be wrong in the third digit."""
    frames = 1000 + torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(0, 200_001, 1000)
    store = FeatureStore("store", tuple(map(str, range(200))), offsets, frames)
    mean, std = frame_statistics(store, range(200))
    exact = frames.numpy().astype(np.float64)
    assert mean.item() == pytest.approx(exact.mean(), rel=1e-7)
    assert std.item() == pytest.approx(exact.std(), rel=1e-6)
