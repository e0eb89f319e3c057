"""Intervals by speaker against resampled trials written out, and whether they cover as they say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from spkadapt.errors import InputError
from spkadapt.intervals import (
    bootstrap_by_speaker,
    bootstrap_metrics,
    clopper_pearson_interval,
    compare_paired,
    percentile_interval,
)
from spkadapt.metrics import OperatingPoint, compute_eer, compute_min_dcf, measure, measure_equalised
from spkadapt.metrics.weighted import (
    AUC,
    CLLR,
    EER,
    MIN_CLLR,
    ROCCH_EER,
    Metric,
    act_dcf,
    far_at_frr,
    frr_at_far,
    min_dcf,
)

TWO_POINTS = (OperatingPoint(0.3), OperatingPoint(0.1, 2.0))
METRICS: list[Metric] = [
    EER,
    act_dcf(*TWO_POINTS),
    ROCCH_EER,
    AUC,
    CLLR,
    MIN_CLLR,
    min_dcf(*TWO_POINTS),
    frr_at_far(0.2),
    far_at_frr(0.1),
]


def make_trials(num_speakers: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    random = np.random.default_rng(seed)
    enrol, test = random.integers(num_speakers, size=(2, 150))
    test[:40] = enrol[:40]
    is_target = enrol == test
    scores = (random.normal(size=(2, 150)) + is_target).round(1)
    return scores, is_target, [f"s{i}" for i in enrol], [f"s{i}" for i in test]


TRIALS = make_trials()


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Fills with how often each speaker was drawn, one entry a replicate."""
    recorded: list[Counter[str]] = []
    default_rng = np.random.default_rng

    class Recorder:
        def __init__(self, seed: int) -> None:
            self.generator = default_rng(seed)

        def integers(self, high: int, size: int) -> np.ndarray:
            drawn = self.generator.integers(high, size=size)
            recorded.append(Counter(f"s{i}" for i in drawn))
            return drawn

    monkeypatch.setattr(np.random, "default_rng", Recorder)
    return recorded


def count_times(drawn: Counter[str], is_target: np.ndarray, enrol: list[str], test: list[str]) -> list[int]:
    return [
        drawn[e] if target else drawn[e] * drawn[t] for e, t, target in zip(enrol, test, is_target, strict=True)
    ]


def test_bootstrap_is_that_of_resampled_trials_written_out(draws: list[Counter[str]]) -> None:
    """Repeat each trial as often as its speakers were drawn; measure the longer list by the usual functions."""
    scores, is_target, enrol, test = TRIALS
    replicates = bootstrap_by_speaker(scores, is_target, enrol, test, 0.05, 2.0, 0.5, num_replicates=60, seed=3)
    assert len(draws) == 60
    assert replicates.eer.shape == replicates.min_dcf.shape == (2, 60)
    for replicate, drawn in enumerate(draws):
        assert drawn.total() == 6
        times = count_times(drawn, is_target, enrol, test)
        for system in range(2):
            repeated = np.repeat(scores[system], times), np.repeat(is_target, times)
            assert replicates.eer[system, replicate] == pytest.approx(compute_eer(*repeated), abs=1e-15)
            expected = compute_min_dcf(*repeated, 0.05, 2.0, 0.5)
            assert replicates.min_dcf[system, replicate] == pytest.approx(expected, abs=1e-14)


def test_every_metric_has_replicates(draws: list[Counter[str]]) -> None:
    scores, is_target, enrol, test = TRIALS
    replicates = bootstrap_metrics(scores, is_target, enrol, test, METRICS, num_replicates=20, seed=3)
    assert list(replicates) == [metric.name for metric in METRICS]
    for replicate, drawn in enumerate(draws):
        times = count_times(drawn, is_target, enrol, test)
        for metric in METRICS:
            for system in range(2):
                expected = measure(metric, np.repeat(scores[system], times), np.repeat(is_target, times))
                assert replicates[metric.name][system, replicate] == pytest.approx(expected, abs=1e-14)


def test_equalised_replicates(draws: list[Counter[str]]) -> None:
    """Partitions are equalised within each replicate, whatever it drew of them."""
    scores, is_target, enrol, test = TRIALS
    partitions = np.where([e == "s0" for e in enrol], "of s0", "others")  # some draws leave s0 out
    metrics = [CLLR, min_dcf(*TWO_POINTS)]
    replicates = bootstrap_metrics(
        scores[0], is_target, enrol, test, metrics, partitions=partitions, num_replicates=20
    )
    assert any("s0" not in drawn for drawn in draws)
    for replicate, drawn in enumerate(draws):
        times = count_times(drawn, is_target, enrol, test)
        repeated = [np.repeat(values, times) for values in (scores[0], is_target, partitions)]
        for metric in metrics:
            expected = measure_equalised(metric, *repeated)
            assert replicates[metric.name][replicate] == pytest.approx(expected, abs=1e-13)


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


