"""`spkadapt select`: it reads source and pool alone, explains itself, and refuses what it cannot compare."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spkadapt import cli
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.files import write_json
from spkadapt.manifest import Manifest, Utterance
from spkadapt.pipeline import select_runs
from spkadapt.progress import Progress
from spkadapt.run_folder import RunFolder
from spkadapt.select import VALIDATORS, Validator

SPEAKERS, CALLERS, EACH = 6, 12, 4
SOURCE = [f"s{n:02d}" for n in range(SPEAKERS * EACH)]
POOL = [f"p{n:03d}" for n in range(2 * CALLERS * EACH)]
EVALUATION = ["e0", "e1"]


def make_run(path: Path, noise: float, seeds: tuple[int, ...] = (0, 1), evaluation: float = 0.0) -> Path:
    """A run that has ended, in which noise lies on one direction of the pool; no trial and no score is there."""
    random = np.random.default_rng(0)
    voices, callers = random.normal(size=(SPEAKERS, 8)), random.normal(size=(CALLERS, 8))
    write_json(path / "recipe.json", {"name": path.name, "seeds": list(seeds)})
    source = [
        Utterance(name, Path("/a.wav"), speaker_id=f"spk{place // EACH}") for place, name in enumerate(SOURCE)
    ]
    pool = [Utterance(name, Path("/a.wav"), session_id=f"call{place // EACH}") for place, name in enumerate(POOL)]
    Manifest(tuple(source)).save_csv(path / "source.csv")
    Manifest(tuple(pool)).unlabelled().as_manifest().save_csv(path / "target_domain.csv")
    for seed in seeds:
        random = np.random.default_rng([seed, int(noise)])
        of_source = voices[np.arange(len(SOURCE)) // EACH] + 0.3 * random.normal(size=(len(SOURCE), 8))
        of_pool = callers[np.arange(len(POOL)) // EACH // 2] + 0.3 * random.normal(size=(len(POOL), 8))
        of_pool[:, 0] += noise * random.normal(size=len(POOL))
        rows = np.concatenate([np.full((2, 8), evaluation), of_source, of_pool + 1.0]).astype(np.float32)
        EmbeddingSet((*EVALUATION, *SOURCE, *POOL), rows).save(path / f"seed-{seed}" / "embeddings.npz")
        write_json(path / f"seed-{seed}" / "seed.json", {})
    return path


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / name, noise) for name, noise in (("source_only", 4.0), ("mmd", 0.0), ("dann", 9.0))
    ]


@pytest.fixture
def shown() -> tuple[Progress, Callable[[], str]]:
    """Where things are shown, and what was."""
    text = io.StringIO()
    return Progress(Console(file=text, width=240)), text.getvalue


def test_the_better_run_is_chosen_and_written_down(
    folders: list[Path], tmp_path: Path, shown: tuple[Progress, Callable[[], str]]
) -> None:
    progress, read = shown
    choice = select_runs(folders, progress, json_file=tmp_path / "choice.json")
    assert choice.chosen == "mmd"
    record = json.loads((tmp_path / "choice.json").read_text())
    assert record["chosen"] == record["best"] == "mmd"
    assert record["baseline"] == "source_only"
    assert record["ranked_by"] == ["pseudo_speaker_eer", "coral"]
    assert record["backend"] == "centred"
    assert record["gate"]["interval"]["high"] < 0
    assert record["runs"]["dann"] == str(folders[2])
    assert record["predictions"] == {}
    assert "mmd  ← chosen" in read()
    assert "chosen: mmd: it is the first in rank, and its pseudo-speaker EER is clearly below" in read()
    assert "gate: pseudo-speaker EER of mmd" in read()


def test_all_validators_are_shown_and_the_choice_stays(
    folders: list[Path], tmp_path: Path, shown: tuple[Progress, Callable[[], str]]
) -> None:
    progress, read = shown
    choice = select_runs(folders[:2], progress, validator="all", json_file=tmp_path / "choice.json")
    assert choice.chosen == "mmd"
    assert {one.validator for one in choice.judgements} == set(VALIDATORS)
    # Names are broken at their underscores, over lines.
    assert all(part in read() for name in VALIDATORS for part in name.split("_"))
    record = json.loads((tmp_path / "choice.json").read_text())
    assert record["ranked_by"] == ["pseudo_speaker_eer", "coral"]
    for name, found in record["predictions"].items():
        low, high = found["interval"]
        assert low <= found["eer"] <= high, name
        assert f"a mixture of Gaussians predicts for {name} an EER of" in read()


def test_one_validator_ranks_and_the_gate_still_holds(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noisiest run is made to lead; it is worse on pseudo-speakers, so the baseline stays."""
    leader = Validator("source_eer", True, lambda data: float(np.abs(data.pool).max()))
    monkeypatch.setitem(VALIDATORS, "source_eer", leader)
    choice = select_runs(folders, Progress(), validator="source_eer", baseline=folders[1])
    assert [one.validator for one in choice.judgements] == ["source_eer"]
    assert (choice.chosen, choice.best) == ("mmd", "dann")


