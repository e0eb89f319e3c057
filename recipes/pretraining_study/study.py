"""Does layer-wise unsupervised pretraining help to tell speakers from frames, and where does it lose?

    python recipes/pretraining_study/study.py [--quick] [--corpus FOLDER] [--out FOLDER] [--minutes M]

Killed or out of time, it goes on where it stood when it is started again. What has ended is in results.jsonl, one
line a trained classifier; tables.md and the pictures are made of it at the end of each call.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from grid import FULL, QUICK, RANDOM, Cell, Study
from pictures import draw_all
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from speech_frames import StudyFrames, load_speech_frames
from tables import tabulate
from torch import Tensor, nn

from spkadapt.errors import DivergenceError, InputError
from spkadapt.files import atomic_path, write_text
from spkadapt.pretrain import PRETRAINERS, FrameClassifier, train_classifier, train_greedy_layers
from spkadapt.pretrain.strategies import draw_hidden_layers
from spkadapt.progress import Progress


class Results:
    """The finished cells, one JSON line each, behind a line that says under which settings.

    A line is written at once and forced to disk; one that a kill has cut short is dropped and its cell run again.

    Raises:
        InputError: the file holds the results of other settings.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        settings = json.loads(json.dumps({"settings": asdict(study)}))
        text = path.read_bytes() if path.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            with atomic_path(path) as temporary:
                temporary.write_bytes(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(settings)
        elif lines[0] != settings:
            raise InputError("holds the results of other settings; give another --out or remove it", path=path)
        self.records: list[dict[str, Any]] = lines[1:]

    def append(self, record: dict[str, Any]) -> None:
        """Keep one cell's record."""
        self._write(record)
        self.records.append(record)

    def _write(self, value: Mapping[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class Runner:
    """Trains cells; what several of them start from is trained once.

    Args:
        study: the settings.
        frames: the data.
        out: where pretrained stacks are kept.
    """

    def __init__(self, study: Study, frames: StudyFrames, out: Path) -> None:
        self.study, self.frames, self.out = study, frames, out
        self._greedy: tuple[tuple[Any, ...], list[nn.Linear]] | None = None
        self._diverged: dict[Path, DivergenceError] = {}

    def run(self, cell: Cell) -> dict[str, Any]:
        """The record of one cell; a training that diverged has its message in place of results."""
        start = time.process_time()
        record: dict[str, Any] = {"name": cell.name, "cell": asdict(cell)}
        try:
            pretrained, seconds = self._start_of(cell)
            start = time.process_time()
            classifier = self._train(cell, pretrained)
        except DivergenceError as error:
            return {**record, "diverged": str(error), "seconds": round(time.process_time() - start, 2)}
        if cell.seed == self.study.seeds[0] and cell.depth == self.study.middle and cell.length == 1:
            first = classifier.layers()[0].weight.detach()
            _save(self.out / "first_layers" / f"{_slug(cell.name)}.safetensors", [first], 0.0)
        return {
            **record,
            "pretraining_seconds": round(seconds, 2),
            "seconds": round(time.process_time() - start, 2),
            "losses": [_rounded(epoch.loss) for epoch in classifier.history],
            "gradient_norms": [[_rounded(norm) for norm in epoch.gradient_norms] for epoch in classifier.history],
            **evaluate(classifier, self.frames),
        }

    def _train(self, cell: Cell, pretrained: Sequence[nn.Linear] | None) -> FrameClassifier:
        config = self.study.classifiers[cell.activation]
        longer = type(config)(**{**asdict(config), "num_epochs": config.num_epochs * cell.length})
        frames, classes = self.frames.labelled(cell.budget, cell.seed)
        return train_classifier(
            cell.strategy,
            frames,
            classes,
            self.frames.num_speakers,
            [self.study.hidden_dim] * cell.depth,
            cell.activation,
            longer,
            seed=cell.seed,
            pretrained=pretrained,
        )

    def _start_of(self, cell: Cell) -> tuple[list[nn.Linear] | None, float]:
        """The layers that a cell starts from, and the seconds that they took of a processor."""
        if cell.member == RANDOM:
            dim, dims = self.frames.pool.shape[-1], [self.study.hidden_dim] * cell.depth
            return draw_hidden_layers(dim, dims, cell.activation, seed=cell.seed), 0.0
        if cell.member:
            return self._stack(cell)
        return (self._greedy_layers(cell), 0.0) if cell.strategy == "greedy_supervised" else (None, 0.0)

    def _greedy_layers(self, cell: Cell) -> list[nn.Linear]:
        """Those of "greedy_supervised", of the deepest that these labels are used for."""
        key = (cell.activation, cell.budget, cell.seed)
        if self._greedy is None or self._greedy[0] != key:
            depth = max(self.study.depths) if cell.budget == min(self.study.budgets) else cell.depth
            layers = train_greedy_layers(
                *self.frames.labelled(cell.budget, cell.seed),
                self.frames.num_speakers,
                [self.study.hidden_dim] * depth,
                cell.activation,
                self.study.classifiers[cell.activation],
                seed=cell.seed,
            )
            self._greedy = key, layers
        return self._greedy[1]

    def _stack(self, cell: Cell) -> tuple[list[nn.Linear], float]:
        """The pretrained layers, from disk if they are there."""
        member = self.study.members[cell.member]
        depth = member.stack_depth(cell.depth)
        path = self.out / "stacks" / f"{cell.member}-{cell.activation}-{depth}-seed{cell.seed}.safetensors"
        if path in self._diverged:
            raise self._diverged[path]
        if not path.is_file():
            start = time.process_time()
            pretrainer = PRETRAINERS[cell.member]([self.study.hidden_dim] * depth, cell.activation, member.config)
            try:
                pretrainer.fit(self.frames.unlabelled(), seed=cell.seed)
            except DivergenceError as error:
                self._diverged[path] = error
                raise
            layers = pretrainer.hidden_layers()
            tensors = [value.detach() for layer in layers for value in (layer.weight, layer.bias)]
            _save(path, tensors, time.process_time() - start)
        return _load(path)


def evaluate(classifier: FrameClassifier, frames: StudyFrames) -> dict[str, Any]:
    """What is right of each speaker's test frames, and of the test utterances by their mean log-posterior."""
    tested, classes = frames.tested()
    log_probabilities = classifier.log_probabilities(tested)
    num_speakers, num_utterances, num_frames, _ = frames.test.shape
    frame_hits = (log_probabilities.argmax(dim=1) == classes).view(num_speakers, -1).sum(dim=1)
    means = log_probabilities.view(num_speakers, num_utterances, num_frames, -1).mean(dim=2)
    utterance_hits = (means.argmax(dim=2) == torch.arange(num_speakers)[:, None]).sum(dim=1)
    loss = -log_probabilities.gather(1, classes[:, None]).mean()
    return {
        "test_loss": _rounded(loss.item()),
        "frames_right": frame_hits.tolist(),
        "utterances_right": utterance_hits.tolist(),
        "frames_of_each": num_utterances * num_frames,
        "utterances_of_each": num_utterances,
    }


def run_study(
    study: Study, frames: StudyFrames, out: Path, progress: Progress, *, minutes: float = float("inf")
) -> list[dict[str, Any]]:
    """Run the cells that have no record yet, and return all records.

    Args:
        study, frames: what to run, on what.
        out: the folder of results.jsonl and of the pretrained stacks.
        progress: where to show how far it has come.
        minutes: no cell starts after so many.

    Raises:
        InputError: `out` holds the results of other settings.
    """
    start = time.monotonic()
    results, runner, cells = Results(out / "results.jsonl", study), Runner(study, frames, out), study.cells()
    finished = {record["name"] for record in results.records}
    with progress.task("cells", len(cells)) as update:
        for cell in cells:
            if cell.name in finished:
                continue
            if time.monotonic() - start > 60 * minutes:
                progress.say(f"out of time, {len(results.records)} of {len(cells)} cells are done")
                break
            update(len(results.records), cell.name)
            results.append(runner.run(cell))
        update(len(results.records), "")
    return results.records


def _save(path: Path, tensors: Sequence[Tensor], seconds: float) -> None:
    named = {str(number): tensor.contiguous() for number, tensor in enumerate(tensors)}
    with atomic_path(path) as temporary:
        save_file(named, temporary, metadata={"seconds": str(seconds)})


def _load(path: Path) -> tuple[list[nn.Linear], float]:
    with safe_open(path, framework="pt") as file:
        tensors = [file.get_tensor(str(number)) for number in range(len(file.keys()))]
        seconds = float(file.metadata()["seconds"])
    layers = []
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers, seconds


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def main() -> None:
    """Run the study, or what is left of it, then the tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpora/speechocean762"))
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining_study"))
    parser.add_argument("--quick", action="store_true", help="a small grid, to see that it works")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many")
    arguments = parser.parse_args()
    study, out = (QUICK, arguments.out / "quick") if arguments.quick else (FULL, arguments.out / "full")
    progress = Progress(Console())
    frames = load_speech_frames(
        arguments.corpus,
        arguments.out / "cache",
        progress,
        frames_per_utterance=study.frames_per_utterance,
        num_speakers=study.num_speakers,
    )
    records = run_study(study, frames, out, progress, minutes=arguments.minutes)
    write_text(out / "tables.md", tabulate(study, records))
    draw_all(study, records, out, frames.context)
    progress.say(f"{out}/tables.md and pictures beside it")


if __name__ == "__main__":
    main()
