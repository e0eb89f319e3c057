"""Random Fourier features against the kernel they stand for, sampled and in expectation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.align import random_features
from spkadapt.align.mmd import mmd_loss
from spkadapt.align.random_features import RandomFeatureMmdLoss, draw_frequencies, random_feature_mmd_loss
from spkadapt.errors import InputError

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct_mmd(source: Tensor, target_domain: Tensor, frequencies: Tensor, bandwidths: list[float]) -> Tensor:
    """The V-statistic of the kernel mean over j of cos(ω_j · (x − y)), pair by pair."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        waves = [
            (frequencies[:, j] * math.sqrt(2 / bandwidths[j % len(bandwidths)]) @ (x - y)).cos()
            for j in range(frequencies.shape[1])
        ]
        return torch.stack(waves).mean()

    def mean(left: Tensor, right: Tensor) -> Tensor:
        return torch.stack([kernel(x, y) for x in left for y in right]).mean()

    return mean(source, source) + mean(target_domain, target_domain) - 2 * mean(source, target_domain)


@pytest.mark.parametrize("block_rows", [1, 3, 1024])
@pytest.mark.parametrize("bandwidths", [[2.0], [0.7, 3.0, 5.0]])
def test_value_and_gradient_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, block_rows: int, bandwidths: list[float]
) -> None:
    monkeypatch.setattr(random_features, "BLOCK_ROWS", block_rows)
    frequencies = normal(2, 3, 7)
    pairs, twins = (
        [(normal(0, 4, 3) + 20).requires_grad_(), (2 * normal(1, 5, 3) + 21).requires_grad_()] for _ in range(2)
    )
    loss = random_feature_mmd_loss(*pairs, frequencies, bandwidths)
    twin = direct_mmd(*twins, frequencies, bandwidths)
    assert loss.item() == pytest.approx(twin.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(loss, pairs), torch.autograd.grad(twin, twins), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("bandwidths", [None, [8.0]])
def test_many_frequencies_come_close_to_the_kernel(bandwidths: list[float] | None) -> None:
    # The mean over 40 independent draws lies within 4.5 standard errors of the exact value.
    source, target_domain = normal(0, 30, 4), normal(1, 20, 4) + 0.5
    exact = mmd_loss(source, target_domain, bandwidths).item()
    draws = torch.stack(
        [
            random_feature_mmd_loss(source, target_domain, draw_frequencies(4, 500, seed), bandwidths)
            for seed in range(40)
        ]
    )
    assert abs(draws.mean().item() - exact) < 4.5 * draws.std().item() / math.sqrt(40)
    assert draws.std().item() < 0.1 * exact


@given(seeds, sizes, sizes)
@settings(max_examples=25, deadline=None)
def test_properties(seed: int, num_source: int, num_target: int) -> None:
    frequencies = normal(seed + 2, 4, 11)
    source, target_domain = normal(seed, num_source, 4), normal(seed + 1, num_target, 4)

    def loss(first: Tensor, second: Tensor) -> float:
        return random_feature_mmd_loss(first, second, frequencies).item()

    value = loss(source, target_domain)
    order = torch.randperm(num_source, generator=torch.Generator().manual_seed(seed))
    assert 0 < value <= 4
    assert loss(target_domain, source) == pytest.approx(value, rel=1e-8)
    assert loss(source[order], target_domain) == pytest.approx(value, rel=1e-8)
    assert loss(source + 5, target_domain + 5) == pytest.approx(value, rel=1e-6)
    assert loss(1000 * source, 1000 * target_domain) == pytest.approx(value, rel=1e-8)
    assert loss(source, source[order]) == pytest.approx(0, abs=1e-14)


def test_far_from_the_origin_in_float32() -> None:
    source, target_domain, frequencies = normal(0, 50, 8), normal(1, 40, 8) + 0.5, normal(2, 8, 64)
    exact = random_feature_mmd_loss(source, target_domain, frequencies).item()
    moved = random_feature_mmd_loss(source.float() + 100, target_domain.float() + 100, frequencies.float()).item()
    assert moved == pytest.approx(exact, rel=1e-3)


def test_module_keeps_its_frequencies() -> None:
    first, again, other = (
        RandomFeatureMmdLoss(4, 9),
        RandomFeatureMmdLoss(4, 9),
        RandomFeatureMmdLoss(4, 9, seed=1),
    )
    assert torch.equal(first.frequencies, again.frequencies)
    assert not torch.equal(first.frequencies, other.frequencies)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.frequencies, other.frequencies)
    assert first.frequencies.shape == (4, 9)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    RandomFeatureMmdLoss(4)
    assert torch.equal(torch.rand(1), expected)


def test_bad_arguments() -> None:
    one = torch.ones(2, 3)
    for shape in ((3,), (4, 9), (9, 3)):
        with pytest.raises(InputError, match=r"frequencies have shape \(.*\); expected \(3, num_frequencies\)"):
            random_feature_mmd_loss(one, one, torch.ones(shape))
    with pytest.raises(InputError, match="4 frequencies for 5 bandwidths; expected one of each"):
        random_feature_mmd_loss(one, one, torch.ones(3, 4))
    with pytest.raises(InputError, match="dim of the random features is 0; expected at least 1"):
        RandomFeatureMmdLoss(0)
    with pytest.raises(InputError, match="num_frequencies of the random features is -1; expected at least 1"):
        draw_frequencies(3, -1, 0)
    for build in (lambda: RandomFeatureMmdLoss(3, bandwidths=[0.0]),
                  lambda: random_feature_mmd_loss(one, one, torch.ones(3, 9), [0.0])):  # fmt: skip
        with pytest.raises(InputError, match=r"MMD bandwidths are \[0.0\]"):
            build()
