from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spkadapt.intervals import INTERVAL_DEFINITION, bootstrap_by_speaker
from spkadapt.metrics import EER_DEFINITION, MIN_DCF_DEFINITION, compute_eer, compute_min_dcf
from spkadapt.progress import Progress
from spkadapt.report.results import (
    ADAPTED,
    FUSED,
    Measure,
    Row,
    Run,
    SeedRun,
    TrialTruth,
    compare_runs,
    render_markdown,
    write_results,
)

MakeRun = Callable[..., Run]


def compare(runs: list[Run], truth: TrialTruth, level: float = 0.9) -> list[Row]:
    return compare_runs(runs, truth, p_target=0.1, num_bootstrap=100, level=level)


def find(rows: list[Row], run: str, condition: str, backend: str) -> Row:
    (row,) = [row for row in rows if (row.run, row.condition, row.backend) == (run, condition, backend)]
    return row


def test_hand_made_scores_have_the_error_rates_worked_out_by_hand() -> None:
    speakers = np.array(["a", "b", "c", "d"])
    enrol, test = np.concatenate([speakers, speakers]), np.concatenate([speakers, np.roll(speakers, 1)])
    truth = TrialTruth(enrol == test, enrol, test, None)
    # One target of four below one non-target of four: P_miss = P_fa = 1/4 at any threshold between the two.
    one_wrong = np.array([4.0, 5, 6, 1, 0, -1, -2, 2], dtype=np.float32)
    none_wrong = np.array([4.0, 5, 6, 3, 0, -1, -2, 2], dtype=np.float32)
    seeds = [
        SeedRun(seed, seconds, {"plain": scores, "centred": none_wrong}, [])
        for seed, seconds, scores in ((5, 10.0, one_wrong), (6, 30.0, none_wrong))
    ]
    rows = compare([Run("r", Path("r"), False, seeds)], truth)
    plain, centred = rows
    assert (plain.run, plain.condition, plain.backend, plain.seeds) == ("r", "all", "plain", (5, 6))
    assert (plain.num_targets, plain.num_nontargets, plain.seconds) == (4, 4, 20.0)
    assert plain.eer.by_seed == (0.25, 0.0)
    assert plain.eer.mean == 0.125
    # p_target 0.1 makes a false alarm nine times as dear: rejecting down to above 2 misses one target of four.
    assert plain.min_dcf.by_seed == (0.25, 0.0)
    assert plain.eer_change is None
    assert centred.eer == Measure((0.0, 0.0), 0.0, 0.0, 0.0)


def make_adapted(name: str, scores: np.ndarray) -> Run:
    return Run(
        name, Path(name), False, [SeedRun(seed, 10.0, {ADAPTED: row}, []) for seed, row in enumerate(scores)]
    )


def test_fused_seeds_are_one_system(truth: TrialTruth) -> None:
    draw = np.random.default_rng(0)
    scores = (truth.is_target + draw.normal(size=(3, len(truth.is_target)))).astype(np.float32)
    scores[1] = 100 * scores[1] - 7  # of another scale, which must not weigh more
    base = make_adapted("base", scores[:1])
    rows = compare([base, make_adapted("r", scores)], truth)
    standardised = [(row - row.mean(dtype=np.float64)) / row.std(dtype=np.float64) for row in scores]
    mean = np.mean(standardised, axis=0)
    for condition, chosen in truth.conditions().items():
        fused, alone = find(rows, "r", condition, FUSED), find(rows, "base", condition, FUSED)
        assert fused.eer.by_seed == (compute_eer(mean[chosen], truth.is_target[chosen]),)
        assert fused.seeds == (0, 1, 2)
        assert fused.seconds == 30.0
        assert fused.eer.mean < find(rows, "r", condition, ADAPTED).eer.mean
        assert alone.eer.by_seed == find(rows, "base", condition, ADAPTED).eer.by_seed
        assert fused.eer_change is not None
        assert fused.eer_change.by_seed == (fused.eer.mean - alone.eer.mean,)


