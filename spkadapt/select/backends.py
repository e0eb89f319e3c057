"""Choosing a backend for a domain without speaker labels, and whether to adapt at all.

No label of the target domain is to be had, but two things are known of it: which recordings are of one call, and
that some callers call more than once. The mean of a call's embeddings is far surer than any one of them, so calls
that are each other's nearest are often of one caller: *pseudo-speakers*. How well a backend that was fitted on one
half of the calls finds the pseudo-speakers of the other half, from single utterances of different calls, ranks
backends much as true labels would. It does not say how good they are: a wrong pseudo-speaker is an error of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spkadapt.backend.adaptation import ADAPTATIONS
from spkadapt.backend.adapted import (
    CENTRED,
    COSINE_METHOD,
    COSINE_METHODS,
    METHODS,
    NO_ADAPTATION,
    SourceData,
    TargetDomainData,
    fit_common,
    prepare_backend,
)
from spkadapt.backend.chain import Backend
from spkadapt.backend.cosine import CosineScorer
from spkadapt.errors import InputError, shorten
from spkadapt.intervals import compare_paired
from spkadapt.metrics import compute_eer
from spkadapt.metrics.weighted import EER
from spkadapt.score import score_all_pairs
from spkadapt.select.pool_trials import mean_cosines, pair_nearest

CHOICE_RULE = (
    "the least pseudo-speaker EER of no adaptation, centring, and same-recording WCCN at any strength; another "
    "method only where its least is below that in every halving of the calls, each by a confidence interval of "
    "the paired difference that leaves out zero, at 95 % for all other methods together (Bonferroni)"
)
FEWEST_SESSIONS = 20

_NUM_SPLITS = 3
_NUM_REPLICATES = 1000
# Per half: enough calls to rank backends in seconds.
_MOST_SESSIONS, _MOST_UTTERANCES = 100, 10
_STRENGTHS = {
    NO_ADAPTATION: (0.0,),
    CENTRED: (0.0,),
    COSINE_METHOD: (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9),
}
_PLDA_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Candidate:
    """A backend that could be chosen.

    Attributes:
        method, strength: as for `prepare_backend`.
        pseudo_eer: the EER on pseudo-speakers, a mean over random halvings of the calls; None where the method
            could not be fitted.
        failure: why not.
    """

    method: str
    strength: float
    pseudo_eer: float | None
    failure: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, from what, and why.

    Attributes:
        method, strength: as for `prepare_backend`.
        reason: in words.
        candidates: all that were tried; none where there was nothing to choose by.
    """

    method: str
    strength: float
    reason: str
    candidates: tuple[Candidate, ...] = ()


