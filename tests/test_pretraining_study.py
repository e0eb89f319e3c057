"""The study of pretraining in recipes/pretraining_study: that it resumes, compares in pairs and hides no loser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from spkadapt.errors import InputError
from spkadapt.progress import Progress

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "pretraining_study"


pytestmark = pytest.mark.usefixtures("recipe_scripts")


@pytest.fixture(scope="module")
def frames(recipe_scripts):
    from speech_frames import synthetic_frames

    return synthetic_frames(6, 5, 4, 3, seed=1)


@pytest.fixture(scope="module")
def tiny(study: ModuleType):
    """A grid of two seeds with every member in it."""
    classifiers = {
        name: replace(config, num_epochs=2, batch_size=16) for name, config in study.QUICK.classifiers.items()
    }
    return replace(study.QUICK, hidden_dim=5, depths=(3,), classifiers=classifiers)


@pytest.fixture(scope="module")
def whole(study: ModuleType, tiny, frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("whole")
    study.run_study(tiny, frames, out, Progress())
    return out


def results(out: Path) -> list[dict[str, object]]:
    """The cells' records without what a clock measured."""
    lines = (out / "results.jsonl").read_text().splitlines()[1:]
    records = [json.loads(line) for line in lines]
    return [{key: value for key, value in r.items() if not key.endswith("seconds")} for r in records]


def test_every_cell_of_the_grid_has_one_record(tiny, whole: Path) -> None:
    names = [record["name"] for record in results(whole)]
    assert names == [cell.name for cell in tiny.cells()]
    assert len(set(names)) == len(names)


def test_the_full_grid_holds_what_the_readme_says(study: ModuleType) -> None:
    cells = study.FULL.cells()
    assert {cell.depth for cell in cells} == {1, 2, 3, 4, 5}
    assert {cell.budget for cell in cells if cell.depth == 3} == {1, 2, 4, 6}
    assert {cell.activation for cell in cells} == {"sigmoid", "relu"}
    assert {cell.member for cell in cells} == {"", "random", *study.FULL.members}
    for cell in cells:  # every arm stands beside its control
        assert replace(cell, strategy="supervised", member="") in cells


def test_a_run_that_was_cut_short_goes_on_with_the_same_bits(
    study: ModuleType, tiny, frames, whole: Path, tmp_path: Path
) -> None:
    lines = (whole / "results.jsonl").read_bytes().splitlines(keepends=True)
    keep = len(lines) // 2
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:30])
    study.run_study(tiny, frames, tmp_path, Progress())
    assert results(tmp_path) == results(whole)
    # What had ended was not run again: its seconds are those of the first run, to the letter.
    assert (tmp_path / "results.jsonl").read_bytes().startswith(b"".join(lines[:keep]))


def test_no_cell_starts_when_time_is_up(study: ModuleType, tiny, frames, tmp_path: Path) -> None:
    assert study.run_study(tiny, frames, tmp_path, Progress(), minutes=-1) == []


def test_results_of_other_settings_are_refused(study: ModuleType, tiny, frames, whole: Path) -> None:
    with pytest.raises(InputError, match="holds the results of other settings"):
        study.run_study(replace(tiny, hidden_dim=6), frames, whole, Progress())


def test_a_member_that_loses_and_one_that_diverges_stay_in_the_table(
    study: ModuleType, tables: ModuleType, tiny, frames, whole: Path, tmp_path: Path
) -> None:
    dae = tiny.members["dae"]
    exploding = replace(dae, config=replace(dae.config, learning_rate=1e12))
    members, classifiers = {**tiny.members, "dae": exploding}, {"sigmoid": tiny.classifiers["sigmoid"]}
    losing = replace(tiny, members=members, classifiers=classifiers, depths=(3,), budgets=(1,))
    records = study.run_study(losing, frames, tmp_path, Progress())
    diverged = [record for record in records if "diverged" in record]
    assert {record["cell"]["member"] for record in diverged} == {"dae"}
    assert all("pretraining diverged at layer" in record["diverged"] for record in diverged)
    table = tables.tabulate(losing, records)
    assert "| finetune-dae (2 diverged) | 0 | – |" in table
    full = tables.tabulate(tiny, [json.loads(line) for line in (whole / "results.jsonl").open()][1:])
    for cell in tiny.cells():
        assert f"| {cell.arm} | 2 |" in full


