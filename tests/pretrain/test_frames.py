"""The order of an epoch, and frames on disk against the same frames in memory."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.errors import DivergenceError, InputError
from spkadapt.pretrain import PRETRAINER_CONFIGS, PRETRAINERS, DiskFrames, FrameSource, TensorFrames
from spkadapt.pretrain import disk_frames as disk_frames_module
from spkadapt.pretrain.frames import (
    EncodedFrames,
    OrderedFrameSource,
    block_shuffled,
    check_unit_interval,
    frames_digest,
    index_batches,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard_frames(num_frames: int = 200, dim: int = 5) -> Tensor:
    return torch.randn(num_frames, dim, generator=generator(9))


def save_npy(path: Path, frames: Tensor) -> Path:
    np.save(path, frames.numpy())
    return path


class InMemory(TensorFrames):
    """Frames in memory, taken in the order of blocks."""

    def __init__(self, frames: Tensor, block_size: int, blocks_per_buffer: int) -> None:
        super().__init__(frames)
        self.shuffle = (block_size, blocks_per_buffer)

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        return (indices for _, indices in block_shuffled(len(self), *self.shuffle, generator))


@given(
    num_frames=st.integers(1, 60),
    block_size=st.integers(1, 9),
    blocks_per_buffer=st.integers(1, 5),
    batch_size=st.integers(1, 13),
    max_frames=st.none() | st.integers(1, 70),
)
def test_an_epoch_takes_each_index_once_in_full_batches(
    num_frames: int, block_size: int, blocks_per_buffer: int, batch_size: int, max_frames: int | None
) -> None:
    source = InMemory(torch.zeros(num_frames, 1), block_size, blocks_per_buffer)
    for own in (source, TensorFrames(torch.zeros(num_frames, 1))):
        batches = list(index_batches(own, batch_size, max_frames, generator()))
        taken = torch.cat(batches).tolist()
        expected = min(num_frames, max_frames or num_frames)
        assert len(set(taken)) == len(taken) == expected
        assert set(taken) <= set(range(num_frames))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= batch_size


@given(num_frames=st.integers(1, 60), block_size=st.integers(1, 9), blocks_per_buffer=st.integers(1, 5))
def test_a_buffer_holds_whole_blocks(num_frames: int, block_size: int, blocks_per_buffer: int) -> None:
    seen = []
    for blocks, indices in block_shuffled(num_frames, block_size, blocks_per_buffer, generator()):
        assert 1 <= len(blocks) <= blocks_per_buffer
        whole = {
            frame for block in blocks.tolist() for frame in range(block * block_size, (block + 1) * block_size)
        }
        assert set(indices.tolist()) == whole & set(range(num_frames))
        seen += blocks.tolist()
    assert sorted(seen) == list(range(-(-num_frames // block_size)))


def test_two_frames_of_a_batch_share_a_block_as_often_as_stated() -> None:
    """(B − 1)/(KB − 1): shuffling only the blocks, or only the frames within, gives another number."""
    block_size, blocks_per_buffer, num_draws, pairs = 4, 3, 4000, Counter()
    draws = generator()
    for _ in range(num_draws):
        first, second = next(iter(block_shuffled(48, block_size, blocks_per_buffer, draws)))[1][:2].tolist()
        pairs[first // block_size == second // block_size] += 1
        pairs[(first, "first")] += 1
    probability = 3 / 11
    deviation = (probability * (1 - probability) / num_draws) ** 0.5
    assert abs(pairs[True] / num_draws - probability) < 4 * deviation
    counts = torch.tensor([pairs[(frame, "first")] for frame in range(48)]).double()
    chi_square = ((counts - num_draws / 48).square() / (num_draws / 48)).sum().item()
    assert chi_square < 47 + 4 * (2 * 47) ** 0.5


def test_the_mean_of_a_batch_varies_as_stated() -> None:
    """Frames equal within their block (ρ = 1): variance σ²/b · (1 + (b − 1)/K) in place of σ²/b."""
    block_size, blocks_per_buffer, batch_size = 50, 10, 20
    values = torch.randn(1000, generator=generator(1)).repeat_interleave(block_size).double()
    draws, means = generator(2), []
    for _ in range(40):
        for _, indices in block_shuffled(len(values), block_size, blocks_per_buffer, draws):
            means.append(values[indices[:batch_size]].mean())
    expected = values.var() / batch_size * (1 + (batch_size - 1) / blocks_per_buffer)
    variance = torch.stack(means).var()
    assert abs(variance / expected - 1) < 4 * (2 / len(means)) ** 0.5


def test_all_that_an_order_draws_is_drawn_at_once() -> None:
    """Else a step that draws from the same generator would change the order, and no order could be resumed."""
    for source in (InMemory(torch.zeros(40, 1), 3, 2), TensorFrames(torch.zeros(40, 1))):
        one, other = generator(), generator()
        batches = index_batches(source, 7, None, one)
        state = one.get_state()
        list(batches)
        assert torch.equal(one.get_state(), state)
        undisturbed = torch.cat(list(index_batches(source, 7, None, other)))
        disturbed, again = [], generator()
        for batch in index_batches(source, 7, None, again):
            torch.rand(3, generator=again)
            disturbed.append(batch)
        assert torch.equal(torch.cat(disturbed), undisturbed)


def test_codes_are_taken_in_the_order_of_their_frames() -> None:
    source = InMemory(standard_frames(40), 3, 2)
    codes = EncodedFrames(EncodedFrames(source, 5, torch.sigmoid), 5, torch.sigmoid)
    batches = zip(
        index_batches(source, 8, None, generator()), index_batches(codes, 8, None, generator()), strict=True
    )
    assert all(torch.equal(one, other) for one, other in batches)


def test_digests_tell_sources_apart() -> None:
    frames = standard_frames()
    changed = frames.clone()
    changed[7, 1] += 1e-6
    others = [frames, changed, frames[:-1], frames.double(), frames.reshape(-1, 4)]
    assert len({frames_digest(TensorFrames(other)) for other in others}) == len(others)
    assert frames_digest(TensorFrames(frames.clone())) == frames_digest(TensorFrames(frames))
    many, late = torch.zeros(1000, 2), torch.zeros(1000, 2)
    assert frames_digest(TensorFrames(many)) == frames_digest(TensorFrames(late))
    late[500:] = 1
    assert frames_digest(TensorFrames(many)) != frames_digest(TensorFrames(late))


def test_values_outside_the_unit_interval_are_named() -> None:
    check_unit_interval(torch.tensor([[0.0, 1.0]]), "a coin")
    with pytest.raises(InputError, match=r"a coin needs frames in \[0, 1\]; found values from -0.5 to 1.25"):
        check_unit_interval(torch.tensor([[-0.5, 1.25]]), "a coin")


@pytest.mark.parametrize("method", ["dae", "dbn", "vae"])
def test_training_from_disk_gives_the_bits_of_training_from_memory(method: str, tmp_path: Path) -> None:
    frames = standard_frames()
    files = [save_npy(tmp_path / f"{number}.npy", part) for number, part in enumerate(frames.split(77))]
    disk = DiskFrames(files, block_bytes=5 * 4 * 6, buffer_bytes=5 * 4 * 6 * 4)
    memory = InMemory(frames, 6, 4)
    config = PRETRAINER_CONFIGS[method](num_epochs=2, batch_size=32)
    one, other = (PRETRAINERS[method]([4, 3], "sigmoid", config).fit(source, seed=1) for source in (disk, memory))
    assert one.history == other.history
    assert torch.equal(one.transform(frames), other.transform(frames))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_disk_frames_are_those_in_memory(lengths: list[int], seed: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("frames")
    frames = standard_frames(sum(lengths), 3)
    parts = enumerate(frames.split(lengths))
    disk = DiskFrames(
        [save_npy(folder / f"{number}.npy", part) for number, part in parts],
        block_bytes=3 * 4 * 2,
        buffer_bytes=3 * 4 * 2 * 3,
    )
    assert (len(disk), disk.dim) == (len(frames), 3)
    places = torch.randint(len(frames), (20,), generator=generator(seed))
    assert torch.equal(disk.take(places), frames[places])
    for batch in index_batches(disk, 4, None, generator(seed)):
        assert torch.equal(disk.take(batch), frames[batch])
        assert torch.equal(disk.take(places), frames[places])


def test_raw_and_double_files_are_read(tmp_path: Path) -> None:
    frames = standard_frames()
    frames.numpy().astype("<f4").tofile(tmp_path / "frames.raw")
    everything = torch.arange(len(frames))
    assert torch.equal(DiskFrames(tmp_path / "frames.raw", dim=5).take(everything), frames)
    double = DiskFrames(save_npy(tmp_path / "double.npy", frames.double()))
    assert torch.equal(double.take(everything), frames.double())
    assert isinstance(double, FrameSource)
    assert isinstance(double, OrderedFrameSource)


class CountingReader(io.FileIO):
    """Notes every read: the file's place and the length."""

    reads: list[tuple[int, int]] = []  # noqa: RUF012, set anew by the test

    def readinto(self, buffer: memoryview) -> int:
        type(self).reads.append((self.tell(), len(buffer)))
        return super().readinto(buffer)