def choose_backend(
    source: SourceData,
    target_domain: TargetDomainData,
    *,
    held_out: np.ndarray | None = None,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    on_progress: Callable[[int, str], None] | None = None,
) -> Choice:
    """Choose a method and its strength by `CHOICE_RULE`, seeing no speaker of the target domain.

    Without sessions, or with fewer than `FEWEST_SESSIONS`, nothing can be compared: then it is centred cosine.

    An extractor that was trained on the target domain's recordings may know them by heart, and then any backend
    finds their pseudo-speakers; only recordings that it was not trained on can tell.

    Args:
        held_out: whether each recording of the target domain is one to compare by, `(num_embeddings,)` of bool;
            backends are fitted on the others as well. None: all are compared by.
        methods: which to try, of `METHODS`.
        seed: of the halvings.
        on_progress: called with how many methods have been tried, and the next one's name.

    Raises:
        InputError: data of two extractors; a session of which only a part is held out; too few sessions where
            centring is not among `methods`; or that none of them can be fitted.
    """
    compared = _sessions_to_compare_by(target_domain, held_out)
    if len(compared) < FEWEST_SESSIONS:
        of = "known" if held_out is None else "held out"
        known = f"{len(compared) or 'no'} sessions are {of}, fewer than {FEWEST_SESSIONS}"
        if CENTRED not in methods:
            raise InputError(f"{known}, so no strength can be chosen for {', '.join(methods)}: say which")
        return Choice(CENTRED, 0.0, f"{known}, so nothing can be compared")
    halvings = _halve(target_domain, compared, seed)
    candidates: list[Candidate] = []
    scores: dict[Candidate, list[np.ndarray]] = {}  # of each method at its best, in every halving
    for number, method in enumerate(methods):
        if on_progress is not None:
            on_progress(number, method)
        try:
            found_at = _score_method(method, source, target_domain, halvings)
        except InputError as error:
            candidates.append(Candidate(method, 1.0, None, str(error)))
            continue
        tried = {Candidate(method, s, _mean_eer(found, halvings)): found for s, found in found_at.items()}
        candidates += tried
        best = min(tried, key=_pseudo_eer)
        is_source_plda = method in ADAPTATIONS and best.strength == 0  # of whichever method, and once is enough
        if not (is_source_plda and any(one.method in ADAPTATIONS and one.strength == 0 for one in scores)):
            scores[best] = tried[best]
    if not scores:
        raise InputError(f"no method can be fitted: {candidates[0].failure}")
    return replace(_choose(scores, halvings), candidates=tuple(candidates))


def _sessions_to_compare_by(target_domain: TargetDomainData, held_out: np.ndarray | None) -> np.ndarray:
    """Their names, sorted."""
    if target_domain.sessions is None:
        return np.array([])
    sessions = np.asarray(target_domain.sessions)
    if held_out is None:
        return np.unique(sessions)
    compared = np.unique(sessions[held_out])
    divided = np.intersect1d(compared, sessions[~held_out])
    if len(divided):
        raise InputError(f"{len(divided)} sessions are held out in part: {shorten(divided.tolist())}")
    return compared


def _choose(scores: Mapping[Candidate, list[np.ndarray]], halvings: Sequence[_Halving]) -> Choice:
    """The choice among methods at their best, of which these are the scores in every halving."""
    tried = sorted(scores, key=_pseudo_eer)
    simple = [one for one in tried if one.method in COSINE_METHODS]
    if not simple:
        return Choice(tried[0].method, tried[0].strength, "the least pseudo-speaker EER")
    best, level = simple[0], 1 - 0.05 / max(1, len(tried) - len(simple))
    for other in tried[: tried.index(best)]:
        if _is_clearly_below(scores[other], scores[best], halvings, level):
            reason = "its pseudo-speaker EER is clearly below that of every cosine backend"
            return Choice(other.method, other.strength, reason)
    reason = "the least pseudo-speaker EER of the cosine backends; no other method is clearly below it"
    return Choice(best.method, best.strength, reason)


def _is_clearly_below(
    scores: list[np.ndarray], others: list[np.ndarray], halvings: Sequence[_Halving], level: float
) -> bool:
    for mine, theirs, halving in zip(scores, others, halvings, strict=True):
        speakers = halving.enrol_speakers, halving.test_speakers
        test = compare_paired(
            theirs, mine, halving.is_target, *speakers, EER, num_replicates=_NUM_REPLICATES, level=level
        )
        if test.interval.high >= 0:
            return False
    return True


def _mean_eer(scores: list[np.ndarray], halvings: Sequence[_Halving]) -> float:
    pairs = zip(scores, halvings, strict=True)
    return float(np.mean([compute_eer(one, halving.is_target) for one, halving in pairs]))


def _pseudo_eer(candidate: Candidate) -> float:
    return np.inf if candidate.pseudo_eer is None else candidate.pseudo_eer


