"""Two domains whose speakers are known: a labelled source, an unlabelled pool, and trials that tell the truth.

Synthetic ones are drawn from a model of speakers, calls and utterances,

    source:  x = y + e,   y ~ N(0, B),  e ~ N(0, W)
    target:  x = A (g ∘ y + phone type + call + e) + m

and a shift is what A (a rotation and a scaling), g (which of a speaker's directions come through), the phone
types, the calls, the noise and m are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from spkadapt.embed import EmbeddingSet
from spkadapt.metrics import compute_eer
from spkadapt.select import SelectionData, unit_rows
from spkadapt.trials import Trials

DIM = 48
NUM_SOURCE, NUM_POOL, NUM_EVALUATION = 100, 45, 40
UTTERANCES, CALLS = 5, 3


@dataclass(frozen=True, eq=False)
class Truth:
    """Embeddings and trials of the target domain that no choice sees.

    Shape:
        embeddings: `(num_embeddings, dim)`
        first, second, is_target: `(num_trials,)`; rows of the embeddings, and whether they are of one speaker
    """

    embeddings: np.ndarray
    first: np.ndarray
    second: np.ndarray
    is_target: np.ndarray

    @classmethod
    def across_calls(cls, embeddings: np.ndarray, speakers: np.ndarray, sessions: np.ndarray) -> Truth:
        """All pairs of different calls."""
        first, second = np.triu_indices(len(embeddings), 1)
        across = sessions[first] != sessions[second]
        first, second = first[across], second[across]
        return cls(embeddings, first, second, speakers[first] == speakers[second])

    @classmethod
    def of_trials(cls, embeddings: EmbeddingSet, trials: Trials) -> Truth:
        """Labelled trials."""
        first, second = embeddings.rows(trials.enrol_ids), embeddings.rows(trials.test_ids)
        return cls(embeddings.embeddings, first, second, np.asarray(trials.is_target))

    def measure(self, embeddings: np.ndarray) -> float:
        """The EER of the trials by cosine, of these embeddings in whatever form they are given."""
        units = unit_rows(embeddings)
        scores = np.einsum("nd,nd->n", units[self.first], units[self.second])
        return compute_eer(scores, self.is_target)


@dataclass(frozen=True)
class Shift:
    """What the target domain is, in units of the deviation of a speaker; all zero, and masking one: no shift.

    Attributes:
        rotation: angle in each of dim/2 random planes, radians.
        scaling: deviation of the log scale of each coordinate.
        offset: length of the mean's move, over √dim.
        phones: deviation of three phone types' offsets.
        calls: deviation of a call's own offset, in a quarter of the directions.
        noise: deviation of the utterances' further noise.
        masking: what is left of a speaker in half of the directions.
    """

    name: str
    rotation: float = 0.0
    scaling: float = 0.0
    offset: float = 0.0
    phones: float = 0.0
    calls: float = 0.0
    noise: float = 0.0
    masking: float = 1.0


SHIFTS = (
    Shift("none"),
    Shift("offset, small", offset=0.5),
    Shift("offset, large", offset=2.0),
    Shift("rotation, small", rotation=0.5),
    Shift("rotation, large", rotation=1.5, offset=0.5),
    Shift("scaling, small", scaling=0.3),
    Shift("scaling, large", scaling=0.8, offset=0.5),
    Shift("phone types, weak", phones=0.4),
    Shift("phone types, strong", phones=0.9, offset=0.5),
    Shift("calls, weak", calls=0.5),
    Shift("calls, strong", calls=1.2, offset=0.5),
    Shift("noise, weak", noise=0.3),
    Shift("noise, strong", noise=0.8, offset=0.5),
    Shift("masking", masking=0.3),
    Shift("calls and masking", calls=0.8, masking=0.4, offset=0.5),
    Shift("phone types and noise", phones=0.6, noise=0.5, offset=1.0),
    Shift("all, weak", rotation=0.3, scaling=0.3, offset=0.5, phones=0.4, calls=0.4, noise=0.2, masking=0.8),
    Shift("all, strong", rotation=1.0, scaling=0.5, offset=1.0, phones=0.8, calls=0.8, noise=0.4, masking=0.6),
)


def draw_synthetic(shift: Shift, seed: int) -> tuple[SelectionData, Truth]:
    """A source domain, and a pool and an evaluation of other speakers each in the shifted domain."""
    random = np.random.default_rng(seed)
    between = np.exp(-np.arange(DIM) / 14)
    between *= DIM / between.sum()
    within = 1.2 * (0.5 + random.random(DIM))
    basis = scipy.linalg.qr(random.normal(size=(DIM, DIM)))[0]  # no coordinate is special
    target = _Channel(shift, random)

    def utter(speakers: np.ndarray) -> np.ndarray:
        return speakers + np.sqrt(within) * random.normal(size=speakers.shape)

    voices = np.sqrt(between) * random.normal(size=(NUM_SOURCE + NUM_POOL + NUM_EVALUATION, DIM))
    source_speakers = np.repeat(np.arange(NUM_SOURCE), UTTERANCES)
    source = utter(voices[source_speakers])
    # A caller of the pool calls one to three times, as it comes; one of the evaluation CALLS times.
    pool_calls = np.repeat(np.arange(NUM_POOL), random.integers(1, CALLS + 1, NUM_POOL)) + NUM_SOURCE
    evaluation_calls = np.repeat(np.arange(NUM_EVALUATION), CALLS) + NUM_SOURCE + NUM_POOL
    pool_sessions, sessions = (
        np.repeat(np.arange(len(calls)), UTTERANCES) for calls in (pool_calls, evaluation_calls)
    )
    pool = target.transmit(utter, voices[pool_calls[pool_sessions]], pool_sessions, random)
    evaluation = target.transmit(utter, voices[evaluation_calls[sessions]], sessions, random)
    data = SelectionData(source @ basis, source_speakers, pool @ basis, pool_sessions)
    return data, Truth.across_calls(evaluation @ basis, evaluation_calls[sessions], sessions)


class _Channel:
    """One draw of a shift."""

    def __init__(self, shift: Shift, random: np.random.Generator) -> None:
        planes = scipy.linalg.qr(random.normal(size=(DIM, DIM)))[0]
        cos, sin = np.cos(shift.rotation), np.sin(shift.rotation)
        turn = scipy.linalg.block_diag(*[[[cos, -sin], [sin, cos]]] * (DIM // 2))
        self.matrix = planes @ turn @ planes.T * np.exp(shift.scaling * random.normal(size=DIM))
        self.mean = shift.offset * random.normal(size=DIM)
        self.phones = shift.phones * random.normal(size=(3, DIM))
        self.mask = np.where(random.permutation(DIM) < DIM // 2, shift.masking, 1.0)
        self.calls = shift.calls * (random.permutation(DIM) < DIM // 4)
        self.noise = shift.noise

    def transmit(
        self,
        utter: Callable[[np.ndarray], np.ndarray],
        voices: np.ndarray,
        sessions: np.ndarray,
        random: np.random.Generator,
    ) -> np.ndarray:
        num_calls = sessions[-1] + 1
        calls = self.phones[random.integers(3, size=num_calls)] + self.calls * random.normal(size=(num_calls, DIM))
        heard = utter(self.mask * voices) + calls[sessions] + self.noise * random.normal(size=voices.shape)
        return heard @ self.matrix.T + self.mean
