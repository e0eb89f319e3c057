from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy.special import ndtri

import spkadapt
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer
from spkadapt.report.plots import (
    PALETTE,
    draw_det,
    draw_embedding_map,
    draw_error_rates,
    draw_score_histograms,
    draw_training,
    training_terms,
)
from spkadapt.report.results import Measure, Row, Run, SeedRun, TrialTruth, compare_runs

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray, dict[str, object]]]:
    """What is plotted as lines: x, y and how."""
    calls: list[tuple[np.ndarray, np.ndarray, dict[str, object]]] = []
    plot = Axes.plot

    def record(self: Axes, x: object, y: object, *args: object, **kwargs: object) -> object:
        calls.append((np.atleast_1d(x), np.atleast_1d(y), kwargs))  # type: ignore[call-overload]
        return plot(self, x, y, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", record)
    return calls


def texts(svg: str) -> list[str]:
    """What the picture says, after checking that it is well-formed XML."""
    return [
        "".join(node.itertext()).strip()
        for node in ElementTree.fromstring(svg).iter()
        if node.tag.endswith("text")
    ]


def with_scores(run: Run, scores: np.ndarray) -> Run:
    return replace(run, seeds=[SeedRun(7, 1.0, {"plain": scores.astype(np.float32)}, [])])


def test_det_is_drawn_for_perfect_random_constant_and_reversed_systems(
    truth: TrialTruth, make_run: MakeRun, drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]]
) -> None:
    base = make_run("r", 0.0)
    scores = {
        "perfect": 1.0 * truth.is_target,
        "random": np.random.default_rng(1).normal(size=len(truth.is_target)),
        "constant": np.zeros(len(truth.is_target)),
        "reversed": -1.0 * truth.is_target,
    }
    said = texts(
        draw_det([with_scores(replace(base, name=name), row) for name, row in scores.items()], truth, "plain")
    )
    for name, row in scores.items():
        assert said[said.index(name) + 1] == f"seed 7: EER {100 * compute_eer(row, truth.is_target):.2f} %"
    assert all(np.isfinite(x).all() and np.isfinite(y).all() for x, y, _ in drawn)
    # The whole of the perfect system's L is on the paper, half a trial from zero.
    (corner_x, corner_y) = (ndtri(0.5 / (~truth.is_target).sum()), ndtri(0.5 / truth.is_target.sum()))
    perfect_x, perfect_y, _ = next(call for call in drawn if call[2].get("linewidth") == 1.6)
    assert (perfect_x.min(), perfect_y.min()) == pytest.approx((corner_x, corner_y))


def test_det_dot_lies_on_the_diagonal_and_on_the_curve(
    truth: TrialTruth, make_run: MakeRun, drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]]
) -> None:
    run = make_run("r", 1.0)
    draw_det([run], truth, "plain")
    eer = compute_eer(run.seeds[0].scores["plain"], truth.is_target)
    (dot,) = [call for call in drawn if call[2].get("marker") == "o"]
    assert (dot[0][0], dot[1][0]) == pytest.approx((ndtri(eer), ndtri(eer)))
    (curve,) = [call for call in drawn if call[2].get("linewidth") == 1.6]
    distance = np.hypot(curve[0] - ndtri(eer), curve[1] - ndtri(eer)).min()
    assert distance < 0.1


def test_histograms_are_split_by_domain_where_domains_are_known(truth: TrialTruth, make_run: MakeRun) -> None:
    run = make_run("r", 1.0)
    assert truth.same_domain is not None
    said = texts(draw_score_histograms(run, truth, "plain"))
    for title, chosen in (("within one domain", truth.same_domain), ("across domains", ~truth.same_domain)):
        assert f"Trials {title}" in said
        assert f"{(chosen & truth.is_target).sum()} targets" in said
        assert f"{(chosen & ~truth.is_target).sum()} non-targets" in said
    said = texts(draw_score_histograms(run, replace(truth, same_domain=None), "plain"))
    assert "All trials" in said
    assert f"{(~truth.is_target).sum()} non-targets" in said
    assert not any("domain" in text for text in said)


