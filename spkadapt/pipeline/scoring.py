"""Scores of trials from files of embeddings, and error rates of all pairs without keeping a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spkadapt import fused
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.normalise import MeanSubtraction
from spkadapt.embed import EmbeddingSet
from spkadapt.enrolment import Enrolment, load_enrolment
from spkadapt.errors import InputError, shorten
from spkadapt.files import write_json
from spkadapt.metrics import (
    ACT_DCF_DEFINITION,
    CLLR_DEFINITION,
    EER_DEFINITION,
    MIN_DCF_DEFINITION,
    ROCCH_EER_DEFINITION,
)
from spkadapt.metrics.operating_points import OperatingPoint
from spkadapt.metrics.streaming import ExactMetrics
from spkadapt.pipeline.backends import transform_set
from spkadapt.progress import Progress
from spkadapt.score.distributed import join_ranks
from spkadapt.score.parts import score_to_file
from spkadapt.score.sides import prepare_sides
from spkadapt.tables import load_utterance_table, look_up
from spkadapt.train import check_device
from spkadapt.trials import Trials, load_trials


def score_file(
    embeddings: Path,
    trials: Path,
    out: Path,
    progress: Progress,
    *,
    backend: Path | None = None,
    centre: Path | None = None,
    domains: Path | None = None,
    enrolment: Path | None = None,
    device: str = "cpu",
) -> None:
    """Score a trial list. Killed, the same call goes on where it was; torchrun's processes share the work.

    Args:
        embeddings: of all utterances that the trials name: npz, ark, scp or parquet.
        trials: the trial list; labels, if it has any, are not used.
        out: the score file: text, or npz or parquet by its suffix.
        progress: where to show how far it has come.
        backend: a backend file; cosine where None.
        centre: embeddings of unlabelled recordings whose mean is subtracted first; not beside a backend.
        domains: the recording domain of each utterance, for a backend that centres by it.
        enrolment: the utterances of each speaker model, where the trials name models: spk2utt, or NIST's lines.
        device: where to multiply.

    Raises:
        InputError: bad files, or trials that name utterances without an embedding (all listed).
    """
    check_device(device)
    if backend is not None and centre is not None:
        raise InputError("a backend centres by itself: give --backend or --centre, not both")
    if domains is not None and backend is None:
        raise InputError("only a backend has a use for recording domains: give --backend too", path=domains)
    chain = _load_backend(backend, centre)
    vectors, listed = EmbeddingSet.load(embeddings), load_trials(trials)
    models = None if enrolment is None else load_enrolment(enrolment)
    vectors = transform_set(chain, _select_needed(vectors, listed, models), domains)
    sides = prepare_sides(chain.scorer, listed, vectors, enrolment=models, path=trials)
    with join_ranks(device) as ranks, progress.task("scores", len(listed)) as update:
        score_to_file(out, chain.scorer, sides, listed, ranks=ranks, on_progress=lambda done: update(done, ""))
    progress.say(f"{len(listed)} scores → {out}")


def measure_all_pairs(
    enrol: Path,
    test: Path,
    speakers: Path,
    progress: Progress,
    *,
    backend: Path | None = None,
    domains: Path | None = None,
    p_targets: Sequence[float] = (0.01, 0.05),
    device: str = "cpu",
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Error rates of every enrolment with every test embedding; exact, though no score is kept.

    Started by torchrun, its processes share the work and merge what they count.

    Args:
        enrol, test: the embeddings of the two sides.
        speakers: the speaker of each utterance: `utt2spk`, or a CSV file with the column `speaker_id`.
        progress: where to say how far it has come.
        backend: a backend file; cosine where None.
        domains: the recording domain of each utterance, for a backend that centres by it.
        p_targets: operating points of minDCF and actDCF, with costs of 1.
        device: where to multiply.
        json_file: also write the result there.

    Returns:
        Counts, EER, ROCCH-EER, minDCF, actDCF and Cllr, with the definitions they follow.

    Raises:
        InputError: bad files, an utterance on both sides or without a speaker (all listed).
    """
    check_device(device)
    chain = _load_backend(backend, None)
    sets = [transform_set(chain, EmbeddingSet.load(path), domains) for path in (enrol, test)]
    shared = set(sets[0].utterance_ids) & set(sets[1].utterance_ids)
    if shared:
        found = f"{len(shared)} utterances are on both sides: {shorten(sorted(shared))}"
        raise InputError(f"{found}; a recording scored with itself is no trial", path=test)
    table = load_utterance_table(speakers, "speaker_id")
    named = [look_up(table, one.utterance_ids, column="speaker_id", path=speakers) for one in sets]
    enrol_side, test_side = chain.scorer.enrol_side(sets[0].embeddings), chain.scorer.test_side(sets[1].embeddings)
    num_trials = len(enrol_side) * len(test_side)
    with join_ranks(device) as ranks, progress.task("trials", num_trials) as update:
        metrics = fused.measure_all_pairs(
            chain.scorer,
            enrol_side,
            test_side,
            np.array(named[0]),
            np.array(named[1]),
            [OperatingPoint(p) for p in p_targets],
            ranks=ranks,
            on_progress=lambda done, turn: update(done, f"pass {turn}"),
        )
        result = _describe(metrics, p_targets)
        if json_file is not None and ranks.is_leader:
            write_json(json_file, result)
    return result


def _describe(found: ExactMetrics, p_targets: Sequence[float]) -> dict[str, Any]:
    return asdict(found) | {
        "min_dcf": {f"{p:g}": cost for p, cost in zip(p_targets, found.min_dcf, strict=True)},
        "act_dcf": {f"{p:g}": cost for p, cost in zip(p_targets, found.act_dcf, strict=True)},
        "definitions": {
            "eer": EER_DEFINITION,
            "rocch_eer": ROCCH_EER_DEFINITION,
            "min_dcf": MIN_DCF_DEFINITION,
            "act_dcf": ACT_DCF_DEFINITION,
            "cllr": CLLR_DEFINITION,
        },
    }


def _select_needed(vectors: EmbeddingSet, listed: Trials, models: Enrolment | None) -> EmbeddingSet:
    """The embeddings that the trials name; what they name and is not there is for `prepare_sides` to say."""
    enrolled = listed.enrol_ids if models is None else models.utterance_ids
    needed = {*enrolled, *listed.test_ids}
    return vectors.select([name for name in vectors.utterance_ids if name in needed])


def _load_backend(backend: Path | None, centre: Path | None) -> Backend:
    if backend is not None:
        return Backend.load(backend)
    if centre is None:
        return Backend((), CosineScorer())
    return Backend((MeanSubtraction().fit(EmbeddingSet.load(centre).embeddings),), CosineScorer())
