"""The tables of recipes/phone: every run is in them, best first, with the figures of `results.json`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spkadapt.report.results import (
    ADAPTED,
    CENTRED,
    FUSED,
    PLAIN,
    Row,
    Run,
    SeedRun,
    TrialTruth,
    compare_runs,
    write_results,
)

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "phone"


pytestmark = pytest.mark.usefixtures("recipe_scripts")


def make_run(name: str, gap: float, truth: TrialTruth) -> Run:
    """Its centred scores part the speakers by `gap`, its plain ones by less and its adapted ones by more."""
    seeds = []
    for seed in (0, 1):
        noise = np.random.default_rng(seed).normal(size=len(truth.is_target))
        gaps = {PLAIN: 0.5 * gap, CENTRED: gap, ADAPTED: 1.5 * gap}
        scores = {backend: (noise + own * truth.is_target).astype(np.float32) for backend, own in gaps.items()}
        seeds.append(SeedRun(seed, 10.0 + seed, scores, []))
    return Run(f"phone/{name}", Path(name), False, seeds)


@pytest.fixture(scope="module")
def rows(truth: TrialTruth) -> list[Row]:
    runs = [make_run(name, gap, truth) for name, gap in (("source_only", 1.0), ("worse", 0.5), ("better", 2.0))]
    return compare_runs(runs, truth, p_target=0.05, num_bootstrap=100, level=0.95)


def test_every_run_has_a_line_in_every_table(tables: ModuleType, rows: list[Row], tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", rows, {})
    found = tables.load_rows(tmp_path / "results.json")
    for condition in tables.CONDITIONS:
        header, rule, *lines = tables.render_table(found, condition)
        assert header.count("|") == rule.count("|") == len(tables.COLUMNS) + 1
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [line[0] for line in cells] == ["better", "source_only", "worse"]
        for line in cells:
            of_run = {
                row.backend: row for row in rows if (row.condition, row.run) == (condition, f"phone/{line[0]}")
            }
            assert line[1].startswith(f"**{100 * of_run[CENTRED].eer.mean:.2f}** [")
            assert line[2] == " / ".join(f"{100 * value:.2f}" for value in of_run[CENTRED].eer.by_seed)
            assert line[4].startswith(f"**{100 * of_run[ADAPTED].eer.mean:.2f}** [")
            assert line[6] == f"{100 * of_run[FUSED].eer.mean:.2f}"
            assert line[7] == f"{100 * of_run[PLAIN].eer.mean:.2f}"
        changes = {line[0]: (line[3], line[5], line[8]) for line in cells}
        assert changes["source_only"] == ("–", "–", "–")
        assert all(change.startswith("+") for change in changes["worse"])
        assert all(change.startswith("-") for change in changes["better"])


def test_the_picture_has_every_run(tables: ModuleType, rows: list[Row], tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", rows, {})
    found = tables.load_rows(tmp_path / "results.json")
    assert tables.sort_runs(found, "all") == ["better", "source_only", "worse"]
    tables.draw(found, tmp_path / "new" / "eer.png")
    assert (tmp_path / "new" / "eer.png").read_bytes().startswith(b"\x89PNG")
