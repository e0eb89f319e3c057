"""The study of choosing in recipes/selection_study: its truth is hidden, its shifts shift, its sums add up."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "selection_study"


pytestmark = pytest.mark.usefixtures("recipe_scripts")


def test_every_shift_is_its_own_and_draws_repeat(study: ModuleType) -> None:
    names = [shift.name for shift in study.SHIFTS]
    assert len(set(names)) == len(names) == 18
    first, again = (study.draw_synthetic(study.SHIFTS[-1], 5) for _ in range(2))
    np.testing.assert_array_equal(first[0].pool, again[0].pool)
    np.testing.assert_array_equal(first[1].embeddings, again[1].embeddings)


def test_the_truth_is_of_speakers_that_no_choice_has_met(study: ModuleType) -> None:
    """Pairs across calls only, and no embedding of the evaluation is in what a choice sees."""
    data, truth = study.draw_synthetic(study.SHIFTS[0], 0)
    rows = {row.tobytes() for row in np.concatenate([data.source, data.pool])}
    assert not rows & {row.tobytes() for row in truth.embeddings}
    calls = np.repeat(np.arange(120), 5)
    assert (calls[truth.first] != calls[truth.second]).all()
    assert len(truth.first) == 600 * 595 // 2
    assert truth.is_target.mean() == pytest.approx(10 / 595)


def test_what_is_in_a_shift_shows_in_the_domain(study: ModuleType) -> None:
    """Each parameter moves the pool, and an offset by as much as it says."""
    still = study.draw_synthetic(study.SHIFTS[0], 0)[0]
    for field in fields(study.SHIFTS[0])[1:]:
        changed = replace(study.SHIFTS[0], **{field.name: 0.5})
        pool = study.draw_synthetic(changed, 0)[0].pool
        assert not np.allclose(pool, still.pool), field.name
    offset = study.draw_synthetic(replace(study.SHIFTS[0], offset=3.0), 0)[0].pool - still.pool
    np.testing.assert_allclose(offset, offset[:1].repeat(len(offset), axis=0), atol=1e-9)
    assert np.sqrt((offset[0] ** 2).mean()) == pytest.approx(3.0, rel=0.3)


def test_candidates_are_fitted_on_what_a_choice_may_see_and_none_is_none(study: ModuleType) -> None:
    data = study.draw_synthetic(study.SHIFTS[8], 0)[0]
    for name, fit in study.CANDIDATES.items():
        of_source, of_target = fit(data)
        assert of_source(data.source).shape[1] == of_target(data.pool).shape[1], name
        if name == study.SOURCE_ONLY:
            assert of_target(data.pool) is data.pool
        else:
            np.testing.assert_allclose(of_target(data.pool).mean(axis=0), 0, atol=1e-6)


RECORDS = [
    {"part": "synthetic", "shift": shift, "seed": seed, "chosen": chosen, "best": best, "seconds": 1.0,
     "eers": {"none": 0.10, "coral": 0.08, "calls, 1.0": 0.12}, "gate": None, "values": {}}
    for shift, seed, chosen, best in (
        ("a", 0, "coral", "coral"), ("a", 1, "none", "calls, 1.0"), ("b", 0, "none", "none")
    )
]  # fmt: skip


def test_regret_and_harm_by_hand(tables: ModuleType) -> None:
    policies = tables.policies()
    np.testing.assert_allclose(tables.regrets(RECORDS, policies[tables.RULE]), [0, 2, 2])
    np.testing.assert_allclose(tables.regrets(RECORDS, policies["the strongest always"]), [4, 4, 4])
    np.testing.assert_allclose(tables.changes(RECORDS, policies[tables.UNGATED]), [-2, 2, 0])
    assert tables.harm_cell(np.array([-2.0, 2.0, 0.0]), 0.0).startswith("1 of 3 [1, 91 %]")
    assert tables.harm_cell(np.array([-2.0, 0.4, 0.0]), 0.5).startswith("0 of 3")


def test_intervals_draw_shifts_with_all_their_seeds(tables: ModuleType) -> None:
    """Two shifts without spread inside: means are 0, ⅔ · 3 or 3, never in between."""
    low, high = tables.mean_interval(np.array([0.0, 0.0, 3.0]), ["a", "a", "b"])
    assert (low, high) == (0.0, 3.0)
    assert tables.mean_interval(np.array([1.0, 1.0]), ["a", "b"]) == (1.0, 1.0)


def test_tables_hold_every_policy_and_shift(tables: ModuleType, tmp_path: Path) -> None:
    ranks = {name: {"none": 2.0, "coral": 1.0, "calls, 1.0": 3.0} for name in tables.VALIDATORS}
    lines = [json.dumps({**record, "ranks": ranks}) for record in RECORDS]
    (tmp_path / "synthetic.jsonl").write_text("\n".join(lines) + "\n")
    tables.write_tables(tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert all(f"| {name} |" in text for name in tables.policies())
    assert "| a | 8.00 | 10.00 | 8.00 | 12.00 | 9.00 | 1 of 2 |" in text
    assert (tmp_path / "regret.png").read_bytes()[:4] == b"\x89PNG"
