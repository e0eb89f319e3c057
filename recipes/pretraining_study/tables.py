"""Tables of the study's results, with intervals that are paired over seeds and speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from grid import RANDOM, Cell, Study

from spkadapt.intervals import Interval, percentile_interval

NUM_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Arm:
    """What one arm reached in one place of the grid, over all its seeds.

    Attributes:
        cell: of any seed.
        seeds: those that ended, in ascending order.
        utterances, frames: fraction right, (num_seeds, num_speakers).
        train_loss, test_loss: cross-entropy of a frame in nats, mean over seeds; the former of the last epoch.
        pretraining_seconds, seconds: of a processor, mean over seeds.
        num_diverged: seeds whose training diverged; they are in no mean.
    """

    cell: Cell
    seeds: tuple[int, ...]
    utterances: np.ndarray
    frames: np.ndarray
    train_loss: float
    test_loss: float
    pretraining_seconds: float
    seconds: float
    num_diverged: int


def collect(records: Iterable[dict[str, Any]]) -> dict[Cell, Arm]:
    """The arms by their cell with seed 0."""
    groups: dict[Cell, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(replace(Cell(**record["cell"]), seed=0), []).append(record)
    return {cell: _arm(cell, group) for cell, group in groups.items()}


def _arm(cell: Cell, group: Sequence[dict[str, Any]]) -> Arm:
    ended = sorted((r for r in group if "diverged" not in r), key=lambda record: record["cell"]["seed"])

    def right(kind: str) -> np.ndarray:
        return np.array([np.array(r[f"{kind}_right"]) / r[f"{kind}_of_each"] for r in ended])

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return Arm(
        cell,
        tuple(record["cell"]["seed"] for record in ended),
        right("utterances"),
        right("frames"),
        mean([record["losses"][-1] for record in ended]),
        mean([record["test_loss"] for record in ended]),
        mean([record["pretraining_seconds"] for record in ended]),
        mean([record["seconds"] for record in ended]),
        len(group) - len(ended),
    )


def bootstrap_means(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Means of `values (num_seeds, num_speakers)` with seeds and speakers each drawn with replacement.

    Both are drawn apart (the pigeonhole bootstrap of Owen 2007), so an interval speaks of other speakers and of
    other seeds. The draws depend on the shape and `seed` alone: what is compared is drawn alike.

    Shape:
        returns: `(NUM_DRAWS,)`
    """
    generator = np.random.default_rng(seed)
    seeds, speakers = (
        generator.multinomial(num, np.full(num, 1 / num), size=NUM_DRAWS) / num for num in values.shape
    )
    return ((seeds @ values) * speakers).sum(axis=1)


def interval_of(values: np.ndarray) -> Interval:
    """The 95 % interval of the mean of `values (num_seeds, num_speakers)`."""
    return percentile_interval(bootstrap_means(values))


