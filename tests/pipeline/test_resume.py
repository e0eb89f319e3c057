"""A run that is killed goes on and ends with the same numbers."""

from __future__ import annotations

import io
import json
import multiprocessing
import signal
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from spkadapt import cli
from spkadapt.errors import InputError
from spkadapt.pipeline import report_runs, run_recipe
from spkadapt.progress import Progress
from spkadapt.recipe import load_recipe
from spkadapt.report.results import BACKENDS

# Enough steps that the process is still training when the marker of a moment has been seen.
STEPS = "train.num_steps=150"
MOMENTS = (
    "cache/features-*/audio.json",  # features come next
    "tiny/seed-0",  # then pretraining
    "tiny/seed-0/checkpoint.pt",  # then training
    "tiny/seed-0/model.safetensors",  # then scoring
)


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Processes that start with everything imported, and with nothing of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spkadapt.cli"])
    return context


def start_and_kill(processes: BaseContext, recipe: Path, out: Path, marker: str, steps: str = STEPS) -> int | None:
    """`spkadapt run` in a process of its own, killed as soon as a file matches; its exit status."""
    process = processes.Process(target=cli.run, args=([recipe], [steps], out))
    process.start()
    while process.is_alive() and not any(out.glob(marker)):
        time.sleep(0.002)
    process.kill()
    process.join()
    return process.exitcode


def rows_without_time(folder: Path) -> list[dict[str, object]]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_killed_again_and_again_it_ends_with_the_same_numbers(processes, write_recipe, tmp_path) -> None:
    recipe = write_recipe(adapt={"terms": {"mmd": {}}})
    statuses = [start_and_kill(processes, recipe, tmp_path / "killed", moment) for moment in MOMENTS]
    assert statuses[:3] == [-signal.SIGKILL] * 3
    for out in ("killed", "unbroken"):
        run_recipe(load_recipe(recipe, [STEPS]), tmp_path / out, Progress())
        report_runs([tmp_path / out / "tiny"], None, Progress())
    killed, unbroken = (tmp_path / out / "tiny" for out in ("killed", "unbroken"))
    scored = [f"scores_{backend}.txt" for backend in BACKENDS]
    for name in ("model.safetensors", *scored, "backend.safetensors", "embeddings.npz"):
        assert (killed / "seed-0" / name).read_bytes() == (unbroken / "seed-0" / name).read_bytes(), name
    assert rows_without_time(killed) == rows_without_time(unbroken)


def test_a_run_that_lacks_the_scores_of_a_backend_is_scored_anew_and_not_trained(make_recipe, tmp_path) -> None:
    seed = run_recipe(make_recipe(), tmp_path, Progress()).seed(0)
    model, scores = seed / "model.safetensors", seed / "scores_adapted.txt"
    trained, scored = model.stat().st_mtime_ns, scores.read_bytes()
    scores.unlink()
    run_recipe(make_recipe(), tmp_path, Progress())
    assert scores.read_bytes() == scored
    assert model.stat().st_mtime_ns == trained


def test_killed_while_pretraining_it_ends_with_the_same_layers(processes, write_recipe, tmp_path) -> None:
    settings = {"num_epochs": 10, "batch_size": 20}
    recipe = write_recipe(pretrain={"strategy": "finetune", "method": "dbn", "dbn": settings})
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    marker = "tiny/seed-0/pretraining.pt"  # some epochs are over
    assert start_and_kill(processes, recipe, killed, marker, steps="train.num_steps=2") == -signal.SIGKILL
    assert (killed / "tiny/seed-0/pretraining.pt").is_file()
    assert not list(killed.glob("cache/pretrain-*"))
    for out in (killed, unbroken):
        run_recipe(load_recipe(recipe, ["train.num_steps=2"]), out, Progress())
        assert not (out / "tiny/seed-0/pretraining.pt").exists()
    assert_same_layers(*(next(out.glob("cache/pretrain-*")) for out in (killed, unbroken)))


def assert_same_layers(one: Path, other: Path) -> None:
    """And the same history, but for the time that it took."""
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    records = []
    for path in (one, other):
        with safe_open(path, framework="pt") as file:
            records.append(json.loads(file.metadata()["record"]))
    assert records[0]["history"] == records[1]["history"]
    assert all(record["seconds"] > 0 for record in records)


def test_a_half_written_file_is_never_taken_for_a_whole_one(make_recipe, tmp_path) -> None:
    """What an interrupted write leaves behind are temporary names, and nothing reads those."""
    recipe = make_recipe()
    seed = tmp_path / "tiny" / "seed-0"
    seed.mkdir(parents=True)
    clean = run_recipe(recipe, tmp_path / "clean", Progress())
    features = next((tmp_path / "clean" / "cache").glob("features-*")).name
    layers = next((tmp_path / "clean" / "cache").glob("pretrain-*")).stem
    (tmp_path / "cache" / features).mkdir(parents=True)
    for name in (
        *(f"tiny/seed-0/{stem}" for stem in ("model.safetensors", "pretraining.pt", "checkpoint.pt", "seed.json")),
        "tiny/seed-0/training.json",
        *(f"cache/{features}/{stem}" for stem in ("frames.npy", "store.json", "audio.json", "shard-00000.npz")),
        f"cache/{layers}.safetensors",
    ):
        path = tmp_path / name
        path.with_name(f".{path.stem}-x1y2z3{path.suffix}").write_bytes(b"half of a fi")
    run = run_recipe(recipe, tmp_path, Progress())
    name = "seed-0/model.safetensors"
    assert (run.path / name).read_bytes() == (clean.path / name).read_bytes()


def test_a_finished_run_is_not_run_again(make_recipe, tmp_path) -> None:
    recipe = make_recipe()
    run = run_recipe(recipe, tmp_path, Progress())
    before = {path: path.stat().st_mtime_ns for path in run.seed(0).iterdir()}
    run_recipe(recipe, tmp_path, Progress())
    assert before == {path: path.stat().st_mtime_ns for path in run.seed(0).iterdir()}


def test_a_folder_of_another_recipe_is_left_alone(make_recipe, tmp_path) -> None:
    run_recipe(make_recipe(), tmp_path, Progress())
    with pytest.raises(InputError, match=r"other settings \(train.num_steps is 6 there and 7 now\)"):
        run_recipe(make_recipe("train.num_steps=7"), tmp_path, Progress())


def test_a_run_that_has_not_ended_cannot_be_reported(make_recipe, tmp_path) -> None:
    run = run_recipe(make_recipe(), tmp_path, Progress())
    (run.seed(0) / "seed.json").unlink()
    with pytest.raises(InputError, match=r"the run has not ended: seeds \[0\] are missing"):
        report_runs([run.path], None, Progress())


def test_a_report_says_how_far_it_has_come(make_recipe, tmp_path) -> None:
    run, said = run_recipe(make_recipe(), tmp_path, Progress()), io.StringIO()
    rows = report_runs([run.path], None, Progress(Console(file=said, width=120)))
    assert f"intervals: {len(rows)}/{len(rows)}, " in said.getvalue()
