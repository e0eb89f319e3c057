"""Pictures of the study's results: accuracy by labels and by depth, gradient norms, first-layer filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from grid import RANDOM, Cell, Study
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors import safe_open
from speech_frames import NUM_POOL
from tables import Arm, collect, interval_of
from torch import Tensor

from spkadapt.files import atomic_path
from spkadapt.report.plots import GREY, PALETTE

DOTS_PER_INCH = 100
NUM_FILTERS, NUM_SHADES, PIXELS, TITLE = 20, 11, 3, 15
_MEMBERS = ("dae", "dbn", "vae", "dbm", "sparse")
_COLOURS = {"": "#000000", RANDOM: "#000000", **dict(zip(_MEMBERS, PALETTE, strict=False))}
_LINES = {"supervised": "-", "greedy_supervised": "--", "finetune": "-", "frozen": ":"}


def draw_all(study: Study, records: Sequence[dict[str, Any]], out: Path, context: int) -> None:
    """Leave labels.png, depth.png, gradients.png and filters.png in `out`."""
    arms = collect(records)
    few, many = min(study.budgets), max(study.budgets)
    _draw_lines(
        study, arms, out / "labels.png", "labelled utterances a speaker", [(study.middle, None)],
        lambda cell: cell.budget,
    )  # fmt: skip
    _draw_lines(
        study, arms, out / "depth.png", "hidden layers", [(None, few), (None, many)], lambda cell: cell.depth
    )
    _draw_gradients(study, records, out / "gradients.png")
    _draw_filters(study, out, context)


def _draw_lines(
    study: Study,
    arms: dict[Cell, Arm],
    path: Path,
    label: str,
    places: Sequence[tuple[int | None, int | None]],
    along: Callable[[Cell], int],
) -> None:
    """Utterances right, for each activation a column and for each (depth, budget) a row, None for all of them."""
    figure = Figure(figsize=(9.5, 3.6 * len(places)), layout="constrained")
    grid = figure.subplots(len(places), len(study.classifiers), squeeze=False)
    for axes_row, (depth, budget) in zip(grid, places, strict=True):
        for axes, activation in zip(axes_row, study.classifiers, strict=True):
            shown = [
                arm for cell, arm in arms.items()
                if cell.activation == activation and depth in (None, cell.depth) and budget in (None, cell.budget)
                and cell.length == 1 and arm.seeds
            ]  # fmt: skip
            _draw_arms(axes, shown, along)
            where = f"depth {depth}" if depth else f"{budget} of {NUM_POOL} utterances labelled"
            axes.set_title(f"{activation}, {where}", loc="left", fontsize=10)
            axes.set_xlabel(label)
            axes.set_ylabel("utterances right, %")
            axes.set_ylim(bottom=0)
            axes.grid(color="#e5e5e5")
            if axes.get_legend_handles_labels()[0]:  # a study in its first minutes has no arms to name
                axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _write(figure, path)


def _draw_arms(axes: Axes, shown: Iterable[Arm], along: Callable[[Cell], int]) -> None:
    lines: dict[str, list[Arm]] = {}
    for arm in shown:
        lines.setdefault(arm.cell.arm, []).append(arm)
    for number, (name, line) in enumerate(sorted(lines.items())):
        if len(line) == 1:
            continue
        line.sort(key=lambda arm: along(arm.cell))
        cell = line[0].cell
        means = np.array([100 * arm.utterances.mean() for arm in line])
        ends = np.array([[100 * i.low, 100 * i.high] for i in (interval_of(arm.utterances) for arm in line)])
        at = np.array([along(arm.cell) for arm in line]) + 0.02 * (number - len(lines) / 2)
        colour = GREY if cell.strategy == "greedy_supervised" else _COLOURS[cell.member]
        marker = "o" if cell.strategy in ("supervised", "finetune") else "s"
        axes.errorbar(
            at, means, np.abs(ends.T - means), color=colour, linestyle=_LINES[cell.strategy], marker=marker,
            markersize=3.5, linewidth=1.4, elinewidth=0.6, label=name,
        )  # fmt: skip
    axes.set_xticks(sorted({along(arm.cell) for line in lines.values() for arm in line}))


def _draw_gradients(study: Study, records: Sequence[dict[str, Any]], path: Path) -> None:
    """‖∂loss/∂W‖ of each layer from epoch to epoch, in the deepest network with the fewest labels."""
    depth, few = max(study.depths), min(study.budgets)
    arms = {
        activation: [
            Cell(activation, depth, few, "supervised"),
            Cell(activation, depth, few, "greedy_supervised"),
            *(
                Cell(activation, depth, few, "finetune", name)
                for name, member in study.members.items()
                if activation in member.activations and depth in member.depths
            ),
        ]
        for activation in study.classifiers
    }
    num_columns = max(map(len, arms.values()))
    figure = Figure(figsize=(2.4 * num_columns, 5.4), layout="constrained")
    grid = figure.subplots(len(arms), num_columns, squeeze=False, sharex=True, sharey="row")
    for axes_row, (activation, cells) in zip(grid, arms.items(), strict=True):
        for axes, cell in zip(axes_row, cells, strict=False):
            _draw_norms(axes, _gradient_norms(records, cell))
            axes.set_title(f"{activation}: {cell.arm}", loc="left", fontsize=9)
        for axes in axes_row[len(cells) :]:
            axes.set_axis_off()
        axes_row[0].set_ylabel("‖∂loss/∂W‖")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=depth + 1, fontsize=8, frameon=False)
    _write(figure, path)


def _gradient_norms(records: Sequence[dict[str, Any]], cell: Cell) -> np.ndarray:
    """(epochs, layers), the geometric mean over seeds; empty where no seed has ended."""
    own = [
        r["gradient_norms"] for r in records
        if "diverged" not in r and replace(Cell(**r["cell"]), seed=0) == cell
    ]  # fmt: skip
    return np.exp(np.log(np.maximum(own, 1e-12)).mean(axis=0)) if own else np.empty((0, 0))


def _draw_norms(axes: Axes, norms: np.ndarray) -> None:
    num_layers = norms.shape[1]
    for layer in range(num_layers):
        is_output = layer == num_layers - 1
        axes.plot(
            np.arange(1, len(norms) + 1), norms[:, layer], linestyle="--" if is_output else "-", linewidth=1.4,
            color="#000000" if is_output else PALETTE[layer % len(PALETTE)],
            label="output" if is_output else f"layer {layer + 1}",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.grid(color="#e5e5e5")


def _draw_filters(study: Study, out: Path, context: int) -> None:
    """First-layer weights as pictures, time to the right and frequency upwards, each scaled to its own largest."""
    many = max(study.budgets)
    rows: list[tuple[str, Tensor]] = []
    for activation in study.classifiers:
        for strategy in ("supervised", "finetune"):
            member = "" if strategy == "supervised" else "dae"
            name = Cell(activation, study.middle, many, strategy, member, seed=study.seeds[0]).name
            trained = out / "first_layers" / f"{name.replace(' ', '-')}.safetensors"
            rows += [(f"{activation}: {strategy} {member}".strip(), weight) for weight in _first_weight(trained)]
        for name, member_ in study.members.items():
            if activation in member_.activations:
                depth = member_.stack_depth(study.middle)
                stack = out / "stacks" / f"{name}-{activation}-{depth}-seed{study.seeds[0]}.safetensors"
                rows += [(f"{activation}: {name}", weight) for weight in _first_weight(stack)]
    if not rows:
        return
    sheets = [filter_sheet(weight.numpy(), context) for _, weight in rows]
    height, width = (size * PIXELS for size in sheets[0].shape)
    figure = Figure(
        figsize=(width / DOTS_PER_INCH, len(rows) * (height + TITLE) / DOTS_PER_INCH), dpi=DOTS_PER_INCH
    )
    for number, ((title, _), sheet) in enumerate(zip(rows, sheets, strict=True)):
        bottom = (len(rows) - 1 - number) * (height + TITLE)
        # Pixel by pixel: what is resampled is neither sharp nor small.
        pixels = np.kron(sheet, np.ones((PIXELS, PIXELS)))
        figure.figimage(
            pixels, 0, bottom, cmap=colormaps["RdBu_r"].resampled(NUM_SHADES), vmin=-1, vmax=1, origin="upper"
        )
        figure.text(2 / width, (bottom + height + 3) / (len(rows) * (height + TITLE)), title, fontsize=8)
    _write(figure, out / "filters.png")


def _first_weight(path: Path) -> list[Tensor]:
    if not path.is_file():
        return []
    with safe_open(path, framework="pt") as file:
        return [file.get_tensor("0")]


def filter_sheet(weight: np.ndarray, context: int) -> np.ndarray:
    """The filters of largest norm side by side, NaN between them, each divided by its largest magnitude.

    Shape:
        weight: `(num_hidden, context · num_features)`, the earliest frame first
        returns: `(num_features + 1, NUM_FILTERS · (context + 1))`, the highest feature on top
    """
    norms = np.linalg.norm(weight, axis=1)
    chosen = weight[np.argsort(-norms, kind="stable")[:NUM_FILTERS]]
    images = chosen.reshape(len(chosen), context, -1).transpose(0, 2, 1)[:, ::-1]
    images = images / np.maximum(np.abs(images).max(axis=(1, 2), keepdims=True), 1e-12)
    framed = np.pad(images, ((0, NUM_FILTERS - len(images)), (0, 1), (0, 1)), constant_values=np.nan)
    return np.hstack(list(framed))


def _write(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata={"Software": None})
