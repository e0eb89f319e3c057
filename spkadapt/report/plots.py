"""Pictures of results, each an inline SVG that is the same bytes for the same input.

Colours are those of Okabe & Ito (2008), which people with any of the common colour-vision deficiencies can tell
apart, less the yellow that is hard to see on white; dashes or marker shapes always tell the same as colours do.
Text stays text, so that it can be searched and copied.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from scipy.special import ndtri

from spkadapt.errors import InputError
from spkadapt.metrics import compute_det, compute_eer
from spkadapt.report.results import Row, Run, TrialTruth

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
GREY = "#b0b0b0"
NUM_NAMED_SPEAKERS = 12

Points: TypeAlias = tuple[np.ndarray, np.ndarray]
Dashes: TypeAlias = Literal["-"] | tuple[float, tuple[float, ...]]

_DASHES: tuple[Dashes, ...] = ("-", (0, (6, 2)), (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "^", "s", "D", "v")
_WIDTH = 9.0  # inches, of 96 CSS pixels on a page: 864 pixels
_DET_TICKS = np.array([0.01, 0.1, 0.3, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99]) / 100
_MAX_POINTS = 500  # of a curve: more cannot be seen at this width
_NUM_BINS = 40
_STYLE = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 200,  # of what is drawn as pixels within an SVG
    "svg.fonttype": "none",
    "svg.hashsalt": "spkadapt",
    "text.parse_math": False,  # names may hold dollar signs
}
# What a user's own matplotlibrc says must not change the bytes of a report.
_drawing = style.context(["default", _STYLE])


@_drawing
def draw_det(runs: Sequence[Run], truth: TrialTruth, backend: str) -> str:
    """Detection error trade-off (Martin et al., 1997) of the first seed of each run, on normal-deviate axes.

    A dot marks the EER, where the curve meets the diagonal. A rate of 0, whose normal deviate is infinite, is
    drawn at half a trial, and no rate below 0.01 %.
    """
    num_targets = int(truth.is_target.sum())
    num_nontargets = len(truth.is_target) - num_targets
    edges = (max(0.5 / num_nontargets, _DET_TICKS[0]), max(0.5 / num_targets, _DET_TICKS[0]))
    eers = [compute_eer(run.seeds[0].scores[backend], truth.is_target) for run in runs]
    figure, axes = _make_det_axes(edges, max(eers), len(runs))
    handles, labels = [], []
    for number, (run, eer) in enumerate(zip(runs, eers, strict=True)):
        curve = compute_det(run.seeds[0].scores[backend], truth.is_target, _MAX_POINTS)
        colour, dashes = _run_look(number)
        places = _deviates(curve.p_false_alarm, edges[0]), _deviates(curve.p_miss, edges[1])
        labels.append(f"{_shorten(run.name)}\nseed {run.seeds[0].seed}: EER {100 * eer:.2f} %")
        handles += axes.plot(*places, color=colour, linestyle=dashes, linewidth=1.6, zorder=3)
        meeting = [_deviates(np.array([eer]), edge)[0] for edge in edges]
        axes.plot(*meeting, marker="o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
    # Handles and labels are always given, because matplotlib leaves out names with an underscore when it collects.
    axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        title="First seed of each run",
        alignment="left",
        handlelength=3,
    )
    return _render(figure)


@_drawing
def draw_score_histograms(run: Run, truth: TrialTruth, backend: str) -> str:
    """How the scores of the first seed spread, targets against non-targets, each with an area of 1.

    Trials within a domain and across domains have a panel each, where domains are known.
    """
    scores = np.asarray(run.seeds[0].scores[backend], dtype=np.float64)
    panels = {"All trials": np.ones(len(scores), dtype=bool)}
    if truth.same_domain is not None:
        panels = {"Trials within one domain": truth.same_domain, "Trials across domains": ~truth.same_domain}
    panels = {title: chosen for title, chosen in panels.items() if chosen.any()}
    figure = Figure(figsize=(_WIDTH, 2.5), layout=ConstrainedLayoutEngine(wspace=0.06))
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    bins = np.histogram_bin_edges(scores, _NUM_BINS)
    for axes, (title, chosen) in zip(grid, panels.items(), strict=True):
        _draw_histogram(axes, scores[chosen & truth.is_target], bins, "targets", PALETTE[0], "-")
        _draw_histogram(axes, scores[chosen & ~truth.is_target], bins, "non-targets", PALETTE[1], _DASHES[1])
        axes.set_title(title)
        axes.set_xlabel("score")
        axes.set_yticks([])
        axes.margins(x=0.01)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    grid[0].set_ylabel("density")
    return _render(figure)


@_drawing
def draw_training(runs: Sequence[Run]) -> str:
    """Each logged term in a panel of its own: seeds thin, their mean thick.

    Raises:
        InputError: no run logged anything.
    """
    terms = training_terms(runs)
    if not terms:
        raise InputError("expected at least one run that logged its training, found none")
    num_columns = min(3, len(terms))
    num_rows = -(-len(terms) // num_columns)
    figure = Figure(figsize=(_WIDTH, 0.3 + 0.2 * -(-len(runs) // 3) + 2.2 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, term in zip(grid, terms, strict=False):
        axes.set_title(_shorten(term, 30))
        axes.set_xlabel("step")
        axes.grid()
        for number, run in enumerate(runs):
            _draw_term(axes, run, term, *_run_look(number))
    for axes in grid[len(terms) :]:
        axes.remove()
    looks = [_run_look(number) for number in range(len(runs))]
    handles = [Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8) for colour, dashes in looks]
    names = [_shorten(run.name) for run in runs]
    figure.legend(handles, names, loc="outside upper left", ncols=min(3, len(runs)), handlelength=3)
    return _render(figure)


def training_terms(runs: Iterable[Run]) -> list[str]:
    """The names of all that the runs logged, in order of appearance."""
    logged = (name for run in runs for seed in run.seeds for entry in seed.training for name in entry)
    return [name for name in dict.fromkeys(logged) if name != "step"]


@_drawing
def draw_embedding_map(embeddings: np.ndarray, domains: Sequence[str], speakers: Sequence[str | None]) -> str:
    """Length-normalised embeddings on their first two principal components, by domain and by speaker.

    Args:
        embeddings: of utterances of any domains.
        domains: the domain of each.
        speakers: the speaker of each, None where unlabelled. The 12 with the most utterances have a colour.

    Shape:
        embeddings: `(num_utterances, dim)`; domains, speakers: `(num_utterances,)`

    Raises:
        InputError: fewer than 2 embeddings or dimensions, or not one domain and speaker for each.
    """
    if embeddings.ndim != 2 or min(embeddings.shape) < 2 or not len(embeddings) == len(domains) == len(speakers):
        found = f"embeddings {embeddings.shape}, {len(domains)} domains and {len(speakers)} speakers"
        raise InputError(f"expected 2 or more embeddings with a domain and a speaker for each, found {found}")
    places, explained = _principal_components(embeddings)
    figure = Figure(figsize=(_WIDTH, 6.0))
    left = figure.add_axes(_place(figure, 0.65, 1.85, 3.85, 3.85))
    right = figure.add_axes(_place(figure, 5.1, 1.85, 3.85, 3.85), sharex=left, sharey=left)
    _draw_domains(left, places, np.array(domains, dtype=str))
    _draw_speakers(right, places, speakers)
    for axes in (left, right):
        axes.set_xlabel(f"component 1 ({100 * explained[0]:.1f} % of variance)")
    left.set_ylabel(f"component 2 ({100 * explained[1]:.1f} % of variance)")
    return _render(figure)


@_drawing
def draw_error_rates(rows: Sequence[Row]) -> str:
    """EER and interval of each run, seeds as small rings, for the condition and backend of the first row."""
    rows = [row for row in rows if (row.condition, row.backend) == (rows[0].condition, rows[0].backend)]
    figure = Figure(figsize=(_WIDTH, 0.8 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(100 * rows[0].eer.mean, color=GREY, linestyle=_DASHES[3], linewidth=1, zorder=1)
    for height, row in enumerate(rows):
        colour, _ = _run_look(height)
        axes.plot([100 * row.eer.low, 100 * row.eer.high], [height, height], color=colour, linewidth=2.2)
        dots = axes.plot([100 * row.eer.mean], [height], "o", color=colour, markersize=7, markeredgecolor="white")
        seeds = 100 * np.array(row.eer.by_seed)
        below = np.full(len(seeds), height + 0.24)
        dots += axes.plot(seeds, below, "o", color=colour, markersize=3.5, markerfacecolor="none")
        for artist in dots:
            artist.set(clip_on=False, zorder=4)  # whole even at an EER of 0
    axes.set_yticks(range(len(rows)), [_shorten(row.run) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("EER, per cent")
    return _render(figure)


def _run_look(number: int) -> tuple[str, Dashes]:
    # 7 colours and 4 dashes have no common divisor: 28 runs look different, neighbours in both ways.
    return PALETTE[number % len(PALETTE)], _DASHES[number % len(_DASHES)]


def _shorten(name: str, most: int = 34) -> str:
    """The end of a long name, which is where variants of a recipe differ."""
    return name if len(name) <= most else "…" + name[1 - most :]


def _deviates(rates: np.ndarray, edge: float) -> np.ndarray:
    return ndtri(rates.clip(edge, 1 - edge))


def _make_det_axes(edges: tuple[float, float], worst_eer: float, num_runs: int) -> tuple[Figure, Axes]:
    """Equal scales up to twice the worst EER, at least 40 %: more is empty paper for a useful system."""
    top = _DET_TICKS[np.searchsorted(_DET_TICKS, min(max(0.4, 2 * worst_eer), _DET_TICKS[-1]))]
    lows = [ndtri(edge) - 0.08 for edge in edges]
    # A deviate is as long across as it is down, and room is left for labels and, on the right, the legend.
    inches = 5.2 / (ndtri(top) - min(lows))
    width, height = (inches * (ndtri(top) - low) for low in lows)
    figure = Figure(figsize=(_WIDTH, 0.7 + max(height, 0.36 * num_runs)))
    axes = figure.add_axes(_place(figure, 0.6, figure.get_figheight() - 0.15 - height, width, height))
    axes.set_xlim(lows[0], ndtri(top))
    axes.set_ylim(lows[1], ndtri(top))
    axes.plot([max(lows), ndtri(top)], [max(lows), ndtri(top)], color=GREY, linewidth=0.8, zorder=1)
    for axis, low in ((axes.xaxis, lows[0]), (axes.yaxis, lows[1])):
        ticks = _DET_TICKS[(ndtri(_DET_TICKS) >= low) & (top >= _DET_TICKS)]
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
    axes.grid()
    axes.set_xlabel("false alarms, per cent of non-targets")
    axes.set_ylabel("misses, per cent of targets")
    return figure, axes


def _place(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Inches from the lower left corner as the fractions that matplotlib takes."""
    across, up = figure.get_size_inches()
    return left / across, bottom / up, width / across, height / up


