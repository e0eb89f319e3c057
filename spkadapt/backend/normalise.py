"""Centring and length normalisation, the two steps that nearly every backend begins with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spkadapt.errors import InputError, suggest


class MeanSubtraction:
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

    def fit(self, embeddings: np.ndarray, domains: Sequence[str] | None = None) -> MeanSubtraction:
        """Learn the mean of all `embeddings`, or one for each of `domains` where they are given.

        Shape:
            embeddings: `(num_embeddings, dim)`
            domains: `(num_embeddings,)`

        Raises:
            InputError: where there are no embeddings, or not one domain for each.
        """
        embeddings = _check_embeddings(embeddings)
        if not len(embeddings):
            raise InputError("expected at least one embedding to take a mean of, found none")
        if domains is None:
            self.domains_ = None
            self.means_ = embeddings.mean(axis=0, dtype=np.float64, keepdims=True)
            return self
        names, domain_of = np.unique(_check_domains(domains, len(embeddings)), return_inverse=True)
        members = [embeddings[domain_of == index] for index in range(len(names))]
        self.domains_ = tuple(names.tolist())
        self.means_ = np.stack([member.mean(axis=0, dtype=np.float64) for member in members])
        return self

    def transform(self, embeddings: np.ndarray, domains: Sequence[str] | None = None) -> np.ndarray:
        """`embeddings` less the mean, or less the mean of the domain of each; in the type they came in.

        Shape:
            embeddings: `(num_embeddings, dim)`
            domains: `(num_embeddings,)`; given where, and only where, `fit` was given them
            returns `(num_embeddings, dim)`

        Raises:
            InputError: before `fit`, for a domain that `fit` did not see, for domains where `fit` had none or
                the other way about, or for another `dim`.
        """
        embeddings = _check_embeddings(embeddings)
        if not hasattr(self, "means_"):
            raise InputError("MeanSubtraction.transform needs means: call fit first")
        if embeddings.shape[1] != self.means_.shape[1]:
            dims = f"{self.means_.shape[1]} dimensions as in fit, found {embeddings.shape[1]}"
            raise InputError(f"expected embeddings of {dims}")
        means = self.means_[self._rows(domains, len(embeddings))]
        return (embeddings - means).astype(embeddings.dtype)

    def _rows(self, domains: Sequence[str] | None, num_embeddings: int) -> np.ndarray | slice:
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
    embeddings = _check_embeddings(embeddings)
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(bad):
        state = "only zeros" if lengths[bad[0]] == 0 else "NaN or infinity"
        message = f"cannot scale {len(bad)} of {len(embeddings)} embeddings to unit length"
        raise InputError(f"{message}: row {bad[0]} holds {state}")
    return (embeddings / lengths[:, None]).astype(embeddings.dtype)


def _check_embeddings(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise InputError(f"expected embeddings to be floats of shape (num_embeddings, dim), found {found}")
    return embeddings


def _check_domains(domains: Sequence[str], num_embeddings: int) -> np.ndarray:
    if len(domains) != num_embeddings:
        found = f"{len(domains)} domains for {num_embeddings} embeddings"
        raise InputError(f"expected one domain for each embedding, found {found}")
    return np.asarray(domains, dtype=str)
