"""All pairs against a loop in float64, for blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.scorer import Side
from spkadapt.errors import InputError
from spkadapt.score import iterate_blocks, score_all_pairs
from spkadapt.score.blocks import choose_block_size

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
SCORER = CosineScorer()


def make_sides(num_enrol: int, num_test: int, seed: int = 0) -> tuple[Side, Side, np.ndarray]:
    """Two sides with offsets, and the float64 score of each pair."""
    random = np.random.default_rng(seed)
    sides = [
        Side(torch.from_numpy(random.normal(size=(n, 6))).float(), torch.from_numpy(random.normal(size=n)).float())
        for n in (num_enrol, num_test)
    ]
    left, right = (side.vectors.double() for side in sides)
    expected = left @ right.T + sides[0].offsets.double()[:, None] + sides[1].offsets.double()
    return sides[0], sides[1], expected.numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block_size", [1, 4, 100, None])
def test_all_pairs(block_size: int | None, device: str) -> None:
    enrol, test, expected = make_sides(7, 11)
    scores = score_all_pairs(SCORER, enrol, test, block_size=block_size, device=device)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(num_enrol=st.integers(0, 9), num_test=st.integers(0, 9), block_size=st.integers(1, 10))
def test_every_pair_is_in_one_block(num_enrol: int, num_test: int, block_size: int) -> None:
    enrol, test, expected = make_sides(num_enrol, num_test)
    found, times = np.zeros_like(expected), np.zeros_like(expected)
    for block in iterate_blocks(SCORER, enrol, test, block_size=block_size):
        assert max(block.scores.shape) <= block_size
        found[block.enrol_rows, block.test_rows] = block.scores
        times[block.enrol_rows, block.test_rows] += 1
    assert (times == 1).all()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_accelerator_gets_larger_blocks() -> None:
    assert choose_block_size("cuda:1") > choose_block_size("cpu") == choose_block_size(torch.device("cpu"))


def test_refusals() -> None:
    enrol, test, _ = make_sides(3, 3)
    narrow = Side(test.vectors[:, :2], test.offsets)
    with pytest.raises(InputError, match=r"expected sides of one width, found shapes \(3, 6\) and \(3, 2\)"):
        score_all_pairs(SCORER, enrol, narrow)
    with pytest.raises(InputError, match="expected block_size of at least 1, found 0"):
        score_all_pairs(SCORER, enrol, test, block_size=0)
