"""Adaptations of embeddings that a choice is made among: good ones, strong ones, and ones that harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from spkadapt.backend.adaptation.coral import recolouring
from spkadapt.backend.covariance import covariance
from spkadapt.backend.lda import Lda
from spkadapt.backend.wccn import Wccn
from spkadapt.select import SelectionData

Map: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Embeddings of one domain `(num_embeddings, dim)` → adapted ones."""
SOURCE_ONLY, ALWAYS_CORAL, STRONGEST = "none", "coral", "calls, 1.0"


def _none(data: SelectionData) -> tuple[Map, Map]:
    return (lambda source: source), (lambda target: target)


def _centred(data: SelectionData) -> tuple[Map, Map]:
    return _centre(data.source), _centre(data.pool)


def _coral(strength: float) -> Callable[[SelectionData], tuple[Map, Map]]:
    """The target domain's covariance made the source's, as deep CORAL would; a ridge of a tenth."""

    def fit(data: SelectionData) -> tuple[Map, Map]:
        own, wanted = covariance(data.pool), covariance(data.source)
        ridge = 0.1 * np.trace(wanted) / len(wanted) * np.eye(len(wanted))
        matrix = strength * recolouring(own + ridge, wanted + ridge) + (1 - strength) * np.eye(len(wanted))
        return _centre(data.source), _then(_centre(data.pool), matrix)

    return fit


def _calls(strength: float) -> Callable[[SelectionData], tuple[Map, Map]]:
    """What varies within a call played down: the further, the less is left of what is rare in the pool."""

    def fit(data: SelectionData) -> tuple[Map, Map]:
        matrix = Wccn(shrinkage=1 - strength).fit(data.pool, data.session_numbers).projection_
        return _then(_centre(data.source), matrix), _then(_centre(data.pool), matrix)

    return fit


def _call_discriminant(num_directions: int) -> Callable[[SelectionData], tuple[Map, Map]]:
    """The directions that tell calls apart best: channels as well as speakers."""

    def fit(data: SelectionData) -> tuple[Map, Map]:
        matrix = Lda(num_directions).fit(data.pool, data.session_numbers).projection_
        return _then(_centre(data.source), matrix), _then(_centre(data.pool), matrix)

    return fit


def _source_discriminant(num_directions: int) -> Callable[[SelectionData], tuple[Map, Map]]:
    """The directions that tell the source's speakers apart best."""

    def fit(data: SelectionData) -> tuple[Map, Map]:
        matrix = Lda(num_directions).fit(data.source, data.source_speakers).projection_
        return _then(_centre(data.source), matrix), _then(_centre(data.pool), matrix)

    return fit


def _whitened(data: SelectionData) -> tuple[Map, Map]:
    """Each domain whitened by its total covariance: noise counts as much as speakers."""
    maps = [_then(_centre(rows), _whitening(rows)) for rows in (data.source, data.pool)]
    return maps[0], maps[1]


def _leading(num_directions: int) -> Callable[[SelectionData], tuple[Map, Map]]:
    """The pool's leading principal directions alone: a collapse."""

    def fit(data: SelectionData) -> tuple[Map, Map]:
        matrix = np.linalg.eigh(covariance(data.pool))[1][:, : -num_directions - 1 : -1].T
        return _then(_centre(data.source), matrix), _then(_centre(data.pool), matrix)

    return fit


def _centre(rows: np.ndarray) -> Map:
    mean = rows.mean(axis=0, dtype=np.float64)
    return lambda embeddings: embeddings - mean


def _then(first: Map, matrix: np.ndarray) -> Map:
    return lambda embeddings: first(embeddings) @ matrix.T


def _whitening(rows: np.ndarray) -> np.ndarray:
    own = covariance(rows)
    return recolouring(own + 1e-3 * np.trace(own) / len(own) * np.eye(len(own)), np.eye(len(own)))


CANDIDATES: dict[str, Callable[[SelectionData], tuple[Map, Map]]] = {
    SOURCE_ONLY: _none,
    "centred": _centred,
    "coral, half": _coral(0.5),
    ALWAYS_CORAL: _coral(1.0),
    "calls, 0.3": _calls(0.3),
    "calls, 0.7": _calls(0.7),
    STRONGEST: _calls(1.0),
    "calls told apart, 16": _call_discriminant(16),
    "calls told apart, 6": _call_discriminant(6),
    "source told apart, 24": _source_discriminant(24),
    "whitened": _whitened,
    "leading 8": _leading(8),
}
"""A candidate's name → what fits its maps of either domain on what a choice may see."""
