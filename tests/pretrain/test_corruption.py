"""The corruptions against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spkadapt.pretrain.corruption import CORRUPTIONS, NUM_FRAMES_FOR_EXTREMES, corrupt, measure_extremes
from spkadapt.pretrain.frames import TensorFrames

EXTREMES = torch.tensor([[-1.0, -2, -3, -4, -5, -6], [10, 20, 30, 40, 50, 60]], dtype=torch.float64)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
kinds = pytest.mark.parametrize("kind", CORRUPTIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean(num_frames: int = 20000, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values that no corruption sets, different in each dimension."""
    return (1 + torch.rand(num_frames, 6, generator=generator(1), dtype=torch.float64)).to(dtype)


def corrupted(kind: str, x: Tensor, level: float, seed: int = 0) -> Tensor:
    return corrupt(kind, x, level, EXTREMES.to(x.dtype), generator(seed))


def deviation(num: int) -> float:
    """No frequency of `num` independent draws is off by more, but for one time in 1e9 (Hoeffding)."""
    return math.sqrt(math.log(2e9) / (2 * num))


@precisions
def test_masking_sets_the_asked_fraction_of_each_dimension_to_zero(dtype: torch.dtype) -> None:
    x = clean(dtype=dtype)
    found = corrupted("masking", x, 0.25)
    masked = found == 0
    assert torch.equal(found[~masked], x[~masked])
    assert ((masked.double().mean(dim=0) - 0.25).abs() < deviation(len(x))).all()


@precisions
def test_salt_and_pepper_sets_each_extreme_by_a_fair_coin(dtype: torch.dtype) -> None:
    x = clean(dtype=dtype)
    found = corrupted("salt_and_pepper", x, 0.3)
    pepper, salt = (found == extreme for extreme in EXTREMES.to(dtype))
    assert torch.equal(found[~(pepper | salt)], x[~(pepper | salt)])
    for flipped in (pepper, salt):
        assert ((flipped.double().mean(dim=0) - 0.15).abs() < deviation(len(x))).all()


def test_gaussian_noise_has_mean_zero_and_the_asked_deviation_in_each_dimension() -> None:
    noise = corrupted("gaussian", clean(), 0.4) - clean()
    num = len(noise)
    assert (noise.mean(dim=0).abs() < 6 * 0.4 / math.sqrt(num)).all()
    assert ((noise.square().mean(dim=0) / 0.16 - 1).abs() < 6 * math.sqrt(2 / num)).all()
    # A normal's fourth moment is 3σ⁴, and the variance of its estimate 96σ⁸/n; a uniform's would be 1.8.
    assert ((noise**4).mean(dim=0) / 0.4**4 - 3).abs().max() < 6 * math.sqrt(96 / num)


@kinds
def test_entries_are_corrupted_on_their_own(kind: str) -> None:
    """No two dimensions of a frame, and no two frames that follow each other, share their noise."""
    x = clean()
    noise = corrupted(kind, x, 0.5) - x
    changed = noise if kind == "gaussian" else (noise != 0).double()
    changed = (changed - changed.mean(dim=0)) / changed.std(dim=0)
    within = changed.T @ changed / len(changed) - torch.eye(6, dtype=torch.float64)
    across = changed[1:].T @ changed[:-1] / len(changed)
    assert max(within.abs().max(), across.abs().max()) < 6 / math.sqrt(len(changed))
    assert len(changed[:500].unique(dim=0)) == (500 if kind == "gaussian" else 2**6)


@kinds
def test_level_zero_changes_nothing_and_x_is_left_alone(kind: str) -> None:
    x = clean(100)
    before = x.clone()
    assert torch.equal(corrupted(kind, x, 0.0), x)
    corrupted(kind, x, 0.5)
    assert torch.equal(x, before)


def test_almost_all_can_become_salt_and_pepper() -> None:
    found = corrupted("salt_and_pepper", clean(1000), 1 - 1e-12)
    assert ((found == EXTREMES[0]) | (found == EXTREMES[1])).all()


def test_extremes_are_those_of_the_frames() -> None:
    frames = clean(100)
    assert torch.equal(
        measure_extremes(TensorFrames(frames), generator()), torch.stack((frames.amin(0), frames.amax(0)))
    )


def test_extremes_of_many_frames_are_those_of_a_random_part() -> None:
    frames = torch.arange(20.0 * NUM_FRAMES_FOR_EXTREMES)[:, None]
    low, high = measure_extremes(TensorFrames(frames), generator()).flatten().tolist()
    # Each end's distance is about exponential with mean 20: e⁻²⁰ is the chance of 400.
    assert 0 < low < 400
    assert 0 < len(frames) - high < 400