def test_the_control_has_the_same_units_depth_labels_and_steps(tables: ModuleType, whole: Path) -> None:
    arms = tables.collect([json.loads(line) for line in (whole / "results.jsonl").open()][1:])
    for arm in arms.values():
        control = tables.control_of(arm, arms)
        if arm.cell.strategy == "supervised":
            assert control is None
        else:
            assert control.cell == replace(arm.cell, strategy="supervised", member="")
            assert tables.paired(control, arm).shape == (2, 6)


def test_seeds_and_speakers_are_drawn_as_a_loop_would(tables: ModuleType) -> None:
    values = np.random.default_rng(3).normal(size=(3, 5))
    generator = np.random.default_rng(0)
    seeds = generator.multinomial(3, np.full(3, 1 / 3), size=tables.NUM_DRAWS)
    speakers = generator.multinomial(5, np.full(5, 1 / 5), size=tables.NUM_DRAWS)
    found = tables.bootstrap_means(values)
    for draw in range(0, tables.NUM_DRAWS, 97):
        picked = np.repeat(np.repeat(values, seeds[draw], axis=0), speakers[draw], axis=1)
        assert found[draw] == pytest.approx(picked.mean(), abs=1e-12)


def test_a_change_that_is_the_same_everywhere_has_an_interval_of_no_width(tables: ModuleType) -> None:
    ends = tables.interval_of(np.full((4, 7), 0.25))
    assert (ends.low, ends.high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_labels_of_a_small_budget_are_among_those_of_a_larger(frames) -> None:
    small, classes = frames.labelled(2, seed=4)
    large, _ = frames.labelled(3, seed=4)
    assert torch.equal(small.view(6, 2, 5, -1), large.view(6, 3, 5, -1)[:, :2])
    assert torch.equal(classes, torch.arange(6).repeat_interleave(10))
    everything, _ = frames.labelled(6, seed=4)
    assert torch.equal(everything.view(6, -1).sort().values, frames.pool.view(6, -1).sort().values)


def test_right_answers_are_counted_by_speaker(study: ModuleType, frames) -> None:
    """Beside a loop over utterances, with a classifier of random weights."""
    from spkadapt.pretrain import FrameClassifier

    output = torch.nn.Linear(12, 6)
    classifier = FrameClassifier([], output, "relu")
    found = study.evaluate(classifier, frames)
    for speaker in range(6):
        utterances = [classifier.log_probabilities(frames.test[speaker, number]) for number in range(2)]
        assert found["utterances_right"][speaker] == sum(int(u.mean(0).argmax()) == speaker for u in utterances)
        assert found["frames_right"][speaker] == sum(int((u.argmax(1) == speaker).sum()) for u in utterances)


def test_a_filter_sheet_shows_time_rightwards_and_frequency_upwards(study: ModuleType) -> None:
    from pictures import filter_sheet

    weight = np.zeros((2, 3 * 4))  # three frames of four features
    weight[0, 0 * 4 + 3] = 2.0  # the first frame's highest feature
    weight[1, 2 * 4 + 0] = -1.0  # the last frame's lowest one
    sheet = filter_sheet(weight, context=3)
    assert sheet.shape == (5, 20 * 4)
    assert sheet[0, 0] == 1
    assert sheet[3, 4 + 2] == -1
    assert np.nansum(np.abs(sheet)) == 2


def test_pictures_are_drawn_and_small(study: ModuleType, tiny, whole: Path) -> None:
    records = [json.loads(line) for line in (whole / "results.jsonl").open()][1:]
    study.draw_all(tiny, records, whole, 3)
    for name in ("labels", "depth", "gradients", "filters"):
        assert 1000 < (whole / f"{name}.png").stat().st_size < 200_000
