"""A whole backend: what embeddings go through, one step after the other, the scorer at the end, and its file.

The file is safetensors, arrays and a JSON header: reading it runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator

from spkadapt.backend.registry import ESTIMATORS
from spkadapt.backend.scorer import Scorer
from spkadapt.errors import InputError, suggest
from spkadapt.files import atomic_path

_FORMAT = "spkadapt backend 1"


@dataclass(frozen=True)
class Backend:
    """Fitted steps in their order, and the scorer of what comes out of them.

    Attributes:
        steps: each transforms the embeddings; `MeanSubtraction` by domain is told the domains.
        scorer: scores the result.
        history: how it was made; whatever JSON holds.
    """

    steps: tuple[Any, ...]
    scorer: Scorer
    history: Mapping[str, Any] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...] | None:
        """The recording domains that every embedding must be given one of; None where the steps need none."""
        return next((step.domains_ for step in self.steps if getattr(step, "domains_", None) is not None), None)

    def transform(self, embeddings: np.ndarray, domains: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
        """The embeddings as the scorer wants them, in float64.

        Shape:
            embeddings: `(num_embeddings, dim)`
            domains: `(num_embeddings,)`, where the backend was fitted with domains
            returns `(num_embeddings, new_dim)`

        Raises:
            InputError: domains that lack or are unknown, another `dim`, and what the steps raise.
        """
        if self.domains is not None and domains is None:
            raise InputError(f"this backend centres by recording domain; name one of {self.domains} for each")
        embeddings = np.asarray(embeddings, dtype=np.float64)
        for step in self.steps:
            by_domain = getattr(step, "domains_", None) is not None
            embeddings = step.transform(embeddings, domains) if by_domain else step.transform(embeddings)
        return embeddings

    def save(self, path: str | Path) -> None:
        """Write the backend, atomically; `load` gives back one that scores bit for bit the same."""
        arrays: dict[str, np.ndarray] = {}
        header = {
            "format": _FORMAT,
            "steps": [_describe(step, f"{place}.", arrays) for place, step in enumerate(self.steps)],
            "scorer": _describe(self.scorer, "scorer.", arrays),
            "history": self.history,
        }
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={"backend": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Backend:
        """Read a backend file.

        Raises:
            InputError: no such file, or one that is damaged, of another kind, or of a later version.
        """
        path = Path(path)
        header, arrays = _read(path)
        try:
            steps = tuple(_restore(step, arrays) for step in header["steps"])
            return cls(steps, _restore(header["scorer"], arrays), header["history"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this backend file is damaged ({error!r})", path=path) from error
        except InputError as error:
            raise InputError(str(error), path=path) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise InputError("no such backend file; `spkadapt adapt-backend` writes one", path=path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("backend", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"expected a backend file (safetensors), found: {error}", path=path) from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        found = header.get("format", "a file of another kind") if isinstance(header, dict) else "another header"
        raise InputError(f'expected a file of format "{_FORMAT}", found {found}', path=path)
    return header, arrays


def _describe(estimator: BaseEstimator, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What rebuilds an estimator, with its arrays put into `arrays` under names that begin with `prefix`.

    By the convention of scikit-learn, settings are the arguments of the constructor, and what was fitted is in
    attributes that end in an underscore.
    """
    settings, fitted = {}, {}
    for name, value in estimator.get_params(deep=False).items():
        settings[name] = _describe_value(value, f"{prefix}{name}", arrays)
    for name, value in vars(estimator).items():
        if name.endswith("_") and not name.startswith("_"):
            fitted[name] = _describe_value(value, f"{prefix}{name}", arrays)
    return {"class": type(estimator).__name__, "settings": settings, "fitted": fitted}


def _describe_value(value: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}
    if isinstance(value, BaseEstimator):
        return {"estimator": _describe(value, f"{name}.", arrays)}
    if isinstance(value, tuple | list):
        return {"tuple": [_describe_value(item, f"{name}.{place}", arrays) for place, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a backend file cannot hold {name} of type {type(value).__name__}")


def _restore(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    name = description["class"]
    if name not in ESTIMATORS:
        raise InputError(f'there is no backend step "{name}" here; {suggest(name, ESTIMATORS)}')
    settings = {key: _restore_value(value, arrays) for key, value in description["settings"].items()}
    estimator = ESTIMATORS[name](**settings)
    for key, value in description["fitted"].items():
        if not key.endswith("_") or key.startswith("_"):
            raise InputError(f'"{key}" is not the name of anything that is fitted')
        setattr(estimator, key, _restore_value(value, arrays))
    return estimator


def _restore_value(value: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    if "array" in value:
        return arrays[value["array"]]
    if "estimator" in value:
        return _restore(value["estimator"], arrays)
    if "tuple" in value:
        return tuple(_restore_value(item, arrays) for item in value["tuple"])
    return value["value"]