def test_where_every_run_has_one_seed_nothing_is_fused(truth: TrialTruth) -> None:
    scores = np.zeros((1, len(truth.is_target)), dtype=np.float32)
    assert {row.backend for row in compare([make_adapted("r", scores)], truth)} == {ADAPTED}


def test_scores_that_are_all_alike_are_fused_without_a_warning(truth: TrialTruth) -> None:
    scores = np.zeros((2, len(truth.is_target)), dtype=np.float32)
    assert find(compare([make_adapted("r", scores)], truth), "r", "all", FUSED).eer.mean == 0.5


def test_each_condition_and_backend_is_measured_on_its_own_trials(truth: TrialTruth, make_run: MakeRun) -> None:
    run = make_run("r", 1.5)
    rows = compare([run], truth)
    assert [(row.condition, row.backend) for row in rows] == [
        ("all", "plain"),
        ("all", "centred"),
        ("across domains", "plain"),
        ("across domains", "centred"),
    ]
    for row in rows:
        chosen = ~truth.same_domain if row.condition == "across domains" else np.ones(len(truth.is_target), bool)
        is_target = truth.is_target[chosen]
        scores = [seed.scores[row.backend][chosen] for seed in run.seeds]
        assert (row.num_targets, row.num_nontargets) == (is_target.sum(), (~is_target).sum())
        assert row.eer.by_seed == tuple(compute_eer(seed, is_target) for seed in scores)
        assert row.min_dcf.by_seed == tuple(compute_min_dcf(seed, is_target, 0.1) for seed in scores)
        assert row.eer.mean == pytest.approx(np.mean(row.eer.by_seed), rel=1e-12)


def test_intervals_are_quantiles_of_seed_means_under_the_same_draws(truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("base", 1.0), make_run("other", 1.6, seeds=(3, 4))]
    row = find(compare(runs, truth), "other", "all", "plain")
    eers = []
    for run in runs:
        replicates = [
            bootstrap_by_speaker(
                seed.scores["plain"],
                truth.is_target,
                truth.enrol_speakers,
                truth.test_speakers,
                0.1,
                num_replicates=100,
            ).eer
            for seed in run.seeds
        ]
        eers.append(np.mean(replicates, axis=0))
    assert (row.eer.low, row.eer.high) == pytest.approx(np.quantile(eers[1], [0.05, 0.95]), rel=1e-12)
    change = row.eer_change
    assert change is not None
    assert (change.low, change.high) == pytest.approx(np.quantile(eers[1] - eers[0], [0.05, 0.95]), rel=1e-12)


def test_a_run_differs_from_itself_by_exactly_nothing(truth: TrialTruth, make_run: MakeRun) -> None:
    run = make_run("r", 1.2)
    again = replace(run, name="again")
    for row in compare([run, again], truth):
        assert row.eer_change == (None if row.run == "r" else Measure((0.0, 0.0), 0.0, 0.0, 0.0))


def test_lower_error_is_a_negative_change_from_the_first_run(truth: TrialTruth, make_run: MakeRun) -> None:
    rows = compare([make_run("base", 1.0), make_run("good", 4.0), make_run("bad", 0.0)], truth)
    base, good, bad = (find(rows, name, "all", "plain") for name in ("base", "good", "bad"))
    assert base.eer_change is None
    assert good.eer_change is not None
    assert bad.eer_change is not None
    assert good.eer_change.mean == pytest.approx(good.eer.mean - base.eer.mean, rel=1e-12)
    assert good.eer_change.high < 0 < bad.eer_change.low
    # Not from the run before it.
    assert bad.eer_change.mean == pytest.approx(bad.eer.mean - base.eer.mean, rel=1e-12)
    assert good.eer_change.by_seed == tuple(
        new - old for new, old in zip(good.eer.by_seed, base.eer.by_seed, strict=True)
    )


