"""From ids to sides: what the trials of a list need of a set of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.embed import EmbeddingSet
from spkadapt.enrolment import Enrolment
from spkadapt.errors import InputError
from spkadapt.score.listed import TrialRows
from spkadapt.trials import Trials, number_ids


@dataclass(frozen=True, eq=False)
class TrialSides:
    """A trial list, ready to be scored.

    Attributes:
        enrol: a row for each model, or utterance, that the trials name on their enrolment side.
        test: a row for each utterance that they name on their test side.
        rows: the two rows of each trial.
    """

    enrol: Side
    test: Side
    rows: TrialRows


def prepare_sides(
    scorer: Scorer,
    trials: Trials,
    embeddings: EmbeddingSet,
    *,
    test_embeddings: EmbeddingSet | None = None,
    enrolment: Enrolment | None = None,
    path: str | Path | None = None,
) -> TrialSides:
    """Make the two sides of a trial list; embeddings that no trial needs are not read.

    Args:
        scorer: makes the sides.
        trials: the list.
        embeddings: of the enrolment utterances, and of the test utterances where those have no set of their own.
        test_embeddings: of the test utterances.
        enrolment: the utterances of each model, where the enrolment side of the trials names models.
        path: the trial list, for errors to name.

    Raises:
        InputError: for ids without an embedding, all of them at once; models that `enrolment` lacks; or embeddings
            that the scorer refuses.
    """
    if enrolment is None:
        utterances, enrol_rows = number_ids(trials.enrol_ids)
        model_of = None
        if test_embeddings is None:
            embeddings.rows(trials.utterance_ids(), path)  # so that what is missing on either side is said at once
    else:
        utterances, model_of, enrol_rows = enrolment.number(trials.enrol_ids, path=path)
        enrolment.check_utterances(embeddings.utterance_ids)
    tests, test_rows = number_ids(trials.test_ids)
    test_set = embeddings if test_embeddings is None else test_embeddings
    enrol_vectors, test_vectors = _pick([(embeddings, utterances), (test_set, tests)], path)
    enrol, test = scorer.enrol_side(enrol_vectors, model_of), scorer.test_side(test_vectors)
    return TrialSides(enrol, test, TrialRows(enrol_rows, test_rows, len(enrol), len(test)))


def _pick(wanted: Sequence[tuple[EmbeddingSet, Sequence[str]]], path: str | Path | None) -> list[np.ndarray]:
    """The embeddings wanted of each set; what is missing in any is said at once."""
    found, errors = [], []
    for embeddings, ids in wanted:
        try:
            found.append(embeddings.embeddings[embeddings.rows(ids, path)])
        except InputError as error:
            errors.append(error)
    if errors:
        raise (
            errors[0] if len(errors) == 1 else InputError.together(errors, summary="on both sides of the trials:")
        )
    return found
