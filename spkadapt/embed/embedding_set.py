"""The set of embeddings that every later stage reads."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from spkadapt.errors import InputError, shorten
from spkadapt.files import atomic_path

_KEYS = ("utterance_ids", "embeddings")
# What numpy, zipfile and zlib raise between them on a file that is cut short, altered or not an npz at all.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,  # a lone .npy file: np.load answers with an array, which `with` cannot open
    NotImplementedError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """One embedding for each utterance.

    Args:
        utterance_ids: the utterances, each once.
        embeddings: their embeddings, finite, kept as float32.

    Shape:
        embeddings: `(len(utterance_ids), dim)`

    Raises:
        InputError: where an utterance is listed twice, an embedding is not finite, or the two disagree in number.
    """

    utterance_ids: tuple[str, ...]
    embeddings: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterance_ids", tuple(self.utterance_ids))
        object.__setattr__(self, "embeddings", _as_float32(self.embeddings))
        if len(self.utterance_ids) != len(self.embeddings):
            counts = f"{len(self.utterance_ids)} utterance ids for {len(self.embeddings)} embeddings"
            raise InputError(f"expected one embedding for each utterance, found {counts}")
        repeated = [name for name, count in Counter(self.utterance_ids).items() if count > 1]
        if repeated:
            raise InputError(f"expected each utterance once, found repeated: {shorten(repeated)}")
        broken = np.flatnonzero(~np.isfinite(self.embeddings).all(axis=1))
        if len(broken):
            names = shorten([self.utterance_ids[row] for row in broken])
            raise InputError(f"expected finite embeddings, found NaN or infinity in: {names}")

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingSet:
        """Read an npz file that holds `utterance_ids` (text) and `embeddings` (floats).

        Raises:
            InputError: where the file is missing, cut short, altered, lacks one of the two arrays, or holds
                embeddings that an `EmbeddingSet` refuses. Nothing in the file is ever run.
        """
        arrays = _read_arrays(Path(path))
        ids, embeddings = arrays["utterance_ids"], arrays["embeddings"]
        if ids.dtype.kind != "U" or ids.ndim != 1:
            found = f"{ids.dtype} of shape {ids.shape}"
            raise InputError(f"expected utterance_ids to be one-dimensional text, found {found}", path=path)
        try:
            return cls(tuple(ids.tolist()), embeddings)
        except InputError as error:
            raise InputError(str(error), path=path) from None

    def save(self, path: str | Path) -> None:
        """Write the set to `path`, atomically, as an npz file that `load` reads back bit for bit."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, utterance_ids=np.array(self.utterance_ids, dtype=str), embeddings=self.embeddings)

    def rows(self, utterance_ids: Sequence[str], path: str | Path | None = None) -> np.ndarray:
        """The row of each of `utterance_ids`, in their order; an id may be asked for more than once.

        Args:
            utterance_ids: the ids to look up.
            path: the file they came from, for the error to name.

        Shape:
            returns `(len(utterance_ids),)`

        Raises:
            InputError: one that names the first ten ids without an embedding and counts the rest.
        """
        row_of = self._row_of
        rows = np.fromiter((row_of.get(name, -1) for name in utterance_ids), np.intp, len(utterance_ids))
        if (rows < 0).any():
            unknown = list(dict.fromkeys(utterance_ids[i] for i in np.flatnonzero(rows < 0).tolist()))
            raise InputError(f"no embedding for {len(unknown)} utterances: {shorten(unknown)}", path=path)
        return rows

    def select(self, utterance_ids: Sequence[str]) -> EmbeddingSet:
        """The subset that holds `utterance_ids`, in their order. Raises as `rows` does."""
        return EmbeddingSet(tuple(utterance_ids), self.embeddings[self.rows(utterance_ids)])

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.utterance_ids)}


def _as_float32(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise InputError(f"expected embeddings to be floats of shape (num_utterances, dim), found {found}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused by name
        return embeddings.astype(np.float32, copy=False)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError("expected an npz file of embeddings, found no such file", path=path)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = list(file.keys())
            arrays = {key: file[key] for key in _KEYS if key in found}
    except _UNREADABLE as error:
        message = "expected an npz file of embeddings, found one that is damaged or of another kind"
        raise InputError(f"{message} ({error})", path=path) from error
    if len(arrays) < len(_KEYS):
        message = f"expected arrays {' and '.join(_KEYS)}, found: {', '.join(found) or 'none'}"
        raise InputError(message, path=path)
    return arrays