def _draw_histogram(
    axes: Axes, scores: np.ndarray, bins: np.ndarray, name: str, colour: str, dashes: Dashes
) -> None:
    if not len(scores):
        return
    density, _ = np.histogram(scores, bins, density=True)
    axes.stairs(density, bins, fill=True, color=colour, alpha=0.18, linewidth=0)
    axes.stairs(density, bins, color=colour, linestyle=dashes, linewidth=1.4, label=f"{len(scores):,} {name}")


def _draw_term(axes: Axes, run: Run, term: str, colour: str, dashes: Dashes) -> None:
    curves = [_thin(_term_curve(seed.training, term)) for seed in run.seeds]
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return
    together = len(curves) > 1 and all(np.array_equal(curve[0], curves[0][0]) for curve in curves)
    if together:
        for steps, values in curves:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.5)
        curves = [(curves[0][0], np.mean([values for _, values in curves], axis=0))]
    for steps, values in curves:
        axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.5)


def _term_curve(training: Sequence[Mapping[str, float]], term: str) -> Points:
    entries = [entry for entry in training if term in entry]
    return np.array([entry["step"] for entry in entries]), np.array([entry[term] for entry in entries])


def _thin(curve: Points) -> Points:
    every = -(-len(curve[0]) // _MAX_POINTS) or 1
    return curve[0][::every], curve[1][::every]


def _principal_components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places on the first two components `(num_utterances, 2)`, and the fraction of variance each explains."""
    embeddings = embeddings.astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    left, spread, right = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)
    # The SVD leaves each sign open; the largest loading is made positive.
    loadings = right[:2]
    signs = np.sign(loadings[[0, 1], np.abs(loadings).argmax(axis=1)])
    variance = spread**2
    return left[:, :2] * spread[:2] * signs, variance[:2] / max(variance.sum(), np.finfo(np.float64).tiny)


def _draw_domains(axes: Axes, places: np.ndarray, domains: np.ndarray) -> None:
    axes.set_title("By domain")
    names = sorted(set(domains.tolist()))
    for number, name in enumerate(names):
        _scatter(axes, places[domains == name], PALETTE[number % 7], _MARKERS[number % 5])
    _legend_below(axes, names)


def _draw_speakers(axes: Axes, places: np.ndarray, speakers: Sequence[str | None]) -> None:
    axes.set_title("By speaker")
    counts = Counter(name for name in speakers if name is not None)
    most = sorted(counts, key=lambda name: (-counts[name], name))[:NUM_NAMED_SPEAKERS]
    shown = np.array([most.index(name) if name in most else -1 for name in speakers])
    unlabelled = np.array([name is None for name in speakers])
    names = []
    for name, chosen, marker in (
        ("unlabelled", unlabelled, "."),
        (f"{len(counts) - len(most)} other speakers", ~unlabelled & (shown < 0), "x"),
    ):
        if chosen.any():
            _scatter(axes, places[chosen], GREY, marker)
            names.append(name)
    for number in range(len(most)):
        _scatter(axes, places[shown == number], PALETTE[number % 6], _MARKERS[number // 6])
    _legend_below(axes, names + most)


def _scatter(axes: Axes, places: np.ndarray, colour: str, marker: str) -> None:
    """Dots as pixels within the SVG, because thousands of them as paths would make a page slow."""
    width = 0.7 if marker == "x" else 0
    x, y = places.T
    axes.scatter(x, y, s=14, color=colour, marker=marker, linewidths=width, alpha=0.6, rasterized=True)


def _legend_below(axes: Axes, names: Sequence[str]) -> None:
    """Name everything scattered on the axes, in order."""
    axes.legend(
        axes.collections,
        [_shorten(name, 24) for name in names],
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.12),
        ncols=2,
        markerscale=1.4,
        handletextpad=0.1,
    )


def _render(figure: Figure) -> str:
    """The figure as an `<svg>` element whose ids can meet no other picture's on the same page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(
        r'(<[^<>]*?) id="([^"]+)"', lambda m: f'{m[1]} id="p{digest}-{m[2]}"' if m[2] in used else m[1], text
    )
    return re.sub(r'(url\(|href=")#', rf"\1#p{digest}-", text)
