"""The backends that every run is scored with, from none at all to one that is chosen without a label.

plain     cosine of the embeddings as they are
centred   cosine, less the mean of the target domain's unlabelled pool
adapted   the cosine backend that `select.choose_backend` chooses by the pool's calls, those held out of training
          where there are any; it takes seconds; all of its methods take half a minute, and are for
          `spkadapt adapt-backend`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from spkadapt.backend.adapted import COSINE_METHODS, SourceData, TargetDomainData, prepare_backend
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.backend.normalise import MeanSubtraction
from spkadapt.embed import EmbeddingSet
from spkadapt.manifest import Recording
from spkadapt.pipeline.backends import choose_showing_progress
from spkadapt.pipeline.corpus import Corpus
from spkadapt.progress import Progress
from spkadapt.report.results import ADAPTED, CENTRED, PLAIN
from spkadapt.score import Scores, prepare_sides, score_trials
from spkadapt.select import CHOICE_RULE


def fit_backends(
    embeddings: EmbeddingSet,
    corpus: Corpus,
    *,
    seed: int,
    progress: Progress,
    label: str,
) -> dict[str, Backend]:
    """A backend of each name in `report.results.BACKENDS`; speakers of the target domain are not looked at.

    Args:
        embeddings: of the source domain and the pool, at least.
        corpus: both domains.
        seed: of the choice; the adapted backend's history says what was chosen, and why.
        progress, label: where to show how many have been tried, and under what name.
    """
    whole = corpus.whole_pool()
    recordings, sessions = whole.recordings, whole.sessions()
    source = SourceData(_select(embeddings, corpus.source.utterances), np.array(corpus.source.speakers()))
    pool = TargetDomainData(
        _select(embeddings, recordings),
        sessions=None if sessions is None else np.array(sessions),
        domains=_domains(corpus, recordings),
    )
    held_out = np.arange(len(recordings)) >= len(corpus.target_domain) if len(corpus.held_out) else None
    choice = choose_showing_progress(source, pool, COSINE_METHODS, seed, progress, label, held_out)
    adapted = prepare_backend(choice.method, source, pool).at(choice.strength)
    return {
        PLAIN: Backend((), CosineScorer()),
        CENTRED: Backend((MeanSubtraction().fit(pool.embeddings),), CosineScorer()),
        ADAPTED: replace(adapted, history={"rule": CHOICE_RULE, "choice": asdict(choice)}),
    }


def score_corpus(backend: Backend, embeddings: EmbeddingSet, corpus: Corpus, *, device: str = "cpu") -> Scores:
    """Scores of the corpus's trials.

    Raises:
        InputError: trials that name utterances without an embedding (all listed).
    """
    trials, tested = corpus.trials, corpus.evaluation.utterances
    domains = None if backend.domains is None else _domains(corpus, tested)
    vectors = backend.transform(_select(embeddings, tested), domains)
    named = EmbeddingSet(tuple(item.utterance_id for item in tested), vectors)
    sides = prepare_sides(backend.scorer, trials, named)
    values = score_trials(backend.scorer, sides.enrol, sides.test, sides.rows, device=device)
    return Scores(trials.enrol_ids, trials.test_ids, values)


def _select(embeddings: EmbeddingSet, recordings: Sequence[Recording]) -> np.ndarray:
    return embeddings.select([item.utterance_id for item in recordings]).embeddings


def _domains(corpus: Corpus, recordings: Sequence[Recording]) -> np.ndarray | None:
    """The recording domain of each; None where it is not known of all, or a test is of one that the pool lacks."""
    pool = {item.domain for item in corpus.whole_pool().recordings}
    if None in pool or not {item.domain for item in corpus.evaluation} <= pool:
        return None
    return np.array([item.domain for item in recordings])