def test_what_no_training_saw_is_chosen_by_alone(
    folders: list[Path], tmp_path: Path, shown: tuple[Progress, Callable[[], str]]
) -> None:
    """The same choice as of runs whose whole pool it is; and what the embeddings of the others are is all one."""
    progress, read = shown
    select_runs(folders, progress, json_file=tmp_path / "whole.json")
    assert "chosen by 96 recordings of 24 sessions that runs were trained on, which flatters those" in read()
    for folder in folders:
        (folder / "target_domain.csv").rename(folder / "held_out.csv")
        (folder / "target_domain.csv").write_text("utterance_id,path,session_id\ntrained,/a.wav,call99\n")
    select_runs(folders, progress, json_file=tmp_path / "part.json")
    assert "chosen by 96 recordings of 24 sessions that no training saw" in read()
    whole, part = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "part"))
    assert (whole.pop("pool_was_held_out"), part.pop("pool_was_held_out")) == (False, True)
    assert whole == part


def test_another_extractor_judges(
    folders: list[Path], tmp_path: Path, shown: tuple[Progress, Callable[[], str]]
) -> None:
    """One that hears callers as the best run does finds the same; where its mean lies is all one."""
    progress, read = shown
    embeddings = EmbeddingSet.load(folders[1] / "seed-0" / "embeddings.npz")
    EmbeddingSet(embeddings.utterance_ids, embeddings.embeddings[:, :7] + 50).save(tmp_path / "judge.npz")
    choice = select_runs(folders, progress, judge=tmp_path / "judge.npz", json_file=tmp_path / "choice.json")
    assert choice.chosen == "mmd"
    assert f"which calls are of one speaker is as {tmp_path / 'judge.npz'} says" in read()
    assert json.loads((tmp_path / "choice.json").read_text())["judge"] == str(tmp_path / "judge.npz")
    values = []
    for shift in (0.0, 50.0):
        of_two = embeddings.embeddings[:, :2] + np.array([shift, 0.0], dtype=np.float32)
        EmbeddingSet(embeddings.utterance_ids, of_two).save(tmp_path / "two.npz")
        judged = select_runs(folders, progress, judge=tmp_path / "two.npz").judgements[0].values
        values.append([judged[name] for name in sorted(judged)])
    assert values[0] == pytest.approx(values[1])
    fewer = EmbeddingSet(embeddings.utterance_ids[:-1], embeddings.embeddings[:-1])
    fewer.save(tmp_path / "fewer.npz")
    with pytest.raises(InputError, match=rf"fewer\.npz: .*{POOL[-1]}"):
        select_runs(folders, progress, judge=tmp_path / "fewer.npz")


def test_runs_that_held_out_something_and_runs_that_did_not(folders: list[Path]) -> None:
    shutil.copy(folders[1] / "target_domain.csv", folders[1] / "held_out.csv")
    select_runs(folders[:2], Progress())  # the same recordings, whatever they are called
    json_file = folders[0].parent / "choice.json"
    select_runs(folders[1::-1], Progress(), json_file=json_file)  # but one of the two was trained on them
    assert json.loads(json_file.read_text())["pool_was_held_out"] is False
    lines = (folders[1] / "held_out.csv").read_text().splitlines()
    (folders[1] / "held_out.csv").write_text("\n".join(lines[:40]) + "\n")
    with pytest.raises(InputError, match=r"or what of it is held out, is not that of .*source_only; they"):
        select_runs(folders[:2], Progress())


