"""What every backend asks of the embeddings it is given."""

from __future__ import annotations

import numpy as np

from spkadapt.errors import InputError


def check_embeddings(embeddings: np.ndarray, dim: int | None = None) -> np.ndarray:
    """The embeddings in float64.

    Args:
        dim: how many dimensions they must have; None for any number.

    Shape:
        embeddings: `(num_embeddings, dim)`
        returns the same

    Raises:
        InputError: not floats of that shape, not finite (it names the first such row), or of another `dim`.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise InputError(f"expected embeddings to be floats of shape (num_embeddings, dim), found {found}")
    if dim is not None and embeddings.shape[1] != dim:
        raise InputError(f"expected embeddings of {dim} dimensions as in fit, found {embeddings.shape[1]}")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise InputError(f"{len(bad)} of {len(embeddings)} embeddings hold NaN or infinity, first row {bad[0]}")
    return embeddings.astype(np.float64)


def check_fitted(estimator: object, attribute: str) -> None:
    """Refuse to score or transform with what was never fitted.

    Raises:
        InputError: the estimator lacks the attribute that `fit` sets.
    """
    if not hasattr(estimator, attribute):
        raise InputError(f"{type(estimator).__name__} is not fitted yet: call fit first")


def count_sessions(model_of: np.ndarray | None, num_embeddings: int) -> tuple[np.ndarray, np.ndarray]:
    """The model that each utterance enrols, and how many utterances each model has.

    Args:
        model_of: the models' numbers, from 0, each at least once; None where every utterance is its own model.

    Shape:
        model_of: `(num_embeddings,)`
        returns `(num_embeddings,)` and `(num_models,)`

    Raises:
        InputError: not one whole number of at least 0 for each embedding, or a number that no utterance has.
    """
    models = np.arange(num_embeddings) if model_of is None else np.asarray(model_of)
    if models.shape != (num_embeddings,) or models.dtype.kind not in "iu" or (models < 0).any():
        found = f"{models.dtype} of shape {models.shape}"
        raise InputError(
            f"expected a model number, from 0, for each of {num_embeddings} embeddings, found {found}"
        )
    counts = np.bincount(models)
    if not counts.all():
        raise InputError(f"no utterance enrols model {counts.argmin()} of {len(counts)}")
    return models, counts


def require_repeated(counts: np.ndarray) -> None:
    """Refuse labels from which nothing can be learnt about how the embeddings of one speaker differ.

    Args:
        counts: how many embeddings each class has.

    Raises:
        InputError: fewer than two classes, or none of two or more embeddings.
    """
    if len(counts) < 2:
        raise InputError(f"expected at least two classes, found {len(counts)}")
    if counts.max() < 2:
        raise InputError(f"expected some class of two or more embeddings, found {len(counts)} of one each")