def test_an_epoch_holds_one_buffer_and_reads_whole_blocks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = standard_frames(1000, 4)
    block_bytes, buffer_bytes = 16 * 20, 16 * 20 * 5
    disk = DiskFrames(
        save_npy(tmp_path / "frames.npy", frames), block_bytes=block_bytes, buffer_bytes=buffer_bytes
    )
    monkeypatch.setattr(CountingReader, "reads", [])
    monkeypatch.setattr(disk_frames_module, "open", lambda path, *_, **__: CountingReader(path), raising=False)
    for indices in disk.order(generator()):
        disk.take(indices)
        assert disk._buffer.nbytes <= buffer_bytes
        assert indices.nbytes <= 8 * buffer_bytes // 16
    assert len(CountingReader.reads) == 50
    assert {length for _, length in CountingReader.reads} == {block_bytes}
    assert len({place for place, _ in CountingReader.reads}) == 50


def test_frames_on_disk_that_are_not_finite_are_no_divergence(tmp_path: Path) -> None:
    frames = standard_frames()
    frames[33, 2] = float("inf")
    disk = DiskFrames(save_npy(tmp_path / "frames.npy", frames))
    with pytest.raises(InputError, match=r"frames must be finite; frame .* holds inf in dimension 2") as caught:
        PRETRAINERS["dae"]([4], "sigmoid", PRETRAINER_CONFIGS["dae"]()).fit(disk, seed=0)
    assert not isinstance(caught.value, DivergenceError)


