"""The page a run ends in: one file that needs nothing else and works offline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from spkadapt.files import write_text
from spkadapt.intervals import INTERVAL_DEFINITION
from spkadapt.metrics import EER_DEFINITION, MIN_DCF_DEFINITION
from spkadapt.report import plots
from spkadapt.report.results import Row, Run, TrialTruth
from spkadapt.report.wording import format_change, format_eer, group_rows, judge_change, name_trials

MOST_DRAWN = 8
DEFINITIONS = {
    "EER": EER_DEFINITION,
    "minDCF": MIN_DCF_DEFINITION,
    "interval": INTERVAL_DEFINITION,
    "change": "EER less the first run's, on the same bootstrap draws of speakers and averaged over seeds; better "
    "or worse where its interval leaves out zero, else no clear difference",
}


def write_report(
    path: Path,
    rows: Sequence[Row],
    runs: Sequence[Run],
    truth: TrialTruth,
    maps: Mapping[str, str],
    notes: Mapping[str, Any],
) -> None:
    """Write a self-contained HTML page, atomically; the same input gives the same bytes.

    Args:
        path: of the page.
        rows: what `compare_runs` measured.
        runs: the runs, in the same order; the first is what the others are compared with.
        truth: the trials.
        maps: pictures of embeddings by title, as `draw_embedding_map` returns them: put into the page as they are.
        notes: what the page says of its making (versions, recipe, checksums, skipped audio, …), shown as it is
            nested. Must hold `p_target`, that of the minDCF, and `level`, that of the intervals.

    Raises:
        KeyError: `notes` lacks `p_target` or `level`.
    """
    environment = Environment(
        loader=PackageLoader("spkadapt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"as_json": _as_json, "breakable": _breakable}
    page = environment.get_template("report.html").render(
        p_target=f"{notes['p_target']:g}",
        level=f"{100 * notes['level']:g} %",
        groups=[_describe_group(*key, group) for key, group in group_rows(rows).items()],
        runs=runs,
        synthetic=any(run.synthetic for run in runs),
        num_speakers=len(np.unique(np.concatenate([truth.enrol_speakers, truth.test_speakers]))),
        headline={"trials": name_trials(rows[0].condition), "backend": rows[0].backend},
        definitions=DEFINITIONS,
        notes=notes,
        **_draw(rows, runs, truth, maps),
    )
    write_text(path, page)


def _draw(rows: Sequence[Row], runs: Sequence[Run], truth: TrialTruth, maps: Mapping[str, str]) -> dict[str, Any]:
    backend = rows[0].backend
    runs = _choose_drawn(rows, runs)
    training = Markup(plots.draw_training(runs)) if plots.training_terms(runs) else None
    return {
        "error_rates": Markup(plots.draw_error_rates(rows)),
        "det": Markup(plots.draw_det(runs, truth, backend)),
        "histograms": [(run, Markup(plots.draw_score_histograms(run, truth, backend))) for run in runs],
        "training": training,
        "maps": {title: Markup(picture) for title, picture in maps.items()},
    }


def _choose_drawn(rows: Sequence[Row], runs: Sequence[Run]) -> Sequence[Run]:
    """The first run and the others of least EER, in order: of more, no curve could be told from the next."""
    eers = {row.run: row.eer.mean for row in next(iter(group_rows(rows).values()))}
    others = sorted(runs[1:], key=lambda run: eers[run.name])[: MOST_DRAWN - 1]
    return [run for run in runs if run is runs[0] or run in others]


def _describe_group(condition: str, backend: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "trials": name_trials(condition),
        "backend": backend,
        "num_targets": rows[0].num_targets,
        "num_nontargets": rows[0].num_nontargets,
        "rows": [_describe_row(row) for row in rows],
    }


def _describe_row(row: Row) -> dict[str, Any]:
    change = row.eer_change
    return {
        "run": row.run,
        "eer": format_eer(row.eer),
        "seeds": row.seeds,
        "change": None if change is None else format_change(change),
        "verdict": None if change is None else judge_change(change),
        "min_dcf": f"{row.min_dcf.mean:.4f}",
        "seconds": f"{row.seconds:.0f}",
    }


def _breakable(name: str) -> Markup:
    """A name that is broken after its slashes and underscores where it must be, and not within a word."""
    return Markup(re.sub(r"([_/])", r"\1<wbr>", str(escape(name))))


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
