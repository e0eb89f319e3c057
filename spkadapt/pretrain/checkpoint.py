"""Pretraining that was interrupted goes on, and ends with the same bits.

A pretraining is a sequence of phases, one for each layer or set of layers that is trained by itself. To resume, it
is run again from the top, which costs nothing but the drawing of initial weights: each phase, before its first
step, puts what it trains where the checkpoint left it, and a phase that had ended has no steps left.

A checkpoint holds, for each phase begun: the states of all that changes (models, optimisers, chains, random
generators) and the position of the loop. Of an ended phase the models and generators stay. It is read with
`torch.load(weights_only=True)`, which builds tensors and plain values and runs nothing.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

from spkadapt.errors import InputError

FORMAT = "spkadapt pretraining checkpoint, version 1"
SAVE_EVERY_SECONDS = 60.0


@runtime_checkable
class HasState(Protocol):
    """What modules and optimisers have; the state is of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes while training."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go back to such a state."""


Stateful: TypeAlias = HasState | torch.Generator


class Checkpoint:
    """Where the phases of one pretraining stand, kept in a file.

    Args:
        path: the file, read now if it is there and replaced as a whole at each `save`; None keeps nothing.
        settings: all that decides the outcome, as JSON can hold it. A checkpoint of others is refused.
        shared: what changes outside the phases, e.g. the generator that draws initial weights, or within several.

    Raises:
        InputError: the file is no checkpoint of pretraining, or one with other settings.
    """

    def __init__(
        self,
        path: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        shared: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings or {}))
        self._shared = {f"shared {name}": item for name, item in (shared or {}).items()}
        self._watched: dict[str, Stateful] = {}
        self._phases: list[dict[str, Any]] = []
        self._number = -1
        self._seconds = 0.0
        self._started = self._saved = time.monotonic()
        if path is not None and path.is_file():
            self._load(path)

    @property
    def seconds(self) -> float:
        """How long the pretraining has run, in all its processes; what came after a last save is not known."""
        return self._seconds + time.monotonic() - self._started

    def begin(self, state: Mapping[str, Stateful]) -> dict[str, Any]:
        """Begin the next phase: put `state` where the checkpoint left it.

        Args:
            state: what the phase changes, by name.

        Returns:
            The position last saved in this phase; empty for a phase that has not begun yet.

        Raises:
            InputError: the states do not fit, as those of another version of this package.
        """
        self._number += 1
        self._watched = {**self._shared, **state}
        if self._number >= len(self._phases):
            return {}
        phase = self._phases[self._number]
        try:
            for name, value in phase["state"].items():
                _put_state(self._watched[name], value)
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"this checkpoint does not fit what is trained now ({error}); remove it to start anew",
                path=self.path,
            ) from error
        return phase["position"]

    def save(self, position: Mapping[str, Any], *, ended: bool = False) -> None:
        """Keep the present phase at `position`, tensors and plain values; atomically, and also after `kill -9`."""
        if self.path is None or (self._number < len(self._phases) and self._phases[self._number]["ended"]):
            return
        kept = {
            name: _state_of(item)
            for name, item in self._watched.items()
            if not ended or name in self._shared or isinstance(item, torch.nn.Module | torch.Generator)
        }
        # A later phase may go on with the same model: the end of this one must stay what it was.
        phase = {"state": copy.deepcopy(kept) if ended else kept, "position": dict(position), "ended": ended}
        whole = {
            "format": FORMAT,
            "settings": self._settings,
            "seconds": self.seconds,
            "phases": [*self._phases[: self._number], phase],
        }
        _write(self.path, whole)
        self._saved = time.monotonic()
        if ended:
            self._phases[self._number :] = [phase]

    def save_if_due(self, position: Callable[[], Mapping[str, Any]]) -> None:
        """Save unless it was done within the last minute."""
        if self.path is not None and time.monotonic() - self._saved >= SAVE_EVERY_SECONDS:
            self.save(position())

    def _load(self, path: Path) -> None:
        unfit = InputError("expected a checkpoint of pretraining; this file is not one, or not whole", path=path)
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds, and one of them is pickle's, not imported here
            raise unfit from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise unfit
        difference = _first_difference(found["settings"], self._settings)
        if difference:
            raise InputError(
                f"this checkpoint is of another pretraining ({difference}); give another path, or remove it",
                path=path,
            )
        self._phases, self._seconds = found["phases"], found["seconds"]


def _state_of(item: Stateful) -> Any:
    return item.get_state() if isinstance(item, torch.Generator) else item.state_dict()


def _put_state(item: Stateful, state: Any) -> None:
    if isinstance(item, torch.Generator):
        item.set_state(state)
    else:
        # A copy: optimisers keep the very tensors they are given, and step in place.
        item.load_state_dict(copy.deepcopy(state))


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    for name in {**wanted, **found}:
        there, now = found.get(name), wanted.get(name)
        if there != now:
            return "the frames are others" if name == "frames" else f"{name} is {there} there and {now} now"
    return None


def _write(path: Path, whole: dict[str, Any]) -> None:
    """Write beside `path` and rename: a reader sees the old file or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
