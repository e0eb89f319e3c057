"""The bilinear form: blocks, pairs and lists against a loop in float64; and scorers that are not bilinear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spkadapt.backend.scorer import Scorer, Side


class Bilinear(Scorer):
    """Takes vectors as they are, and their sums as offsets."""

    def enrol_side(self, embeddings: np.ndarray, model_of: np.ndarray | None = None) -> Side:
        vectors = torch.from_numpy(embeddings)
        return Side(vectors, vectors.sum(dim=1))

    def test_side(self, embeddings: np.ndarray) -> Side:
        return self.enrol_side(2 * embeddings)


class Squashed(Bilinear):
    def score_block(self, enrol: Side, test: Side) -> Tensor:
        return super().score_block(enrol, test).div_(9).tanh_()

    def score_pairs(self, enrol: Side, test: Side) -> Tensor:
        return super().score_pairs(enrol, test).div_(9).tanh_()


def make_sides(num_enrol: int, num_test: int, dim: int = 5, seed: int = 0) -> tuple[Side, Side, np.ndarray]:
    """Two sides, and the float64 score of each pair."""
    random = np.random.default_rng(seed)
    enrol, test = (random.normal(size=(n, dim)).astype(np.float32) for n in (num_enrol, num_test))
    scorer = Bilinear()
    left, right = enrol.astype(np.float64), 2 * test.astype(np.float64)
    expected = left @ right.T + left.sum(axis=1)[:, None] + right.sum(axis=1)
    return scorer.enrol_side(enrol), scorer.test_side(test), expected


def test_blocks_and_pairs() -> None:
    enrol, test, expected = make_sides(6, 6)
    np.testing.assert_allclose(Bilinear().score_block(enrol, test), expected, atol=1e-5)
    np.testing.assert_allclose(Bilinear().score_pairs(enrol, test), expected.diagonal(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("chunk", [1, 12, 1 << 20])
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=30), seed=st.integers(0, 99))
def test_lists_of_any_order_with_duplicates(
    dtype: torch.dtype, chunk: int, pairs: list[tuple[int, int]], seed: int
) -> None:
    enrol, test, expected = make_sides(6, 8, seed=seed)
    rows, columns = torch.tensor(pairs, dtype=dtype).reshape(-1, 2).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spkadapt.backend.scorer._CHUNK_NUMBERS", chunk)
        listed = Bilinear().score_listed(enrol, test, rows, columns)
        squashed = Squashed().score_listed(enrol, test, rows, columns)
    assert listed.shape == squashed.shape == (len(pairs),)
    assert listed.dtype == squashed.dtype == torch.float32
    np.testing.assert_allclose(listed, expected[rows, columns], atol=1e-5)
    np.testing.assert_allclose(squashed, np.tanh(expected[rows, columns] / 9), atol=1e-6)


def test_rows_are_views_or_copies() -> None:
    enrol, _, _ = make_sides(6, 6)
    part = enrol.rows(slice(1, 3))
    assert part.vectors.data_ptr() == enrol.vectors[1:].data_ptr()
    picked = enrol.rows(torch.tensor([4, 0]))
    assert torch.equal(picked.vectors, enrol.vectors[[4, 0]])
    assert torch.equal(picked.offsets, enrol.offsets[[4, 0]])
    assert (len(part), len(picked), len(enrol.to("cpu"))) == (2, 2, 6)
