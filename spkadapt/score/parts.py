"""Scores on their way to a file, in parts that outlive the process: a long scoring goes on where it was killed.

Beside `scores.txt` a folder `scores.txt.parts` holds the scores of each finished job, and a fingerprint of all
that they depend on; it goes away when `scores.txt` is there. Ranks that share the folder share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.files import atomic_path, write_text
from spkadapt.score.distributed import Ranks
from spkadapt.score.files import Scores, save_scores
from spkadapt.score.listed import Job, check_rows, plan_jobs, score_job
from spkadapt.score.sides import TrialSides
from spkadapt.trials import Trials

# Trials whose scores go into the fingerprint for what a scorer knows beside its sides.
_NUM_PROBES = 1024


def score_to_file(
    path: str | Path,
    scorer: Scorer,
    sides: TrialSides,
    trials: Trials,
    *,
    ranks: Ranks | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Score a trial list into a score file, atomically, in the format that `path` ends in.

    Called again after a crash with the same arguments it does only what is left, and the file has the same bytes;
    with others it begins anew.

    Args:
        path: the file.
        scorer: made the sides.
        sides: as `prepare_sides` gives them.
        trials: names the trials in the file.
        ranks: who does which share, and where; one process on the CPU by default.
        on_progress: called with the number of trials that are done, other ranks' not counted.

    Raises:
        InputError: as `score_trials` or `save_scores` does.
    """
    path, ranks = Path(path), ranks or Ranks()
    folder = path.with_name(path.name + ".parts")
    check_rows(sides.enrol, sides.test, sides.rows)
    jobs = plan_jobs(sides.rows)
    if ranks.is_leader:
        _open_folder(folder, _fingerprint(scorer, sides))
    ranks.wait()
    _score_share(folder, scorer, sides, jobs, ranks, on_progress)
    ranks.wait()
    if ranks.is_leader:
        values = np.empty(len(sides.rows), dtype=np.float32)
        for number, job in enumerate(jobs):
            values[job.trials] = np.load(_part(folder, number), allow_pickle=False)
        save_scores(path, Scores(trials.enrol_ids, trials.test_ids, values))
        _clear(folder)
    ranks.wait()


def _open_folder(folder: Path, fingerprint: str) -> None:
    """A folder whose parts, if any, are of these inputs."""
    stamp = folder / "fingerprint"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint:
        return
    _clear(folder)
    write_text(stamp, fingerprint)


def _clear(folder: Path) -> None:
    """Remove the parts, what a killed writer left of one, and the folder unless it holds something else."""
    for file in (folder / "fingerprint", *folder.glob("*.npy"), *folder.glob(".*-*")):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _score_share(
    folder: Path,
    scorer: Scorer,
    sides: TrialSides,
    jobs: list[Job],
    ranks: Ranks,
    on_progress: Callable[[int], None] | None,
) -> None:
    """Leave a part in the folder for each job of this rank's share."""
    enrol, test = sides.enrol.to(ranks.device), sides.test.to(ranks.device)
    num_done = 0
    for number in range(ranks.rank, len(jobs), ranks.size):
        part = _part(folder, number)
        if not part.is_file():
            with atomic_path(part) as temporary:
                np.save(temporary, score_job(scorer, enrol, test, sides.rows, jobs[number]))
        num_done += jobs[number].num_trials
        if on_progress is not None:
            on_progress(num_done)


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"


def _fingerprint(scorer: Scorer, sides: TrialSides) -> str:
    """A checksum of the sides, the trials and, for whatever else the scorer knows, of some scores."""
    digest = hashlib.blake2b(f"{type(scorer).__qualname__} {torch.__version__}".encode())
    rows = sides.rows
    places = np.linspace(0, max(0, len(rows) - 1), min(_NUM_PROBES, len(rows)), dtype=np.int64)
    probes = (torch.from_numpy(side[places]) for side in (rows.enrol, rows.test))
    scores = scorer.score_listed(sides.enrol, sides.test, *probes)
    for tensor in (
        torch.from_numpy(rows.enrol),
        torch.from_numpy(rows.test),
        scores,
        *_tensors(sides.enrol),
        *_tensors(sides.test),
    ):
        array = np.ascontiguousarray(tensor.cpu().numpy())
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _tensors(side: Side) -> Iterator[Tensor]:
    """All that a side holds, whatever its scorer has added to it."""
    for field in fields(side):
        value = getattr(side, field.name)
        if isinstance(value, Side):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value
