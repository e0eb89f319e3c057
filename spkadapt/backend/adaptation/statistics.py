"""What adaptation may know of a domain: sums over its embeddings, and no speaker.

Of the target domain a session (a call, a file) may be known, because any user knows from which recording an
utterance comes. Neither type has room for a speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spkadapt.backend.checks import check_embeddings
from spkadapt.backend.covariance import ClassStatistics, class_statistics, number_classes, sum_by_class
from spkadapt.errors import InputError


@dataclass(frozen=True, eq=False)
class SourceStatistics:
    """What feature adaptation needs of the source domain.

    Attributes:
        subsets: the statistics of each subset (corpus, channel, gender, ...), or of one that holds all.
    """

    subsets: ClassStatistics

    @classmethod
    def from_embeddings(
        cls, embeddings: np.ndarray, subsets: Sequence[str] | np.ndarray | None = None
    ) -> SourceStatistics:
        """Sum up `embeddings (num_embeddings, dim)`, of which `subsets` names the subset of each.

        Raises:
            InputError: no embeddings, bad ones, or not one subset for each.
        """
        embeddings = _check(embeddings)
        return cls(
            class_statistics(embeddings, np.zeros(len(embeddings)) if subsets is None else np.asarray(subsets))
        )

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of all embeddings, `(dim,)`."""
        return self.subsets.mean

    @cached_property
    def total(self) -> np.ndarray:
        """The covariance of all embeddings, `(dim, dim)`."""
        return self.subsets.total


@dataclass(frozen=True, eq=False)
class TargetStatistics:
    """What adaptation knows of the target domain.

    Attributes:
        sessions: the statistics of each session; where none is known, each embedding is one.
    """

    sessions: ClassStatistics

    @classmethod
    def from_embeddings(
        cls, embeddings: np.ndarray, sessions: Sequence[str] | np.ndarray | None = None
    ) -> TargetStatistics:
        """Sum up `embeddings (num_embeddings, dim)`, of which `sessions` names the recording of each.

        Raises:
            InputError: no embeddings, bad ones, or not one session for each.
        """
        embeddings = _check(embeddings)
        names = np.arange(len(embeddings)) if sessions is None else np.asarray(sessions)
        return cls(class_statistics(embeddings, names))

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of all embeddings, `(dim,)`."""
        return self.sessions.mean

    @cached_property
    def total(self) -> np.ndarray:
        """The covariance of all embeddings, `(dim, dim)`."""
        return self.sessions.total

    @cached_property
    def within_session(self) -> np.ndarray | None:
        """The covariance about the mean of the session, unbiased, `(dim, dim)`; None where no session has two."""
        freedom = self.num_embeddings - self.num_sessions
        return self.sessions.scatter / freedom if freedom else None

    @property
    def num_embeddings(self) -> int:
        """How many embeddings there are."""
        return self.sessions.num_embeddings

    @property
    def num_sessions(self) -> int:
        """How many sessions there are."""
        return len(self.sessions.counts)

    def merge_sessions(self, clusters: np.ndarray) -> TargetStatistics:
        """The statistics of the same embeddings, had all sessions of a cluster been one.

        Shape:
            clusters: `(num_sessions,)`, of any type that sorts
        """
        numbers, _ = number_classes(clusters, self.num_sessions)
        weights = self.sessions.counts[:, None]
        counts = sum_by_class(weights, numbers, numbers.max() + 1)
        means = sum_by_class(weights * self.sessions.means, numbers, len(counts)) / counts
        offsets = self.sessions.means - means[numbers]
        scatter = self.sessions.scatter + (weights * offsets).T @ offsets
        return TargetStatistics(ClassStatistics(counts[:, 0].astype(np.int64), means, scatter))


def _check(embeddings: np.ndarray) -> np.ndarray:
    embeddings = check_embeddings(embeddings)
    if not embeddings.size:
        raise InputError(f"expected at least one embedding to adapt to or from, found shape {embeddings.shape}")
    return embeddings
