"""From ids to sides: what the trials of a list need of a set of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spkadapt.backend.scorer import Scorer, Side
from spkadapt.embed import EmbeddingSet
from spkadapt.enrolment import Enrolment
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
    enrol = scorer.enrol_side(embeddings.embeddings[embeddings.rows(utterances, path)], model_of)
    test = scorer.test_side(test_set.embeddings[test_set.rows(tests, path)])
    return TrialSides(enrol, test, TrialRows(enrol_rows, test_rows, len(enrol), len(test)))