def test_histograms_leave_out_what_has_no_trials(truth: TrialTruth, make_run: MakeRun) -> None:
    everywhere = replace(truth, same_domain=np.zeros(len(truth.is_target), dtype=bool))
    said = texts(draw_score_histograms(make_run("r", 1.0), everywhere, "plain"))
    assert "Trials across domains" in said
    assert "Trials within one domain" not in said
    no_targets_across = replace(truth, same_domain=truth.is_target)
    said = texts(draw_score_histograms(make_run("r", 1.0), no_targets_across, "plain"))
    assert [text for text in said if text.endswith(" targets")] == [f"{truth.is_target.sum()} targets"]
    assert draw_score_histograms(with_scores(make_run("r", 1.0), np.zeros(len(truth.is_target))), truth, "plain")


def test_training_has_a_panel_a_term_and_the_mean_over_seeds(
    make_run: MakeRun, drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]]
) -> None:
    runs = [make_run("first", 1.0), make_run("second", 1.0, term="mmd")]
    assert training_terms(runs) == ["speaker", "coral", "mmd"]
    said = texts(draw_training(runs))
    assert said.count("step") == 3
    assert {"speaker", "coral", "mmd", "first", "second"} <= set(said)
    thick = [call for call in drawn if call[2]["linewidth"] == 1.5]
    assert len(thick) == 4  # speaker of both runs, coral of one, mmd of the other
    assert len(drawn) - len(thick) == 8  # two seeds of each
    assert thick[0][0].tolist() == [20, 40, 60]
    assert thick[0][1].tolist() == [7.5, 5.5, 3.5]  # 9 - step / 10 + seed, over seeds 0 and 1


def test_no_panel_is_empty(make_run: MakeRun) -> None:
    runs = [
        make_run("r", 1.0, term=term) for term in ("coral", "mmd", "adversarial")
    ]  # four terms, two rows of three
    said = texts(draw_training(runs))
    assert said.count("step") == 4
    assert "1.0" not in said  # the end of an empty panel's axis


def test_seeds_that_logged_other_steps_are_not_averaged(
    make_run: MakeRun, drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]]
) -> None:
    run = make_run("r", 1.0)
    shorter = replace(run.seeds[1], training=run.seeds[1].training[:2])
    draw_training([replace(run, seeds=[run.seeds[0], shorter])])
    assert [len(call[0]) for call in drawn] == [3, 2, 3, 2]


def test_training_of_nothing_is_refused(make_run: MakeRun) -> None:
    run = make_run("r", 1.0)
    silent = replace(run, seeds=[replace(run.seeds[0], training=[])])
    assert training_terms([silent]) == []
    with pytest.raises(InputError, match="at least one run that logged its training, found none"):
        draw_training([silent])


def test_error_rates_are_those_of_the_first_rows_condition_and_backend(
    drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]],
) -> None:
    eer, other = Measure((0.1, 0.14), 0.12, 0.08, 0.16), Measure((0.9,), 0.9, 0.8, 0.95)
    row = Row("one", "across domains", "plain", 5, 5, (0, 1), eer, eer, None, 1.0)
    left_out = [replace(row, backend="centred", eer=other), replace(row, condition="all", eer=other)]
    draw_error_rates([row, *left_out, replace(row, run="two")])
    assert len(drawn) == 6
    interval, mean, seeds = drawn[:3]
    assert interval[0] == pytest.approx([8, 16])
    assert mean[0] == pytest.approx([12])
    assert seeds[0] == pytest.approx([10, 14])
    assert all(x.max() < 20 for x, _, _ in drawn)


def embeddings(num_utterances: int = 60, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_utterances, dim)).astype(np.float32)


def test_map_shows_principal_components_of_the_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[np.ndarray] = []
    scatter = Axes.scatter

    def record(self: Axes, x: np.ndarray, y: np.ndarray, **kwargs: object) -> object:
        points.append(np.stack([x, y], axis=1))
        return scatter(self, x, y, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "scatter", record)
    values = embeddings()
    said = texts(draw_embedding_map(values * np.arange(1, 61)[:, None], ["studio"] * 60, [None] * 60))
    directions = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    variances, components = np.linalg.eigh(np.cov(directions.T))
    assert f"component 1 ({100 * variances[-1] / variances.sum():.1f} % of variance)" in said
    assert f"component 2 ({100 * variances[-2] / variances.sum():.1f} % of variance)" in said
    expected = (directions - directions.mean(axis=0)) @ components[:, [-1, -2]]
    signs = np.sign((points[0] * expected).sum(axis=0))
    assert points[0] == pytest.approx(expected * signs, abs=1e-6)
    assert len(points) == 2
    assert (points[0] == points[1]).all()


