"""Centring and length normalisation, the two steps that nearly every backend begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator

from spkadapt.backend.checks import check_embeddings, check_fitted
from spkadapt.errors import InputError, suggest

if TYPE_CHECKING:
    from typing_extensions import Self

LENGTHS = ("one", "sqrt-dim")


class MeanSubtraction(BaseEstimator):
    """Subtract the mean embedding, or the mean embedding of each recording domain.

    Centring on unlabelled data of the domain at hand is the simplest adaptation there is: it removes a shift
    that all of a domain's recordings share. Means are taken in float64, whatever the embeddings' type.

    Attributes:
        domains_: the domains seen by `fit`, sorted; `None` where it was given none.
        means_: their means, float64; the one overall mean where `domains_` is `None`.

    Shape:
        means_: `(num_domains, dim)`, or `(1, dim)` where `domains_` is `None`
    """

    domains_: tuple[str, ...] | None
    means_: np.ndarray

    def fit(self, embeddings: np.ndarray, domains: Sequence[str] | np.ndarray | None = None) -> Self:
        """Learn the mean of all `embeddings`, or one for each of `domains` where they are given.

        Shape:
            embeddings: `(num_embeddings, dim)`
            domains: `(num_embeddings,)`

        Raises:
            InputError: bad embeddings or none, or not one domain for each.
        """
        embeddings = check_embeddings(embeddings)
        if not len(embeddings):
            raise InputError("expected at least one embedding to take a mean of, found none")
        if domains is None:
            self.domains_ = None
            self.means_ = embeddings.mean(axis=0, keepdims=True)
            return self
        names, domain_of = np.unique(_check_domains(domains, len(embeddings)), return_inverse=True)
        members = [embeddings[domain_of == index] for index in range(len(names))]
        self.domains_ = tuple(names.tolist())
        self.means_ = np.stack([member.mean(axis=0) for member in members])
        return self

    def transform(self, embeddings: np.ndarray, domains: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
        """`embeddings` less the mean, or less the mean of the domain of each; in the type they came in.

        Shape:
            embeddings: `(num_embeddings, dim)`
            domains: `(num_embeddings,)`; given where, and only where, `fit` was given them
            returns `(num_embeddings, dim)`

        Raises:
            InputError: before `fit`, for a domain that `fit` did not see, for domains where `fit` had none or
                the other way about, for bad embeddings, or for another `dim`.
        """
        check_fitted(self, "means_")
        centred = check_embeddings(embeddings, self.means_.shape[1])
        centred -= self.means_[self._rows(domains, len(centred))]
        return centred.astype(np.asarray(embeddings).dtype, copy=False)

    def _rows(self, domains: Sequence[str] | np.ndarray | None, num_embeddings: int) -> np.ndarray | slice:
        if (domains is None) != (self.domains_ is None):
            fitted, given = ("without", "with") if self.domains_ is None else ("with", "without")
            raise InputError(f"fitted {fitted} domains, so transform {given} them has no mean to subtract")
        if domains is None or self.domains_ is None:
            return slice(None)
        names, domain_of = np.unique(_check_domains(domains, num_embeddings), return_inverse=True)
        for name in names.tolist():
            if name not in self.domains_:
                raise InputError(f'no mean for domain "{name}": {suggest(name, self.domains_)}')
        return np.searchsorted(self.domains_, names)[domain_of]


class LengthNormalisation(BaseEstimator):
    """Scale each embedding to one length, as a step of a backend; see `length_normalise`.

    Args:
        length: "one", or "sqrt-dim" for that of a vector of standard normal numbers, as Kaldi's
            `ivector-normalize-length` does it. Cosines are the same.
    """

    def __init__(self, length: str = "one") -> None:
        self.length = length

    def fit(self, embeddings: np.ndarray, labels: np.ndarray | None = None) -> Self:
        """There is nothing to learn: neither is used."""
        return self

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """`embeddings (num_embeddings, dim)` scaled to the length, in the type they came in.

        Raises:
            InputError: what `length_normalise` refuses, or an unknown length.
        """
        if self.length not in LENGTHS:
            raise InputError(f'no length "{self.length}": {suggest(self.length, LENGTHS)}')
        normalised = length_normalise(embeddings)
        if self.length == "sqrt-dim":
            normalised *= np.sqrt(normalised.shape[1]).astype(normalised.dtype)
        return normalised


def length_normalise(embeddings: np.ndarray) -> np.ndarray:
    """Scale each embedding to unit Euclidean length: x / ‖x‖ (Garcia-Romero & Espy-Wilson, 2011).

    Lengths are taken in float64; the result has the type of `embeddings`.

    Shape:
        embeddings: `(num_embeddings, dim)`
        returns `(num_embeddings, dim)`

    Raises:
        InputError: for an embedding of zeros, which has no direction (any answer would be a made-up one, and it
            comes from an extractor gone wrong), or one that is not finite. It names the first such row.
    """
    normalised = check_embeddings(embeddings)
    largest = np.abs(normalised).max(axis=1, initial=0)
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        message = f"cannot scale {len(zero)} of {len(normalised)} embeddings to unit length"
        raise InputError(f"{message}: row {zero[0]} holds only zeros")
    normalised /= largest[:, None]  # the squares of what is left neither overflow nor vanish
    normalised /= np.sqrt(np.einsum("nd,nd->n", normalised, normalised))[:, None]
    return normalised.astype(np.asarray(embeddings).dtype, copy=False)


def _check_domains(domains: Sequence[str] | np.ndarray, num_embeddings: int) -> np.ndarray:
    if len(domains) != num_embeddings:
        found = f"{len(domains)} domains for {num_embeddings} embeddings"
        raise InputError(f"expected one domain for each embedding, found {found}")
    return np.asarray(domains, dtype=str)
