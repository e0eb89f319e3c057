"""evaluate and calibrate on files: what is measured, compared, calibrated, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spkadapt.backend.calibration import LogisticCalibration
from spkadapt.errors import InputError
from spkadapt.metrics import compute_act_dcf, compute_cllr, compute_eer, compute_min_dcf
from spkadapt.metrics.conditions import EQUALISED_DEFINITION
from spkadapt.pipeline import calibrate_files, evaluate_file
from spkadapt.progress import Progress
from spkadapt.score import Scores, load_scores, save_scores
from spkadapt.trials import Trials

NUM_SPEAKERS, PER_SPEAKER = 12, 4


class World:
    """Trials of all pairs of utterances, a manifest, and score files of systems that know more or less."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"s{s:02d}-{u}" for s in range(NUM_SPEAKERS) for u in range(PER_SPEAKER)]
        first, second = np.triu_indices(len(self.names), 1)
        self.enrol, self.test = ([self.names[i] for i in side] for side in (first, second))
        self.is_target = first // PER_SPEAKER == second // PER_SPEAKER
        self.trials = folder / "trials.txt"
        Trials(tuple(self.enrol), tuple(self.test), self.is_target).save(self.trials)
        rows = [
            f"{n},{n}.wav,{n[:3]},{'mf'[i % 2]},{'cell' if i % 3 else 'land'}" for i, n in enumerate(self.names)
        ]
        self.manifest = folder / "manifest.csv"
        self.manifest.write_text("utterance_id,path,speaker_id,gender,domain\n" + "\n".join(rows) + "\n")

    def scores(self, name: str, gap: float, seed: int = 0) -> Path:
        values = np.random.default_rng(seed).normal(size=len(self.is_target)) + gap * self.is_target
        save_scores(self.folder / name, Scores(tuple(self.enrol), tuple(self.test), values))
        return self.folder / name


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_metrics_are_those_of_the_functions(world: World) -> None:
    path = world.scores("a.txt", 2.0)
    values, is_target = load_scores(path).scores, world.is_target
    found = evaluate_file(path, world.trials, p_targets=[0.1], llr=True, evaluation="sre16")
    assert found["metrics"]["EER"] == compute_eer(values, is_target)
    assert found["metrics"]["minDCF(0.1)"] == pytest.approx(compute_min_dcf(values, is_target, 0.1))
    assert found["metrics"]["actDCF(0.1)"] == pytest.approx(compute_act_dcf(values, is_target, 0.1))
    assert found["metrics"]["Cllr"] == pytest.approx(compute_cllr(values, is_target))
    primary = np.mean([compute_min_dcf(values, is_target, p) for p in (0.01, 0.005)])
    assert found["metrics"]["minDCF(0.01, 0.005)"] == pytest.approx(primary)
    assert set(found["metrics"]) == set(found["definitions"])
    assert (found["num_targets"], found["num_nontargets"]) == (is_target.sum(), (~is_target).sum())
    assert "Cllr" not in evaluate_file(path, world.trials)["metrics"]


def test_intervals_come_with_a_manifest(world: World) -> None:
    path = world.scores("a.txt", 2.0)
    found = evaluate_file(path, world.trials, manifest=world.manifest, num_bootstrap=100)
    assert set(found["intervals"]) == set(found["metrics"])
    interval = found["intervals"]["EER"]
    assert 0 <= interval["low"] <= found["metrics"]["EER"] <= interval["high"] <= 1
    assert "intervals" not in evaluate_file(path, world.trials)