def paired(first: Arm, second: Arm, kind: str = "utterances") -> np.ndarray:
    """`second` less `first`, (num_seeds, num_speakers), on the seeds that both have; empty where there is none."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return np.empty((0, 0))
    one, other = (getattr(arm, kind)[[arm.seeds.index(seed) for seed in seeds]] for arm in (first, second))
    return other - one


def control_of(arm: Arm, arms: dict[Cell, Arm]) -> Arm | None:
    """The supervised arm with the same units, depth, labels and number of steps; None for that arm itself."""
    cell = replace(arm.cell, strategy="supervised", member="")
    return None if cell == arm.cell else arms.get(cell)


def tabulate(study: Study, records: Sequence[dict[str, Any]]) -> str:
    """All results as Markdown: both lines of the grid at a glance, the claims, and every arm."""
    arms = collect(records)
    seeds = {record["cell"]["seed"] for record in records}
    few = min(study.budgets)
    claims = list(contrasts(study, arms))
    num_changes = sum(control_of(arm, arms) is not None for arm in arms.values()) + len(claims)
    lines = [
        f"{len(records)} of {len(study.cells())} cells are done, of {len(seeds)} seeds. "
        f"{num_changes} changes of utterances right have an interval; of as many without any effect, some "
        f"{round(num_changes / 20)} would leave out zero.",
        "",
    ]
    for activation in study.classifiers:
        at_middle = [(study.middle, budget) for budget in study.budgets]
        lines += _glance(
            f"{activation}, depth {study.middle}, by labelled utterances", activation, at_middle, arms
        )
        at_few = [(depth, few) for depth in study.depths]
        lines += _glance(f"{activation}, {few} labelled utterance, by depth", activation, at_few, arms)
    lines += ["### The claims", "", "| what | points [interval] |", "|---|---|"]
    lines += [f"| {what} | {_points(values, 1)} |" for what, values in claims] + [""]
    order = {cell: number for number, cell in enumerate(replace(c, seed=0) for c in study.cells())}
    for place in dict.fromkeys((cell.activation, cell.depth, cell.budget) for cell in sorted(arms)):
        here = [arm for cell, arm in arms.items() if (cell.activation, cell.depth, cell.budget) == place]
        lines += _table(place, sorted(here, key=lambda arm: order.get(arm.cell, len(order))), arms)
    return "\n".join(lines)


def contrasts(study: Study, arms: dict[Cell, Arm]) -> Iterator[tuple[str, np.ndarray]]:
    """Differences other than those from "supervised", each with its (num_seeds, num_speakers) utterances right."""
    few, many = min(study.budgets), max(study.budgets)
    shallow, deep = min(study.depths), max(study.depths)

    def gain(tuned: Cell) -> np.ndarray | None:
        return _difference(arms, tuned, replace(tuned, strategy="supervised", member=""))

    found: list[tuple[str, np.ndarray | None]] = []
    for activation, name in product(study.classifiers, study.members):
        for length in (1, *study.lengths):
            tuned = Cell(activation, study.middle, few, "finetune", name, length)
            what = f"{activation}: gain of {tuned.arm}"
            values = _less(gain(tuned), gain(replace(tuned, budget=many)))
            found.append((f"{what}, depth {study.middle}: {few} label less {many} labels", values))
            values = _less(gain(replace(tuned, depth=deep)), gain(replace(tuned, depth=shallow)))
            found.append((f"{what}, {few} label: depth {deep} less depth {shallow}", values))
            for budget in (few, many):
                tuned = replace(tuned, budget=budget)
                where = f"{activation}, depth {study.middle}, {budget} label{'s' * (budget > 1)}: "
                others = [
                    (tuned, replace(tuned, strategy="greedy_supervised", member="")),
                    (replace(tuned, strategy="frozen"), replace(tuned, strategy="frozen", member=RANDOM)),
                ]
                if length == 1:
                    others += [
                        (tuned, Cell(activation, study.middle, budget, "supervised", length=more))
                        for more in study.lengths
                    ]
                if activation != "relu":
                    others.append((tuned, Cell("relu", study.middle, budget, "supervised", length=length)))
                for one, other in others:
                    unit = "" if other.activation == activation else f"{other.activation} "
                    found.append((f"{where}{one.arm} less {unit}{other.arm}", _difference(arms, one, other)))
    yield from ((what, values) for what, values in found if values is not None)


def _difference(arms: dict[Cell, Arm], cell: Cell, less: Cell) -> np.ndarray | None:
    if cell not in arms or less not in arms:
        return None
    return paired(arms[less], arms[cell])


def _less(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """The difference of two differences, where both have the same seeds."""
    return None if first is None or second is None or first.shape != second.shape else first - second


def _glance(title: str, activation: str, places: Sequence[tuple[int, int]], arms: dict[Cell, Arm]) -> list[str]:
    """Utterances right and the change, without intervals: a row for each arm, a column for each place."""
    columns = [
        {arm.cell.arm: arm for cell, arm in arms.items() if (cell.activation, cell.depth, cell.budget) == place}
        for place in ((activation, *place) for place in places)
    ]
    is_labels = len({depth for depth, _ in places}) == 1
    heads = [str(budget if is_labels else depth) for depth, budget in places]
    lines = [f"### {title}: utterances right, % (change)", "", f"| arm | {' | '.join(heads)} |"]
    lines.append("|---" * (1 + len(heads)) + "|")
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [_glimpse(column[name], arms) if name in column else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return [*lines, ""]


def _glimpse(arm: Arm, arms: dict[Cell, Arm]) -> str:
    if not arm.seeds:
        return "diverged"
    control, right = control_of(arm, arms), f"{100 * arm.utterances.mean():.1f}"
    if control is None or not len(paired(control, arm)):
        return right
    difference = paired(control, arm)
    return f"{right} ({100 * difference.mean():+.1f}{_mark(difference)})"


def _table(place: tuple[str, int, int], here: Sequence[Arm], arms: dict[Cell, Arm]) -> list[str]:
    activation, depth, budget = place
    return [
        f"### {activation}, depth {depth}, {budget} labelled utterance{'s' if budget > 1 else ''} a speaker",
        "",
        "| arm | seeds | utterances right, % [interval] | change, points [interval] | frames right, % | "
        "change, points [interval] | loss: training / test | CPU seconds: pretraining / training |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(arm, control_of(arm, arms)) for arm in here),
        "",
    ]


def _row(arm: Arm, control: Arm | None) -> str:
    name = arm.cell.arm + (f" ({arm.num_diverged} diverged)" if arm.num_diverged else "")
    if not arm.seeds:
        return f"| {name} | 0 | – | – | – | – | – | – |"
    ends = interval_of(arm.utterances)
    cells = [
        name,
        str(len(arm.seeds)),
        f"**{100 * arm.utterances.mean():.1f}** [{100 * ends.low:.1f}, {100 * ends.high:.1f}]",
        _change(control, arm, "utterances"),
        f"{100 * arm.frames.mean():.2f}",
        _change(control, arm, "frames"),
        f"{arm.train_loss:.2f} / {arm.test_loss:.2f}",
        f"{arm.pretraining_seconds:.0f} / {arm.seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _change(control: Arm | None, arm: Arm, kind: str) -> str:
    """The difference from the control, if there is one."""
    if control is None:
        return "–"
    return _points(paired(control, arm, kind), 1 if kind == "utterances" else 2)


def _points(difference: np.ndarray, digits: int) -> str:
    """Its mean and interval, in points; ▲ or ▼ where the interval leaves out zero."""
    if not len(difference):
        return "–"
    ends = interval_of(difference)
    low, high, mean = (f"{100 * value:+.{digits}f}" for value in (ends.low, ends.high, difference.mean()))
    return f"{mean} [{low}, {high}]{_mark(difference)}"


def _mark(difference: np.ndarray) -> str:
    ends = interval_of(difference)
    return " ▲" if ends.low > 0 else " ▼" if ends.high < 0 else ""
