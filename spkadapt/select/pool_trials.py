"""Trials that a pool makes of itself: which of its pairs are of one speaker, as far as calls can tell.

Two utterances of one call are of one speaker, and of one channel. Calls that are each other's nearest, by the mean
of each, are often of one caller: *pseudo-speakers*, whose single utterances from different calls make trials
across channels, as real ones are. Pairs of different calls, or of different pseudo-speakers, count as non-targets;
some are of one caller, which raises every model's error alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spkadapt.backend.covariance import sum_by_class
from spkadapt.errors import InputError
from spkadapt.metrics import compute_eer
from spkadapt.select.data import SelectionData, spread, thin, unit_rows

MOST_SESSIONS, MOST_UTTERANCES = 150, 6
_MOST_PAIRED = 4000  # sessions among which pairs are sought: a matrix of 128 MB


@dataclass(frozen=True, eq=False)
class PoolTrials:
    """Pairs of pool embeddings, and who is taken to speak.

    Attributes:
        first, second: rows of the pool.
        first_speakers, second_speakers: the session, or pseudo-speaker, of each side.

    Shape:
        all `(num_trials,)`
    """

    first: np.ndarray
    second: np.ndarray
    first_speakers: np.ndarray
    second_speakers: np.ndarray

    @property
    def is_target(self) -> np.ndarray:
        """Whether both sides are taken to be of one speaker, `(num_trials,)`."""
        return self.first_speakers == self.second_speakers

    def score(self, data: SelectionData) -> np.ndarray:
        """The cosine of each pair, `(num_trials,)`."""
        rows = np.unique(np.concatenate([self.first, self.second]))
        place = np.zeros(len(data.pool), dtype=np.intp)
        place[rows] = np.arange(len(rows))
        units = data.unit_pool[rows]
        return (units @ units.T)[place[self.first], place[self.second]]

    def eer(self, data: SelectionData) -> float:
        """The EER of these trials by cosine."""
        return compute_eer(self.score(data), self.is_target)


def same_recording_trials(sessions: np.ndarray) -> PoolTrials:
    """All pairs of some of the pool: targets within a session, non-targets across.

    Args:
        sessions: as numbers from 0; at most `MOST_UTTERANCES` of each of `MOST_SESSIONS` are used.

    Shape:
        sessions: `(num_pool,)`

    Raises:
        InputError: no session of two utterances, or only one session.
    """
    rows = thin(sessions, MOST_SESSIONS, MOST_UTTERANCES)
    first, second = (rows[side] for side in np.triu_indices(len(rows), 1))
    trials = PoolTrials(first, second, sessions[first], sessions[second])
    if not trials.is_target.any() or trials.is_target.all():
        raise InputError("needs two sessions of the pool, and two utterances of some session; found fewer")
    return trials


def pseudo_speaker_trials(sessions: np.ndarray, pseudo_speakers: np.ndarray) -> PoolTrials:
    """All pairs across sessions of some of the pool: targets where both sessions are of one pseudo-speaker.

    Of more than `MOST_SESSIONS` sessions, only pairs are used, evenly spaced: a session alone has no targets.

    Args:
        sessions: as numbers from 0; at most `MOST_UTTERANCES` of each are used.
        pseudo_speakers: of each session, as `find_pseudo_speakers` says.

    Shape:
        sessions: `(num_pool,)`
        pseudo_speakers: `(num_sessions,)`

    Raises:
        InputError: no two sessions are of one pseudo-speaker, or all are.
    """
    used = np.arange(len(pseudo_speakers))
    if len(used) > MOST_SESSIONS:
        names, counts = np.unique(pseudo_speakers, return_counts=True)
        paired = names[counts > 1]
        used = np.flatnonzero(np.isin(pseudo_speakers, paired[spread(len(paired), MOST_SESSIONS // 2)]))
    candidates = np.flatnonzero(np.isin(sessions, used))
    rows = candidates[thin(np.searchsorted(used, sessions[candidates]), len(used), MOST_UTTERANCES)]
    first, second = (rows[side] for side in np.triu_indices(len(rows), 1))
    across = sessions[first] != sessions[second]
    first, second = first[across], second[across]
    trials = PoolTrials(first, second, pseudo_speakers[sessions[first]], pseudo_speakers[sessions[second]])
    if not trials.is_target.any() or trials.is_target.all():
        raise InputError(f"needs more sessions to find pseudo-speakers in, found {len(pseudo_speakers)}")
    return trials


def find_pseudo_speakers(pools: Sequence[np.ndarray], sessions: np.ndarray) -> np.ndarray:
    """For each session the lower number of itself and its partner: its nearest, where it is the nearest of that.

    Of several models of one pool the cosines between session means are averaged, each model's standardised first,
    so that all are held against the same pseudo-speakers and none against its own. Of very many sessions, partners
    are sought among some, evenly spaced.

    Args:
        pools: embeddings of unit length of the same recordings, by each model.
        sessions: as numbers from 0.

    Shape:
        pools: `(num_pool, dim)` each
        sessions: `(num_pool,)`
        returns `(num_sessions,)`
    """
    pseudo_speakers = np.arange(int(sessions.max()) + 1)
    chosen = spread(len(pseudo_speakers), _MOST_PAIRED)
    rows = np.flatnonzero(np.isin(sessions, chosen))
    numbers = np.searchsorted(chosen, sessions[rows])
    off_diagonal = ~np.eye(len(chosen), dtype=bool)
    total = np.zeros(off_diagonal.shape)
    for pool in pools:
        cosines = mean_cosines(pool[rows], numbers, len(chosen))
        deviation = cosines[off_diagonal].std()
        total += (cosines - cosines[off_diagonal].mean()) / (deviation if deviation > 0 else 1.0)
    pseudo_speakers[chosen] = chosen[pair_nearest(total)]
    return pseudo_speakers


def mean_cosines(embeddings: np.ndarray, session_of: np.ndarray, num_sessions: int) -> np.ndarray:
    """The cosine of the mean embeddings of every two sessions.

    Shape:
        embeddings: `(num_embeddings, dim)`
        session_of: `(num_embeddings,)`, numbers from 0
        returns `(num_sessions, num_sessions)`
    """
    means = unit_rows(sum_by_class(embeddings, session_of, num_sessions))
    return means @ means.T


def pair_nearest(similarities: np.ndarray) -> np.ndarray:
    """For each row the lower number of itself and the row that is its nearest and whose nearest it is.

    Shape:
        similarities: `(num_rows, num_rows)`, symmetric; the diagonal is not looked at
        returns `(num_rows,)`
    """
    similarities = similarities.copy()
    np.fill_diagonal(similarities, -np.inf)
    nearest = similarities.argmax(axis=1)
    own = np.arange(len(similarities))
    return np.where(nearest[nearest] == own, np.minimum(own, nearest), own)