def test_conditions_are_the_pairs_of_values(world: World) -> None:
    path = world.scores("a.txt", 2.0)
    found = evaluate_file(path, world.trials, manifest=world.manifest, by=["gender", "domain"], num_bootstrap=20)
    assert len(found["conditions"]) == 3 * 3
    assert sum(one["num_targets"] for one in found["conditions"]) == found["num_targets"]
    both_m = next(one for one in found["conditions"] if one["condition"] == "gender=m/m, domain=cell/cell")
    row_of = {name: row for row, name in enumerate(world.names)}

    def is_cell_man(name: str) -> bool:
        return row_of[name] % 2 == 0 and row_of[name] % 3 != 0

    chosen = np.array([is_cell_man(a) and is_cell_man(b) for a, b in zip(world.enrol, world.test, strict=True)])
    expected = compute_eer(load_scores(path).scores[chosen], world.is_target[chosen])
    assert both_m["values"]["EER"] == pytest.approx(expected)
    assert found["definitions"]["equalised"] == EQUALISED_DEFINITION
    assert 0 < found["equalised"]["EER"] < 1


def test_two_systems_are_compared_by_speaker(world: World) -> None:
    good, bad = world.scores("good.txt", 4.0), world.scores("bad.npz", 0.5, seed=1)
    found = evaluate_file(good, world.trials, manifest=world.manifest, against=bad, num_bootstrap=200)
    comparison = found["comparison"]
    assert comparison["against"] == str(bad)
    assert comparison["difference"] == pytest.approx(found["metrics"]["EER"] - comparison["first"])
    assert comparison["interval"]["high"] < 0
    assert comparison["p_value"] < 0.02
    assert "comparison" in found["definitions"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluation": "sre17"}, 'no evaluation "sre17"; did you mean'),
        ({"by": ["gender"]}, "need a manifest"),
        ({"against": Path("x")}, "need a manifest"),
        ({"p_targets": [1.5]}, "expected p_target between 0 and 1, found 1.5"),
    ],
)
def test_bad_settings_are_refused(world: World, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_file(world.scores("a.txt", 2.0), world.trials, **settings)


def test_an_unknown_condition_is_refused(world: World) -> None:
    with pytest.raises(InputError, match='no conditions by "gendre"; did you mean "gender"'):
        evaluate_file(world.scores("a.txt", 2.0), world.trials, manifest=world.manifest, by=["gendre"])


def test_calibration_learns_from_labelled_trials(world: World) -> None:
    path, out = world.scores("a.txt", 3.0), world.folder / "llr.txt"
    calibrate_files([path], out, Progress(), trials=world.trials, training_scores=[path])
    llrs, values = load_scores(out).scores, load_scores(path).scores
    expected = LogisticCalibration().fit(values[:, None], world.is_target).transform(values[:, None])
    np.testing.assert_allclose(llrs, expected, rtol=1e-6)
    assert compute_cllr(llrs, world.is_target) < compute_cllr(values, world.is_target)


def test_fusion_beats_either_system(world: World) -> None:
    systems = [world.scores("a.txt", 1.5, seed=1), world.scores("b.txt", 1.5, seed=2)]
    calibrate_files(systems, world.folder / "f.txt", Progress(), trials=world.trials, training_scores=systems)
    fused = compute_eer(load_scores(world.folder / "f.txt").scores, world.is_target)
    assert fused < min(compute_eer(load_scores(path).scores, world.is_target) for path in systems)


def test_calibration_without_labels_finds_two_gaussians(world: World) -> None:
    path, out = world.scores("a.txt", 6.0), world.folder / "llr.parquet"
    calibrate_files([path], out, Progress())
    llrs, values = load_scores(out).scores, load_scores(path).scores
    slope = np.polyfit(values, llrs, 1)[0]
    assert slope == pytest.approx(6.0, rel=0.15)  # gap / variance
    assert compute_cllr(llrs, world.is_target) < 0.1


def test_calibration_refuses_what_it_cannot_do(world: World) -> None:
    a, out = world.scores("a.txt", 3.0), world.folder / "out.txt"
    with pytest.raises(InputError, match="expected one system to calibrate without labels, found 2 systems"):
        calibrate_files([a, a], out, Progress())
    with pytest.raises(InputError, match="give --trials too"):
        calibrate_files([a], out, Progress(), training_scores=[a])
    with pytest.raises(InputError, match="0 training score files for 1 systems"):
        calibrate_files([a], out, Progress(), trials=world.trials)
    assert not out.exists()