@dataclass(frozen=True, eq=False)
class _Halving:
    """One division of the calls to compare by in two, and the trials within both halves: all pairs across calls.

    Attributes:
        fitted_on: rows of the target domain, for each half, that the backends which it tests are fitted on: all
            but its own.
        rows: the rows of each half that make its trials.
        pairs: flat places, among all pairs of a half's rows, of its trials.
        is_target: whether the pseudo-speakers of a trial are one; the trials of both halves in turn.
        enrol_speakers, test_speakers: these.
    """

    fitted_on: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    pairs: tuple[np.ndarray, ...]
    is_target: np.ndarray
    enrol_speakers: np.ndarray
    test_speakers: np.ndarray


def _halve(target_domain: TargetDomainData, compared: np.ndarray, seed: int) -> list[_Halving]:
    common = Backend(fit_common(target_domain), CosineScorer())
    embeddings = common.transform(target_domain.embeddings, target_domain.domains)
    names, session_of = np.unique(np.asarray(target_domain.sessions), return_inverse=True)
    numbers = np.searchsorted(names, compared)
    generator = np.random.default_rng(seed)
    return [_halve_once(embeddings, session_of, numbers, generator) for _ in range(_NUM_SPLITS)]


def _halve_once(
    embeddings: np.ndarray, session_of: np.ndarray, compared: np.ndarray, generator: np.random.Generator
) -> _Halving:
    half_of = np.full(int(session_of.max()) + 1, -1)
    half_of[generator.permutation(compared)] = np.arange(len(compared)) % 2
    fitted_on, rows, pairs, speakers = [], [], [], []
    for half in (0, 1):
        fitted_on.append(np.flatnonzero(half_of[session_of] != half))
        kept = _thin(np.flatnonzero(half_of[session_of] == half), session_of, generator)
        sessions, number = np.unique(session_of[kept], return_inverse=True)
        pseudo = sessions[pair_nearest(mean_cosines(embeddings[kept], number, len(sessions)))][number]
        first, second = np.triu_indices(len(kept), 1)
        across = number[first] != number[second]
        first, second = first[across], second[across]
        rows.append(kept)
        pairs.append(first * len(kept) + second)
        speakers.append(np.stack([pseudo[first], pseudo[second]]))
    enrol, test = np.concatenate(speakers, axis=1)
    return _Halving(tuple(fitted_on), tuple(rows), tuple(pairs), enrol == test, enrol, test)


def _thin(rows: np.ndarray, session_of: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """At most `_MOST_UTTERANCES` of each of at most `_MOST_SESSIONS` sessions."""
    rows = generator.permutation(rows)
    order = np.argsort(session_of[rows], kind="stable")
    _, starts, counts = np.unique(session_of[rows][order], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(starts, counts)
    number = np.repeat(generator.permutation(len(starts)), counts)
    return np.sort(rows[order][(place < _MOST_UTTERANCES) & (number < _MOST_SESSIONS)])


def _score_method(
    method: str, source: SourceData, target_domain: TargetDomainData, halvings: Sequence[_Halving]
) -> dict[float, list[np.ndarray]]:
    """For each strength, the scores of the trials of every halving."""
    common = fit_common(target_domain)
    scores: dict[float, list[np.ndarray]] = {s: [] for s in _STRENGTHS.get(method, _PLDA_STRENGTHS)}
    for halving in halvings:
        prepared = [
            prepare_backend(method, source, target_domain.select(rows), common=common)
            for rows in halving.fitted_on
        ]
        for strength, found in scores.items():
            halves = zip(prepared, halving.rows, halving.pairs, strict=True)
            parts = [
                _score_across(one.at(strength), target_domain.select(rows), pairs) for one, rows, pairs in halves
            ]
            found.append(np.concatenate(parts))
    return scores


def _score_across(backend: Backend, tested: TargetDomainData, pairs: np.ndarray) -> np.ndarray:
    embeddings = backend.transform(tested.embeddings, tested.domains)
    enrol, test = backend.scorer.enrol_side(embeddings), backend.scorer.test_side(embeddings)
    return score_all_pairs(backend.scorer, enrol, test).ravel()[pairs]
