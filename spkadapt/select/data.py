"""What a choice without labels may see of one model: a type with no room for a speaker of the target domain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spkadapt.backend.covariance import number_classes
from spkadapt.embed import EmbeddingSet
from spkadapt.errors import InputError
from spkadapt.manifest import Manifest, UnlabelledPool


@dataclass(frozen=True, eq=False)
class SelectionData:
    """Both domains as one model embeds them, ready to be compared by cosine.

    Attributes:
        source: embeddings of the labelled domain.
        source_speakers: whose they are.
        pool: embeddings of the target domain's unlabelled pool.
        pool_sessions: the call or recording session of each, where known.
        pseudo_speakers: of each session in sorted order, where several models have agreed on them.

    Shape:
        source: `(num_source, dim)`
        source_speakers: `(num_source,)`
        pool: `(num_pool, dim)`
        pool_sessions: `(num_pool,)`
        pseudo_speakers: `(num_sessions,)`

    Raises:
        InputError: other shapes, embeddings that are not finite, or a domain of fewer than two embeddings.
    """

    source: np.ndarray
    source_speakers: np.ndarray
    pool: np.ndarray
    pool_sessions: np.ndarray | None = None
    pseudo_speakers: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, rows in (("source", self.source), ("pool", self.pool)):
            if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
                found = f"shape {rows.shape}" if rows.ndim != 2 or len(rows) < 2 else "NaN or infinity"
                raise InputError(f"expected finite {name} embeddings (2 or more, dim), found {found}")
        if self.source.shape[1] != self.pool.shape[1]:
            dims = f"{self.source.shape[1]} and {self.pool.shape[1]}"
            raise InputError(f"expected source and pool embeddings of one dim, found {dims}")
        number_classes(self.source_speakers, len(self.source))
        if self.pool_sessions is not None:
            number_classes(self.pool_sessions, len(self.pool))

    @classmethod
    def from_parts(cls, embeddings: EmbeddingSet, source: Manifest, pool: UnlabelledPool) -> SelectionData:
        """The embeddings of these recordings, whatever else the set holds. Sessions count only if all are known.

        Raises:
            InputError: a recording without an embedding, or a source utterance without a speaker.
        """
        sessions = pool.sessions()
        return cls(
            embeddings.embeddings[embeddings.rows([item.utterance_id for item in source])],
            np.array(source.speakers()),
            embeddings.embeddings[embeddings.rows([item.utterance_id for item in pool.recordings])],
            np.array(sessions) if sessions else None,
        )

    def centred(self) -> SelectionData:
        """Each domain less its own mean: what the backend `centred` does where both domains are scored."""
        source, pool = (rows - rows.mean(axis=0, dtype=np.float64) for rows in (self.source, self.pool))
        return replace(self, source=source, pool=pool)

    @cached_property
    def unit_source(self) -> np.ndarray:
        """The source embeddings scaled to unit length, float64."""
        return unit_rows(self.source)

    @cached_property
    def unit_pool(self) -> np.ndarray:
        """The pool's embeddings scaled to unit length, float64."""
        return unit_rows(self.pool)

    @cached_property
    def speaker_numbers(self) -> np.ndarray:
        """The speaker of each source embedding as a number from 0, `(num_source,)`."""
        return number_classes(self.source_speakers, len(self.source))[0]

    @cached_property
    def session_numbers(self) -> np.ndarray:
        """The session of each pool embedding as a number from 0, `(num_pool,)`.

        Raises:
            InputError: sessions are not known, or there is only one.
        """
        if self.pool_sessions is None:
            raise InputError("needs to know which recordings of the pool are of one call: name the sessions")
        numbers, counts = number_classes(self.pool_sessions, len(self.pool))
        if len(counts) < 2:
            raise InputError("needs two sessions of the pool or more, found one")
        return numbers


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float64; a row of zeros stays what it is."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(norms > 0, norms, 1.0)


def thin(groups: np.ndarray, most_groups: int, most_each: int) -> np.ndarray:
    """Rows of at most `most_each` embeddings of each of at most `most_groups` groups, evenly spaced, in order.

    Shape:
        groups: `(num_embeddings,)`, numbers from 0
        returns `(num_rows,)`
    """
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(groups)) - np.repeat(starts, counts)
    # The k-th of n rows is kept where k · most / n enters another whole number: most of n, evenly.
    size = np.repeat(counts, counts)
    kept = (size <= most_each) | (place * most_each // size != (place - 1) * most_each // size)
    kept &= np.isin(groups[order], spread(len(counts), most_groups))
    return np.sort(order[kept])


def spread(number: int, most: int) -> np.ndarray:
    """At most `most` of the numbers from 0 to `number` − 1, evenly spaced."""
    return np.arange(number) if number <= most else np.arange(most) * number // most
