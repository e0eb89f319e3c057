"""The set of embeddings that every later stage reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from spkadapt.embed.npz import read_npz, write_npz
from spkadapt.errors import InputError, shorten, suggest
from spkadapt.kaldi_io import read_ark, read_scp, write_ark, write_scp
from spkadapt.parquet import ParquetReader, write_parquet

_BLOCK_BYTES = 1 << 20  # checked at once: what a cache holds


def _read_parquet(path: str | Path) -> tuple[list[str], np.ndarray]:
    reader = ParquetReader(path)
    utterance_ids = reader.text("utterance_id")
    return utterance_ids, reader.vectors("embedding", utterance_ids)


def _write_parquet(path: str | Path, utterance_ids: Sequence[str], embeddings: np.ndarray) -> None:
    write_parquet(path, [{"utterance_id": utterance_ids, "embedding": embeddings}])


_Read = Callable[[str | Path], tuple[list[str], np.ndarray]]
_Write = Callable[[str | Path, Sequence[str], np.ndarray], None]
# The reader and the writer of each file format, by how the file's name ends.
FORMATS: dict[str, tuple[_Read, _Write]] = {
    ".npz": (read_npz, write_npz),
    ".ark": (read_ark, write_ark),
    ".scp": (read_scp, write_scp),
    ".parquet": (_read_parquet, _write_parquet),
}


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
        if len(set(self.utterance_ids)) < len(self.utterance_ids):
            repeated = [name for name, count in Counter(self.utterance_ids).items() if count > 1]
            raise InputError(f"expected each utterance once, found repeated: {shorten(repeated)}")
        broken = _rows_not_finite(self.embeddings)
        if broken:
            names = shorten([self.utterance_ids[row] for row in broken])
            raise InputError(f"expected finite embeddings, found NaN or infinity in: {names}")

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingSet:
        """Read a file of the format that its name ends in.

        `.npz`: arrays `utterance_ids` (text) and `embeddings` (floats); large ones are memory-mapped.
        `.ark`: a Kaldi archive of vectors, binary or text; `.scp`: a Kaldi script file that points into archives.
        `.parquet`: columns `utterance_id` (text) and `embedding` (lists of floats, all of one length).

        Raises:
            InputError: where the file is missing, cut short, altered or of another format, or holds embeddings
                that an `EmbeddingSet` refuses. Nothing in a file is ever run.
        """
        read, _ = _format_of(path)
        utterance_ids, embeddings = read(path)
        try:
            return cls(tuple(utterance_ids), embeddings)
        except InputError as error:
            raise InputError(str(error), path=path) from None

    def save(self, path: str | Path) -> None:
        """Write the set, atomically, in the format that `path` ends in, so that `load` reads it back bit for bit.

        `.scp` is written with an archive of the same name beside it. The Kaldi formats cannot hold an empty set
        or ids with white space.

        Raises:
            InputError: `path` ends in none of the formats, or the set cannot be written in the one that it does.
        """
        _, write = _format_of(path)
        write(path, self.utterance_ids, self.embeddings)

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
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and is refused by name
        return embeddings.astype(np.float32, copy=False)


def _rows_not_finite(embeddings: np.ndarray) -> list[int]:
    """The rows that hold NaN or infinity; a block whose sum is finite holds none."""
    block = max(1, _BLOCK_BYTES // max(1, 4 * embeddings.shape[1]))
    rows: list[int] = []
    for row in range(0, len(embeddings), block):
        numbers = embeddings[row : row + block]
        with np.errstate(over="ignore", invalid="ignore"):
            total = numbers.sum()
        if not np.isfinite(total):
            rows += (row + np.flatnonzero(~np.isfinite(numbers).all(axis=1))).tolist()
    return rows


def _format_of(path: str | Path) -> tuple[_Read, _Write]:
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        found = f'found "{suffix}"' if suffix else "found no ending"
        endings = f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}"
        message = f"expected an embedding file that ends in {endings}, {found}; {suggest(suffix, FORMATS)}"
        raise InputError(message, path=path)
    return FORMATS[suffix]
