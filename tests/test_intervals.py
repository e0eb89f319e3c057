"""Intervals by speaker against resampled trials written out, and whether they cover as they say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from spkadapt.errors import InputError
from spkadapt.intervals import bootstrap_by_speaker, percentile_interval
from spkadapt.metrics import compute_eer, compute_min_dcf


def make_trials(num_speakers: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    random = np.random.default_rng(seed)
    enrol, test = random.integers(num_speakers, size=(2, 150))
    test[:40] = enrol[:40]
    is_target = enrol == test
    scores = (random.normal(size=(2, 150)) + is_target).round(1)
    return scores, is_target, [f"s{i}" for i in enrol], [f"s{i}" for i in test]


def test_bootstrap_is_that_of_resampled_trials_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat each trial as often as its speakers were drawn; measure the longer list by the usual functions."""
    scores, is_target, enrol, test = make_trials()
    draws: list[Counter[str]] = []
    default_rng = np.random.default_rng

    class Recorder:
        def __init__(self, seed: int) -> None:
            self.generator = default_rng(seed)

        def integers(self, high: int, size: int) -> np.ndarray:
            drawn = self.generator.integers(high, size=size)
            draws.append(Counter(f"s{i}" for i in drawn))
            return drawn

    monkeypatch.setattr(np.random, "default_rng", Recorder)
    replicates = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, 2.0, 0.5, num_replicates=60, seed=3)
    assert len(draws) == 60
    assert replicates.eer.shape == replicates.min_dcf.shape == (2, 60)
    for replicate, drawn in enumerate(draws):
        assert drawn.total() == 6
        times = [
            drawn[e] if target else drawn[e] * drawn[t]
            for e, t, target in zip(enrol, test, is_target, strict=True)
        ]
        for system in range(2):
            repeated = np.repeat(scores[system], times), np.repeat(is_target, times)
            assert replicates.eer[system, replicate] == pytest.approx(compute_eer(*repeated), abs=1e-15)
            expected = compute_min_dcf(*repeated, 0.05, 2.0, 0.5)
            assert replicates.min_dcf[system, replicate] == pytest.approx(expected, abs=1e-14)


def test_bootstrap_pairs_systems_and_repeats_itself() -> None:
    scores, is_target, enrol, test = make_trials()
    both = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, num_replicates=30, seed=1)
    for system in range(2):
        alone = bootstrap_by_speaker(scores[system], is_target, enrol, test, 0.05, num_replicates=30, seed=1)
        assert alone.eer.shape == (30,)
        np.testing.assert_array_equal(alone.eer, both.eer[system])
        np.testing.assert_array_equal(alone.min_dcf, both.min_dcf[system])
    other = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, num_replicates=30, seed=2)
    assert not np.array_equal(other.eer, both.eer)


def test_bootstrap_does_not_depend_on_order_or_container() -> None:
    scores, is_target, enrol, test = make_trials()
    order = np.random.default_rng(0).permutation(len(is_target))
    plain = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, num_replicates=20)
    shuffled = bootstrap_by_speaker(
        torch.from_numpy(scores[:, order]),
        torch.from_numpy(is_target[order]),
        np.array(enrol)[order],
        np.array(test)[order],
        0.05,
        num_replicates=20,
    )
    np.testing.assert_array_equal(plain.eer, shuffled.eer)
    np.testing.assert_array_equal(plain.min_dcf, shuffled.min_dcf)


def test_bootstrap_draws_again_where_no_eer_exists() -> None:
    """Two speakers and one trial of each kind: half of all draws hold one speaker only, and no non-target."""
    scores, is_target = np.array([1.0, 0.0]), np.array([True, False])
    replicates = bootstrap_by_speaker(scores, is_target, ["a", "a"], ["a", "b"], 0.05, num_replicates=50)
    assert replicates.eer.tolist() == [0] * 50


def test_intervals_by_speaker_cover_as_they_say() -> None:
    """Draw test sets of 30 new speakers each; about nine in ten 90 % intervals should hold the true EER.

    All targets of a speaker share one score here, so that intervals which drew trials would hold it 52 times.
    """
    random = np.random.default_rng(0)
    num_speakers, covered = 30, 0
    rows, columns = np.triu_indices(num_speakers, k=1)
    enrol = np.concatenate([np.repeat(np.arange(num_speakers), 4), rows])
    test = np.concatenate([np.repeat(np.arange(num_speakers), 4), columns])
    is_target = enrol == test
    # Targets N(2, 2), non-targets N(0, 1): P_miss = P_fa at 2 / (1 + √2) non-target deviations.
    true_eer = 0.5 * math.erfc(2 / (1 + math.sqrt(2)) / math.sqrt(2))
    for seed in range(100):
        offset = random.normal(size=num_speakers)[enrol]
        noise = random.normal(size=len(enrol))
        scores = np.where(is_target, 2 + math.sqrt(2) * offset, noise)
        replicates = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, num_replicates=200, seed=seed)
        interval = percentile_interval(replicates.eer, level=0.9)
        covered += interval.low <= true_eer <= interval.high
    assert 83 <= covered <= 97


def test_percentile_interval() -> None:
    interval = percentile_interval(np.arange(101)[::-1], level=0.9)
    assert (interval.low, interval.high, interval.level) == (pytest.approx(5), pytest.approx(95), 0.9)


def test_refusals() -> None:
    scores, is_target = np.array([1.0, 0.0]), np.array([True, False])

    def refusal(call: object, *args: object, **options: object) -> str:
        with pytest.raises(InputError) as caught:
            call(*args, **options)  # type: ignore[operator]
        return str(caught.value)

    trials = (scores, is_target, ["a", "a"], ["a", "b"], 0.5)
    assert "found 2 targets and 0 non-targets" in refusal(
        bootstrap_by_speaker, scores, np.array([True, True]), ["a", "a"], ["a", "b"], 0.5
    )
    assert "p_target between 0 and 1, found 2" in refusal(bootstrap_by_speaker, *trials[:-1], 2)
    assert "num_replicates of at least 1, found 0" in refusal(bootstrap_by_speaker, *trials, num_replicates=0)
    assert "found 1 and 2 speakers for 2 trials" in refusal(
        bootstrap_by_speaker, scores, is_target, ["a"], ["a", "b"], 0.5
    )
    assert "trial 0 is a target of speakers a and b" in refusal(
        bootstrap_by_speaker, scores, is_target, ["a", "a"], ["b", "b"], 0.5
    )
    assert "trial 1 is a non-target of speakers b and b" in refusal(
        bootstrap_by_speaker, scores, is_target, ["a", "b"], ["a", "b"], 0.5
    )
    for replicates in (np.ones(0), np.ones((2, 2))):
        assert "shape (num_replicates,)" in refusal(percentile_interval, replicates)
    for level in (0, 1, 95):
        assert f"level between 0 and 1, found {level}" in refusal(percentile_interval, np.ones(3), level=level)
