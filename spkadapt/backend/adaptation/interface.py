"""The one interface of all adaptations: settings, `prepare` with its decompositions, and `at` any strength.

A strength of 0 leaves the source alone, bit for bit; 1 is the method in full; between, what changes is
interpolated linearly. `prepare` does every decomposition, so a sweep of strengths costs one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from spkadapt.backend.adaptation.statistics import SourceStatistics, TargetStatistics
from spkadapt.backend.covariance import TwoCovariance
from spkadapt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The settings that all adaptations share.

    Attributes:
        strength: how much of the method to apply, from 0 (leave it alone) to 1.

    Raises:
        InputError: a value out of its range.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        self.require("strength", 0 <= self.strength <= 1, "a number from 0 to 1")

    def require(self, field: str, valid: bool, expected: str) -> None:
        """Raise `InputError` naming `field` and its value unless `valid`."""
        if not valid:
            raise InputError(f"{type(self).__name__}: {field} is {getattr(self, field)}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class ModelAdaptation(Adaptation, ABC):
    """Turns the source's two-covariance model into one of the target domain; the embeddings stay as they are."""

    @abstractmethod
    def full_model(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at strength 1."""

    def prepare(self, source: TwoCovariance, target_domain: TargetStatistics) -> PreparedModel:
        """Decompose once; then ask the result for any strength.

        Raises:
            InputError: source and target domain differ in dimension, or statistics that the method needs lack.
        """
        _check_dims(len(source.mean), len(target_domain.mean))
        return PreparedModel(source, self.full_model(source, target_domain))

    def adapt(self, source: TwoCovariance, target_domain: TargetStatistics) -> TwoCovariance:
        """The model at the settings' own strength."""
        return source if self.strength == 0 else self.prepare(source, target_domain).at(self.strength)


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """The source's model and the fully adapted one, and all between: (1 − strength) · source + strength · full."""

    source: TwoCovariance
    full: TwoCovariance

    def at(self, strength: float) -> TwoCovariance:
        """The model at a strength from 0, the source itself, to 1.

        Raises:
            InputError: another strength.
        """
        if _is_end(strength):
            return self.full if strength else self.source
        return interpolate(self.source, self.full, strength)


def interpolate(first: TwoCovariance, second: TwoCovariance, weight: float) -> TwoCovariance:
    """(1 − weight) · first + weight · second, of means and covariances."""
    fields = ("mean", "between", "within")
    pairs = ((getattr(first, field), getattr(second, field)) for field in fields)
    return TwoCovariance(*((1 - weight) * a + weight * b for a, b in pairs))


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x → matrix · x + offset.

    Shape:
        matrix: `(dim, dim)`
        offset: `(dim,)`
    """

    matrix: np.ndarray
    offset: np.ndarray

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """Map `embeddings (num_embeddings, dim)`, in float64; the result has their type."""
        mapped = np.asarray(embeddings, dtype=np.float64) @ self.matrix.T + self.offset
        return mapped.astype(embeddings.dtype)


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """What to do to the embeddings of each domain before a backend is trained or scores; None for nothing."""

    source: AffineMap | None = None
    target_domain: AffineMap | None = None

    def transform_source(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings of the source domain, for training the backend on."""
        return embeddings if self.source is None else self.source.transform(embeddings)

    def transform_target_domain(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings of the target domain, for scoring."""
        return embeddings if self.target_domain is None else self.target_domain.transform(embeddings)


@dataclass(frozen=True, kw_only=True)
class FeatureAdaptation(Adaptation, ABC):
    """Maps embeddings, so that a backend trained on the source's suits the target domain's."""

    @abstractmethod
    def full_maps(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at strength 1."""

    def prepare(self, source: SourceStatistics, target_domain: TargetStatistics) -> PreparedFeatures:
        """Decompose once; then ask the result for any strength.

        Raises:
            InputError: source and target domain differ in dimension, or statistics that the method needs lack.
        """
        _check_dims(len(source.mean), len(target_domain.mean))
        return PreparedFeatures(self.full_maps(source, target_domain))

    def adapt(self, source: SourceStatistics, target_domain: TargetStatistics) -> FeatureMaps:
        """The maps at the settings' own strength."""
        return FeatureMaps() if self.strength == 0 else self.prepare(source, target_domain).at(self.strength)


@dataclass(frozen=True, eq=False)
class PreparedFeatures:
    """The full maps, and all between them and doing nothing: (1 − strength) · x + strength · full(x)."""

    full: FeatureMaps

    def at(self, strength: float) -> FeatureMaps:
        """The maps at a strength from 0, no map at all, to 1.

        Raises:
            InputError: another strength.
        """
        if _is_end(strength):
            return self.full if strength else FeatureMaps()
        return FeatureMaps(_weaken(self.full.source, strength), _weaken(self.full.target_domain, strength))


def _weaken(full: AffineMap | None, strength: float) -> AffineMap | None:
    if full is None:
        return None
    return AffineMap((1 - strength) * np.eye(len(full.matrix)) + strength * full.matrix, strength * full.offset)


def _is_end(strength: float) -> bool:
    if not 0 <= strength <= 1:
        raise InputError(f"expected a strength from 0 to 1, found {strength}")
    return strength in (0, 1)


def _check_dims(source: int, target_domain: int) -> None:
    if source != target_domain:
        found = f"{source} dimensions in the source and {target_domain} in the target domain"
        raise InputError(f"expected embeddings of one extractor, found {found}")