def test_bad_files_are_named(tmp_path: Path) -> None:
    whole = save_npy(tmp_path / "whole.npy", standard_frames()).read_bytes()
    contents = {
        "short.npy": whole[:-7],
        "header.npy": whole[:40],
        "text.npy": b"1.0 2.0\n",
        "empty.npy": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: expected a whole \.npy matrix .*raw files need dim"):
            DiskFrames(tmp_path / name)
    arrays = {
        "int64": np.zeros((3, 2), dtype=np.int64),
        ">f4": np.zeros((3, 2), dtype=">f4"),
        r"shape \(3,\) in C order": np.zeros(3, dtype=np.float32),
        r"shape \(3, 2\) in Fortran order": np.asfortranarray(np.zeros((3, 2), dtype=np.float32)),
        r"shape \(1, 2, 3\) in C order": np.zeros((1, 2, 3), dtype=np.float32),
    }
    for message, array in arrays.items():
        np.save(tmp_path / "other.npy", array)
        with pytest.raises(InputError, match=rf"other\.npy: expected a .*; found {message}"):
            DiskFrames(tmp_path / "other.npy")
    np.savez(tmp_path / "archive.npz", frames=np.zeros((2, 2)))
    with pytest.raises(InputError, match="found an archive"):
        DiskFrames(tmp_path / "archive.npz")
    with pytest.raises(InputError, match=r"missing\.npy: cannot read frames: No such file"):
        DiskFrames(tmp_path / "missing.npy")
    with pytest.raises(InputError, match=r"missing\.raw: cannot read frames: No such file"):
        DiskFrames(tmp_path / "missing.raw", dim=3)
    with pytest.raises(InputError, match="there are no files of frames"):
        DiskFrames([])


def test_files_that_do_not_fit_together_and_bad_settings_are_named(tmp_path: Path) -> None:
    one = save_npy(tmp_path / "one.npy", standard_frames(4, 3))
    wide = save_npy(tmp_path / "wide.npy", standard_frames(4, 2))
    double = save_npy(tmp_path / "double.npy", standard_frames(4, 3).double())
    with pytest.raises(InputError, match=r"wide\.npy: frames of 2 dimensions in float32; .*one\.npy have 3"):
        DiskFrames([one, wide])
    with pytest.raises(InputError, match=r"double\.npy: frames of 3 dimensions in float64"):
        DiskFrames([one, double])
    with pytest.raises(InputError, match="block_bytes is 9 and buffer_bytes 8; expected 1 ≤ block ≤ buffer"):
        DiskFrames(one, block_bytes=9, buffer_bytes=8)
    with pytest.raises(InputError, match="dim is 0; expected"):
        DiskFrames(one, dim=0)
    (tmp_path / "cut.raw").write_bytes(b"\0" * 25)
    with pytest.raises(InputError, match=r"cut\.raw: 25 bytes; expected a multiple of 12 above 0"):
        DiskFrames(tmp_path / "cut.raw", dim=3)
    (tmp_path / "cut.raw").write_bytes(b"\0" * 24)
    shrunk = DiskFrames(tmp_path / "cut.raw", dim=3)
    (tmp_path / "cut.raw").write_bytes(b"\0" * 13)
    with pytest.raises(InputError, match=r"cut\.raw: the file has become shorter"):
        shrunk.take(torch.tensor([1]))
