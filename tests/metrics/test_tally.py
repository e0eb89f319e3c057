"""Counts of scores within brackets are the same, however they are come by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spkadapt.metrics import Brackets, tally
from spkadapt.metrics.tally import Tally


def test_a_tally_counts_the_same_edge_by_edge_as_score_by_score() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=20_000).astype(np.float32)
    cases: list[tuple[list[float], list[tuple[float, float]]]] = [
        ([-2, -1, 0, 1, 2], []),
        ([-9, 0, 9], [(0, 9)]),
        ([2.5], [(-1, 0), (0.5, 0.6), (3, 99)]),
        ([], []),
    ]
    for edges, kept in cases:
        brackets = Brackets.around(edges, kept)
        at_once, in_parts, on_device = Tally(brackets), Tally(brackets), Tally(brackets)
        at_once.add(scores)
        on_device.add(torch.from_numpy(scores))
        for start in range(0, len(scores), 1000):
            in_parts.add(scores[start : start + 1000])
        for other in (in_parts, on_device):
            for key, array in at_once.to_arrays().items():
                np.testing.assert_array_equal(other.to_arrays()[key], array, err_msg=key)
        assert at_once.below(brackets.edges).tolist() == [(scores < edge).sum() for edge in brackets.edges]


@pytest.mark.parametrize("ends", [(0.5, 0.6), (-0.6, -0.5), (-1e-39, 1e-39), (0.0, 1e-39), (-1e-39, -0.0)])
def test_a_tally_by_places_is_one_by_sorting(ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of zero in its two forms, at the ends and within; and merged while some places are taken."""
    monkeypatch.setattr(tally, "_LEAST_PENDING", 50)
    brackets = Brackets.around([0.0, 0.55], [ends])
    random = np.random.default_rng(0)
    scores = random.uniform(*ends, 3000).astype(np.float32)[random.integers(2000, size=4000)]
    scores[::7], scores[1::7], scores[2::7] = 0.0, -0.0, ends[0]
    by_place, first, second, sorted_ = (Tally(brackets) for _ in range(4))
    for number, part in enumerate(np.array_split(scores, 25)):
        by_place.add(part)
        (first if number % 2 else second).add(part)
    assert by_place._at_place is not None
    assert by_place.num_kept >= len(by_place.kept_scores)
    first.absorb(second)
    monkeypatch.setattr(tally, "_MOST_PLACES", 0)
    for part in np.array_split(scores, 25):
        sorted_.add(part)
    assert sorted_._at_place is None
    inside = scores[(scores >= np.float32(ends[0])) & (scores < np.float32(ends[1]))]
    distinct, repeats = np.unique(inside, return_counts=True)
    for counted in (by_place, first, sorted_):
        assert counted.kept_scores.tolist() == distinct.tolist()
        assert counted.to_arrays()["repeats"].tolist() == repeats.tolist()
        for key, array in sorted_.to_arrays().items():
            np.testing.assert_array_equal(counted.to_arrays()[key], array, err_msg=key)