def test_map_names_twelve_speakers_and_counts_the_rest() -> None:
    speakers = [f"s{number % 14:02d}" for number in range(56)] + ["s13"] * 2 + [None] * 2
    said = texts(draw_embedding_map(embeddings(), ["studio", "phone"] * 30, speakers))
    assert {"studio", "phone", "unlabelled", "2 other speakers"} <= set(said)
    # s13 has the most utterances; of the rest, which have equally many, the last two by name are left out.
    assert [text for text in said if re.fullmatch(r"s\d\d", text)] == ["s13", *(f"s{n:02d}" for n in range(11))]


def test_map_of_equal_or_zero_embeddings_is_drawn() -> None:
    for values in (np.zeros((4, 3)), np.ones((4, 3))):
        said = texts(draw_embedding_map(values, ["a"] * 4, ["s"] * 4))
        assert "component 1 (0.0 % of variance)" in said


@pytest.mark.parametrize(("shape", "num_domains"), [((1, 4), 1), ((4, 1), 4), ((4, 4), 3), ((4,), 4)])
def test_map_refuses_what_it_cannot_draw(shape: tuple[int, ...], num_domains: int) -> None:
    with pytest.raises(
        InputError, match=re.escape(f"found embeddings {shape}, {num_domains} domains and 4 speakers")
    ):
        draw_embedding_map(np.ones(shape), ["a"] * num_domains, ["s"] * 4)


def draw_all(runs: list[Run], truth: TrialTruth) -> list[str]:
    rows = compare_runs(runs, truth, p_target=0.1, num_bootstrap=20, level=0.9)
    return [
        draw_det(runs, truth, "plain"),
        *(draw_score_histograms(run, truth, "plain") for run in runs),
        draw_training(runs),
        draw_embedding_map(embeddings(), ["studio", "phone"] * 30, ["a", "b", None] * 20),
        draw_error_rates(rows),
    ]


def test_same_input_same_bytes_whatever_the_users_style(truth: TrialTruth, make_run: MakeRun) -> None:
    runs = [make_run("first", 1.0), make_run("second", 2.0)]
    before = draw_all(runs, truth)
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert draw_all(runs, truth) == before
        assert mpl.rcParams["font.size"] == 20


def test_ids_of_a_page_are_unique_and_references_lead_somewhere(truth: TrialTruth, make_run: MakeRun) -> None:
    page = "".join(draw_all([make_run("first", 1.0), make_run("second", 2.0)], truth))
    ids = re.findall(r'\bid="([^"]+)"', page)
    references = re.findall(r'(?:url\(|href=")#([^")]+)', page)
    assert ids
    assert len(ids) == len(set(ids))
    assert set(ids) == set(references)


def test_any_name_can_be_drawn(truth: TrialTruth, make_run: MakeRun) -> None:
    names = ["<script>alert(1)</script>", "$\\frac{1$", "_hidden", "a & b", "x" * 200]
    runs = [make_run(name, 1.0, term=name) for name in names]
    for svg in draw_all(runs, truth):
        assert "<script" not in svg
        ElementTree.fromstring(svg)
    shown = {*names[:4], "…" + "x" * 33}
    assert shown <= set(texts(draw_det(runs, truth, "plain")))
    assert {*shown, "…" + "x" * 29} <= set(texts(draw_training(runs)))
    said = texts(draw_embedding_map(embeddings(), names * 12, names * 12))
    for name in [*names[1:4], "…" + "x" * 23]:
        assert said.count(name) == 2


def test_many_runs_each_look_their_own(
    truth: TrialTruth, make_run: MakeRun, drawn: list[tuple[np.ndarray, np.ndarray, dict[str, object]]]
) -> None:
    draw_det([make_run(f"r{number}", 1.0) for number in range(28)], truth, "plain")
    looks = {(call[2]["color"], str(call[2]["linestyle"])) for call in drawn if call[2].get("linewidth") == 1.6}
    assert len(looks) == 28
    assert {colour for colour, _ in looks} == set(PALETTE)


def test_matplotlib_comes_in_here_only_and_never_as_pyplot() -> None:
    package = Path(spkadapt.__file__).parent
    lines = [
        (path.relative_to(package).as_posix(), line.strip())
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(import|from) matplotlib", line)
    ]
    assert {path for path, _ in lines} == {"report/plots.py"}
    assert not [line for _, line in lines if "pyplot" in line]