def test_runs_with_other_numbers_of_seeds_have_no_change_by_seed(truth: TrialTruth, make_run: MakeRun) -> None:
    rows = compare([make_run("base", 1.0), make_run("one", 1.5, seeds=(0,))], truth)
    one = find(rows, "one", "all", "plain")
    assert one.eer_change is not None
    assert one.eer_change.by_seed == ()
    assert one.eer_change.low <= one.eer_change.mean <= one.eer_change.high


TARGETS = [True, False, True, False]


@pytest.mark.parametrize(
    ("is_target", "same_domain", "expected"),
    [
        (TARGETS, None, ["all"]),
        (TARGETS, [True, True, False, False], ["all", "across domains"]),
        (TARGETS, [True, True, True, True], ["all"]),
        (TARGETS, [False, False, False, False], ["all"]),
        (TARGETS, [True, True, True, False], ["all"]),
        (TARGETS, [True, True, False, True], ["all"]),
    ],
    ids=["unknown", "both", "none across", "all across", "no target across", "no non-target across"],
)
def test_a_condition_has_both_kinds_of_trial_and_is_not_all_of_them(
    is_target: list[bool], same_domain: list[bool] | None, expected: list[str]
) -> None:
    speakers = np.array(["a"] * 4)
    domains = None if same_domain is None else np.array(same_domain)
    conditions = TrialTruth(np.array(is_target), speakers, speakers, domains).conditions()
    assert list(conditions) == expected
    assert conditions["all"].all()
    if "across domains" in conditions:
        assert conditions["across domains"].tolist() == [not same for same in same_domain or []]


def test_markdown_gives_per_cent_with_two_decimals() -> None:
    eer, dcf = Measure((0.12, 0.1278), 0.1239, 0.1, 0.15), Measure((0.5, 0.6), 0.55555, 0.4, 0.7)
    base = Row("base", "all", "plain", 10, 90, (0, 1), eer, dcf, None, 59.6)
    other = replace(base, run="other", eer_change=Measure((-0.01, 0.0), -0.005, -0.0123, 0.002))
    lines = render_markdown([base, other]).splitlines()
    assert lines[2] == "| base | all | plain | **12.39** [10.00, 15.00] | 12.00 / 12.78 | – | 0.5555 | 60 |"
    assert lines[3].split(" | ")[5] == "-0.50 [-1.23, +0.20]"
    assert {line.count("|") for line in lines} == {9}


def test_results_are_read_back_as_written(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    rows = compare([make_run("base", 1.0), make_run("other", 1.5)], truth)
    write_results(tmp_path / "results.json", rows, {"versions": {"torch": "2.14"}, "seed": 3})
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["definitions"] == {
        "eer": EER_DEFINITION,
        "min_dcf": MIN_DCF_DEFINITION,
        "interval": INTERVAL_DEFINITION,
    }
    assert (found["format"], found["versions"], found["seed"]) == (1, {"torch": "2.14"}, 3)
    assert found["rows"] == json.loads(json.dumps([asdict(row) for row in rows]))
    assert found["rows"][0]["eer"]["mean"] == rows[0].eer.mean
    assert found["rows"][0]["eer_change"] is None


def test_measuring_is_followed_run_by_run(make_run: MakeRun, truth: TrialTruth) -> None:
    said = io.StringIO()
    runs = [make_run("a", 1.0), make_run("b", 2.0)]
    rows = compare_runs(
        runs, truth, p_target=0.1, num_bootstrap=100, level=0.9, progress=Progress(Console(file=said))
    )
    lines = said.getvalue().splitlines()
    assert lines[0] == f"intervals: 0/{len(rows)}, 0 s  a"
    assert lines[-1].startswith(f"intervals: {len(rows)}/{len(rows)}, ")
    assert any(line.endswith("  b") for line in lines)
