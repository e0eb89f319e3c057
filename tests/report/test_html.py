from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spkadapt.intervals import INTERVAL_DEFINITION
from spkadapt.metrics import EER_DEFINITION, MIN_DCF_DEFINITION
from spkadapt.report.html import MOST_DRAWN, write_report
from spkadapt.report.plots import draw_det
from spkadapt.report.results import Measure, Row, Run, TrialTruth, compare_runs
from spkadapt.report.terminal import render_table
from spkadapt.report.wording import judge_change

MakeRun = Callable[..., Run]
NOTES: dict[str, Any] = {"p_target": 0.05, "level": 0.9}
_VOID = {"meta", "br", "link", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """What a browser would make of a page, refusing tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"closed but not open: {tag}"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += " ".join(data.split()) and f" {' '.join(data.split())}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def report(
    folder: Path,
    runs: list[Run],
    truth: TrialTruth,
    notes: dict[str, Any] | None = None,
    maps: dict[str, str] | None = None,
) -> tuple[str, list[Row]]:
    rows = compare_runs(runs, truth, p_target=0.05, num_bootstrap=50, level=0.9)
    write_report(folder / "report.html", rows, runs, truth, maps or {}, {**NOTES, **(notes or {})})
    return (folder / "report.html").read_text(encoding="utf-8"), rows


def test_table_holds_the_numbers_of_the_rows(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("base", 1.0), make_run("good", 4.0), make_run("bad", 0.0), make_run("same", 1.0)]
    text, rows = report(tmp_path, runs, truth)
    found = [[cell.strip() for cell in row] for row in Page(text).rows]
    expected = []
    for row in rows:
        change = row.eer_change
        expected.append(
            [
                row.run,
                f"{100 * row.eer.mean:.2f} [{100 * row.eer.low:.2f}, {100 * row.eer.high:.2f}]",
                f"{100 * row.eer.by_seed[0]:.2f} / {100 * row.eer.by_seed[1]:.2f}",
                f"{100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]" if change else "–",
                {"base": "reference", "good": "better", "bad": "worse", "same": "no clear difference"}[row.run],
                f"{row.min_dcf.mean:.4f}",
                "10" if row.seconds == 10.5 else "",
            ]
        )
    assert [row for row in found if len(row) == 7][1:] == expected
    heads = [row for row in found if len(row) == 1]
    across = truth.is_target[~truth.same_domain]
    assert heads[0] == ["All trials, plain backend: 24 targets, 252 non-targets"]
    assert heads[3] == [
        f"Trials across domains, centred backend: {across.sum()} targets, {(~across).sum()} non-targets"
    ]
    assert found[0][1] == "EER % [90 % interval]"
    assert found[0][5] == "minDCF p_target 0.05"


def test_first_thing_said_is_what_was_compared_and_on_which_trials(
    tmp_path: Path, truth: TrialTruth, make_run: MakeRun
) -> None:
    text, _ = report(tmp_path, [make_run("base", 1.0), make_run("coral", 1.5), make_run("mmd", 1.5)], truth)
    said = Page(text[text.index("<body>") : text.index("</html>")]).text
    compared = "Comparison of 3 runs coral , mmd compared with base on 276 trials of 8 speakers: "
    assert said.startswith(compared + "24 targets and 252 non-targets.")
    alone, _ = report(tmp_path, [make_run("base", 1.0)], truth)
    assert "The run base on 276 trials" in Page(alone).text
    assert "reference" not in alone


def test_synthetic_voices_are_owned_up_to_before_any_number(
    tmp_path: Path, truth: TrialTruth, make_run: MakeRun
) -> None:
    real, made = make_run("real", 1.0), make_run("made", 1.0, synthetic=True)
    text, _ = report(tmp_path, [real, made], truth)
    assert 0 < text.index("The voices are synthetic.") < text.index("<table>")
    text, _ = report(tmp_path, [real, real], truth)
    assert "synthetic" not in text


def test_long_names_break_between_words(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    text, _ = report(tmp_path, [make_run("phone/source_only", 1.0)], truth)
    assert '<th scope="row">phone/<wbr>source_<wbr>only</th>' in text


def test_every_name_is_escaped(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    evil = '<script>alert("x")</script>'
    runs = [make_run(evil, 1.0, term="<b>term</b>"), make_run("<i>&", 1.0)]
    notes = {evil: {evil: evil, "list": [evil, evil], "deep": [{"k": evil}]}}
    text, _ = report(tmp_path, runs, truth, notes, {evil: "<svg></svg>"})
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "i", "iframe", "link", "object"} == set()
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert evil in page.text
    assert "<b>term</b>" not in text


def test_page_loads_nothing_from_outside(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("base", 1.0), make_run("other", 1.5)]
    text, _ = report(tmp_path, runs, truth, {"source": "https://example.org/data"})
    for tag, attributes in Page(text).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name.startswith("xmlns"):
                continue  # a name, which is never fetched
            assert "//" not in (value or ""), (tag, name, value)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}


def test_same_input_same_bytes(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("base", 1.0), make_run("other", 1.5)]
    first, _ = report(tmp_path, runs, truth, {"b": 1, "a": {"x": None}})
    again, _ = report(tmp_path, runs, truth, {"b": 1, "a": {"x": None}})
    assert first == again
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, truth: TrialTruth, make_run: MakeRun
) -> None:
    runs = [make_run("base", 1.0)]
    before, rows = report(tmp_path, runs, truth)
    with pytest.raises(KeyError, match="level"):
        write_report(tmp_path / "report.html", rows, runs, truth, {}, {"p_target": 0.05})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_how_it_was_made_is_folded_away_and_complete(tmp_path: Path, truth: TrialTruth, make_run: MakeRun) -> None:
    notes = {
        "versions": {"torch": "2.14"},
        "recipe": {"vad": None, "seeds": [0, 1], "layers": [{"dim": 64}], "path": Path("data/x"), "on": True},
        "skipped_audio": {},
        "checksums": {"a.csv": "ab12"},
    }
    text, _ = report(tmp_path, [make_run("base", 1.0)], truth, notes)
    made = Page(text[text.index("<details>") : text.index("</details>") + len("</details>")])
    for said in (EER_DEFINITION, MIN_DCF_DEFINITION, INTERVAL_DEFINITION, "torch 2.14", "a.csv ab12"):
        assert said in made.text
    assert "skipped_audio none" in made.text
    assert "vad – seeds 0, 1" in made.text
    assert '[ { "dim": 64 } ] path data/x on True' in made.text
    assert ("details", {}) in made.tags


def test_pictures_are_in_the_page_and_absent_sections_are_not(
    tmp_path: Path, truth: TrialTruth, make_run: MakeRun
) -> None:
    runs = [make_run("base", 1.0), make_run("other", 1.5)]
    text, _ = report(tmp_path, runs, truth, maps={"Pool, seed 0": "<svg><g>map</g></svg>"})
    assert draw_det(runs, truth, "plain") in text
    assert "<svg><g>map</g></svg>" in text
    # Error rates, DET, a histogram a run, training, the map.
    assert text.count("<svg") == text.count("<figure>") == 6
    silent = replace(runs[0], seeds=[replace(seed, training=[]) for seed in runs[0].seeds])
    text, _ = report(tmp_path, [silent], truth)
    assert "<h2>Training</h2>" not in text
    assert "<h2>Embeddings</h2>" not in text
    assert text.count("<svg") == 3


def test_of_many_runs_the_first_and_the_best_are_drawn(
    tmp_path: Path, truth: TrialTruth, make_run: MakeRun
) -> None:
    """A run separates targets the better the greater its number; the first is the worst."""
    runs = [make_run(f"r{number:02d}", 0.2 + 0.3 * number) for number in (0, 9, 1, 8, 2, 7, 3, 6, 4, 5)]
    text, rows = report(tmp_path, runs, truth)
    eers = {row.run: row.eer.mean for row in rows if (row.condition, row.backend) == ("all", rows[0].backend)}
    best = sorted(eers, key=eers.__getitem__)[: MOST_DRAWN - 1]
    drawn = re.findall(r"<h3>(r\d\d), seed", text)
    assert drawn == [run.name for run in runs if run.name in (*best, "r00")]
    assert draw_det([run for run in runs if run.name in drawn], truth, rows[0].backend) in text
    assert "Of 10 runs the following pictures show the first, and the 7 others of the least EER" in Page(text).text
    text, _ = report(tmp_path, runs[:MOST_DRAWN], truth)
    assert "the following pictures show" not in text


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.2, -0.1, "better"),
        (0.1, 0.2, "worse"),
        (-0.1, 0.1, "no clear difference"),
        (0.0, 0.1, "no clear difference"),
        (-0.1, 0.0, "no clear difference"),
        (0.0, 0.0, "no clear difference"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_out_zero(low: float, high: float, verdict: str) -> None:
    assert judge_change(Measure((), (low + high) / 2, low, high)) == verdict


def render(rows: list[Row], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_table_says_the_same_as_the_rows(truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("base", 1.0), make_run("[red]good[/red]", 4.0)]
    rows = compare_runs(runs, truth, p_target=0.05, num_bootstrap=50, level=0.9)
    lines = render(rows, 140).splitlines()
    good, change = rows[1], rows[1].eer_change
    assert change is not None
    (line, *_) = [line for line in lines if "[red]good[/red]" in line]
    assert [cell.strip() for cell in line.split("│")] == [
        "[red]good[/red]",
        f"{100 * good.eer.mean:.2f} [{100 * good.eer.low:.2f}, {100 * good.eer.high:.2f}]",
        f"{100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]",
        "better",
        f"{good.min_dcf.mean:.4f}",
        f"{good.seconds:.0f}",
    ]
    assert [line.split("│")[0].strip() for line in lines if "trials" in line] == [
        "all trials, plain",
        "all trials, centred",
        "trials across domains, plain",
        "trials across domains, centred",
        "all trials: 24 targets, 252 non-targets",
        "trials across domains: 16 targets, 112 non-targets",
    ]


def test_narrow_terminal_cuts_no_name(truth: TrialTruth, make_run: MakeRun) -> None:
    rows = compare_runs([make_run("a" * 60, 1.0)], truth, p_target=0.05, num_bootstrap=20, level=0.9)
    text = render(rows, 80)
    assert "…" not in text
    assert text.count("a" * 5) >= 4
    assert max(map(len, text.splitlines())) <= 80