def test_paired_test_by_hand() -> None:
    scores, is_target, enrol, test = make_trials()
    replicates = bootstrap_metrics(scores, is_target, enrol, test, [EER], num_replicates=199, seed=4)["EER"]
    found = compare_paired(*scores, is_target, enrol, test, EER, num_replicates=199, level=0.8, seed=4)
    differences = replicates[1] - replicates[0]
    assert found.interval == percentile_interval(differences, 0.8)
    rarer = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert found.p_value == min(1, 2 * (1 + rarer) / 200) < 1
    assert (found.first, found.second) == tuple(compute_eer(system, is_target) for system in scores)
    assert (found.metric, found.difference) == ("EER", found.second - found.first)


def test_paired_test_of_systems_that_are_alike_or_worlds_apart() -> None:
    scores, is_target, enrol, test = make_trials()
    alike = compare_paired(scores[0], scores[0], is_target, enrol, test, MIN_CLLR, num_replicates=99)
    assert (alike.difference, alike.p_value, alike.interval.low, alike.interval.high) == (0, 1, 0, 0)
    apart = compare_paired(
        is_target * 1.0, is_target * -1.0, is_target, enrol, test, EER, partitions=enrol, num_replicates=99
    )
    assert (apart.first, apart.second, apart.p_value) == (0, 1, 0.02)
    assert (apart.interval.low, apart.interval.high) == (1, 1)


def test_p_values_of_no_difference_are_rarely_small() -> None:
    """Two systems of one quality, whose speakers' offsets are drawn apart: about one p in five below 0.2."""
    random = np.random.default_rng(0)
    rows, columns = np.triu_indices(20, k=1)
    enrol, test = (np.concatenate([np.repeat(np.arange(20), 3), side]) for side in (rows, columns))
    is_target = enrol == test
    below = 0
    for seed in range(100):
        offsets = random.normal(size=(2, 20))[:, enrol]
        systems = np.where(is_target, 2 + offsets, random.normal(size=(2, len(enrol))))
        below += compare_paired(*systems, is_target, enrol, test, AUC, num_replicates=99, seed=seed).p_value < 0.2
    assert 8 <= below <= 32  # three deviations of a binomial


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
    assert "num_replicates of at least 1, found 0" in refusal(
        bootstrap_metrics, *trials[:-1], [EER], num_replicates=0
    )
    assert "expected a partition for each of 2 trials, found 1" in refusal(
        bootstrap_metrics, *trials[:-1], [EER], partitions=["x"]
    )
    for second in (np.ones(3), np.ones((2, 2))):
        assert f"scores of the same trials, found shapes (2,) and {second.shape}" in refusal(
            compare_paired, scores, second, *trials[1:-1], EER
        )
    for replicates in (np.ones(0), np.ones((2, 2))):
        assert "shape (num_replicates,)" in refusal(percentile_interval, replicates)
    for level in (0, 1, 95):
        assert f"level between 0 and 1, found {level}" in refusal(percentile_interval, np.ones(3), level=level)


# A rate from counts ---------------------------------------------------------------------------------------------


def binomial_tail(num_cases: int, rate: float, counts: range) -> float:
    return sum(math.comb(num_cases, k) * rate**k * (1 - rate) ** (num_cases - k) for k in counts)


@pytest.mark.parametrize(("num_events", "num_cases"), [(1, 7), (3, 20), (19, 20), (40, 92)])
def test_each_end_of_the_exact_interval_makes_the_count_as_rare_as_its_tail(
    num_events: int, num_cases: int
) -> None:
    """The definition: at the low end so many or more, at the high end so many or fewer, have probability 2.5 %."""
    found = clopper_pearson_interval(num_events, num_cases)
    above = binomial_tail(num_cases, found.low, range(num_events, num_cases + 1))
    below = binomial_tail(num_cases, found.high, range(num_events + 1))
    assert (above, below) == (pytest.approx(0.025, rel=1e-9), pytest.approx(0.025, rel=1e-9))
    assert found.level == 0.95


def test_none_and_all_leave_one_end_open() -> None:
    """The high end of 0 of n is 1 − (α/2)^(1/n)."""
    none, every = clopper_pearson_interval(0, 30, 0.9), clopper_pearson_interval(30, 30, 0.9)
    assert (none.low, none.high) == (0, pytest.approx(1 - 0.05 ** (1 / 30)))
    assert (every.low, every.high) == (pytest.approx(0.05 ** (1 / 30)), 1)


@pytest.mark.parametrize(("num_events", "num_cases"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(num_events: int, num_cases: int) -> None:
    with pytest.raises(InputError, match=f"events, found {num_events} of {num_cases}"):
        clopper_pearson_interval(num_events, num_cases)


def test_the_level_of_a_rate_is_checked() -> None:
    with pytest.raises(InputError, match="expected level between 0 and 1, found 1"):
        clopper_pearson_interval(1, 2, 1)