def test_another_run_can_be_the_baseline(folders: list[Path]) -> None:
    choice = select_runs(folders, Progress(), baseline=folders[1])
    assert (choice.chosen, choice.gate) == ("mmd", None)
    assert choice.reason == "it is the first in rank itself"


def test_nothing_of_the_evaluation_and_no_label_of_the_target_domain_is_read(tmp_path: Path) -> None:
    """Other embeddings of the evaluation, trials, scores, speakers of the pool: not a bit changes."""
    bare = [make_run(tmp_path / "bare" / name, noise) for name, noise in (("a", 4.0), ("b", 0.0))]
    full = [make_run(tmp_path / "full" / name, noise, evaluation=1e6) for name, noise in (("a", 4.0), ("b", 0.0))]
    for number, folder in enumerate(full):
        for name in ("evaluation.csv", "trials.txt", "seed-0/scores_plain.txt"):
            (folder / name).write_text("not to be read")
        lines = (folder / "target_domain.csv").read_text().splitlines()
        column = lines[0].split(",").index("speaker_id")
        labelled = [lines[0]]
        for place, line in enumerate(lines[1:]):
            cells = line.split(",")
            cells[column] = f"spk{(place * (number + 7)) % 11}"
            labelled.append(",".join(cells))
        (folder / "target_domain.csv").write_text("\n".join(labelled) + "\n")
    records = []
    for folders in (bare, full):
        path = folders[0].parent / "choice.json"
        select_runs(folders, Progress(), validator="all", json_file=path)
        records.append({**json.loads(path.read_text()), "runs": None})
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "recipe.json").unlink(), "this folder holds no run: it has no recipe.json"),
        (lambda run: (run / "seed-1/seed.json").unlink(), r"has not ended: seeds \[1\] are missing; run it again"),
        (
            lambda run: (run / "seed-0/embeddings.npz").unlink(),
            "expected an npz file of embeddings, found no such",
        ),
        (lambda run: (run / "source.csv").unlink(), "source.csv: no such manifest"),
        (
            lambda run: (run / "target_domain.csv").write_text(
                "utterance_id,path,session_id\np000,/a.wav,call0\n"
            ),
            "mmd: this run's source or target domain, or what of it is held out, is not that of .*source_only",
        ),
        (
            lambda run: write_json(run / "recipe.json", {"name": "source_only", "seeds": [0]}),
            "two models have one",
        ),
    ],
)
def test_runs_that_cannot_be_compared(folders: list[Path], change: Callable[[Path], object], message: str) -> None:
    change(folders[1])
    with pytest.raises(InputError, match=message):
        select_runs(folders[:2], Progress())


def test_arguments_that_cannot_be_met(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected two runs or more to choose from, found 1"):
        select_runs(folders[:1], Progress())
    with pytest.raises(
        InputError, match=r"other: the baseline must be one of the runs to choose from: .*source_only"
    ):
        select_runs(folders, Progress(), baseline=tmp_path / "other")
    with pytest.raises(InputError, match=r'there is no validator "corall"; did you mean "coral"\?'):
        select_runs(folders, Progress(), validator="corall")


def test_the_command_gives_what_the_call_gives(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    select_runs(folders, Progress(), json_file=tmp_path / "call.json")
    arguments = ["spkadapt", "select", *map(str, folders), "--json", str(tmp_path / "command.json")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert (tmp_path / "command.json").read_bytes() == (tmp_path / "call.json").read_bytes()
    shutil.rmtree(folders[1] / "seed-0")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "seeds [0] are missing" in capsys.readouterr().err


def test_a_run_is_read_where_it_is(folders: list[Path]) -> None:
    """Selection leaves no file in a run's folder."""
    before = {path: path.stat().st_mtime_ns for folder in folders for path in sorted(folder.rglob("*"))}
    select_runs(folders, Progress())
    after = {path: path.stat().st_mtime_ns for folder in folders for path in sorted(folder.rglob("*"))}
    assert after == before
    assert RunFolder(folders[0]).has_seed(0)
