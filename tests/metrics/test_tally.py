"""Counts of scores within brackets are the same, however they are come by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spkadapt.metrics import Brackets, kernels, tally
from spkadapt.metrics.tally import Tally


def test_a_tally_counts_the_same_at_once_as_in_parts_and_on_another_device() -> None:
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


@pytest.mark.parametrize("num_edges", [0, 1, 2, 3, 4, 63, 64, 3000])
@pytest.mark.parametrize("num_scores", [1, kernels.CHUNK + 1, tally._AT_A_TIME + kernels.CHUNK - 1])
def test_a_tally_is_what_a_search_for_each_score_finds(num_edges: int, num_scores: int) -> None:
    """Also of scores on edges, of zero in its two forms, of the largest and the least floats."""
    random = np.random.default_rng(num_edges)
    scores = random.normal(size=num_scores).astype(np.float32)
    edges = np.unique(np.append(random.choice(scores, num_edges), np.float32(0)))[:num_edges]
    corners = np.array([0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45], np.float32)[:num_scores]
    scores[-len(corners) :] = corners
    for share in (0, 0.5, 1):
        keep = random.random(len(edges) + 1) < share
        brackets = Brackets(edges, keep)
        counted = Tally(brackets)
        counted.add(np.repeat(scores, 2)[::2])
        askew = Tally(Brackets(np.repeat(edges, 2)[::2], np.repeat(keep, 2)[::2]))
        askew.add(np.frombuffer(b"-" + scores.tobytes(), np.float32, offset=1))
        assert askew.counts.tolist() == counted.counts.tolist()
        interval = np.searchsorted(edges, scores, side="right")
        assert counted.counts.tolist() == np.bincount(interval, minlength=len(keep)).tolist()
        assert (counted.least, counted.most) == (scores.min(), scores.max())
        distinct, repeats = np.unique(scores[keep[interval]] + np.float32(0), return_counts=True)
        np.testing.assert_array_equal(counted.kept_scores, distinct)
        np.testing.assert_array_equal(counted.to_arrays()["repeats"], repeats)


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
