"""Tables of columns in Parquet files: embeddings and scores, as other tools read and write them.

A file is read in parts (its row groups), so that one larger than memory can be worked through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spkadapt.errors import InputError
from spkadapt.files import atomic_path

# Rows of a part: 64 MB of 128-dimensional vectors.
_PART_ROWS = 1 << 17
# A row takes at least an eighth of a byte in any sound file; a header that claims more rows is damaged.
_MOST_ROWS_PER_BYTE = 8
# What pyarrow raises on a file that is cut short, altered or not Parquet; its own errors derive from these too.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    NotImplementedError,
    MemoryError,
    pa.ArrowException,
)


@dataclass(frozen=True, eq=False)
class CodedText:
    """Text of which much recurs: row `i` reads `names[codes[i]]`.

    Attributes:
        names: the distinct texts.
        codes: int32 `(num_rows,)`, places in `names`.
    """

    names: tuple[str, ...]
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)


Column = np.ndarray | CodedText | Sequence[str]


def write_parquet(path: str | Path, batches: Iterable[Mapping[str, Column]]) -> None:
    """Write batches of rows to `path`, one below the other, atomically.

    Args:
        path: the file to write.
        batches: the columns of each batch by name, all of one length, the same columns in each batch. A column
            is text (`CodedText` where much recurs), numbers `(num_rows,)` (floats, integers or booleans), or
            vectors `(num_rows, dim)`, which become lists of a fixed size.

    At least one batch is needed, to name the columns; it may be of no rows.
    """
    writer: pq.ParquetWriter | None = None
    with atomic_path(path) as temporary:
        try:
            for batch in batches:
                columns = {name: _to_arrow(column) for name, column in batch.items()}
                schema = pa.schema([pa.field(name, each.type, nullable=False) for name, each in columns.items()])
                writer = writer or _writer(temporary, schema)
                writer.write_table(pa.Table.from_arrays([*columns.values()], schema=schema), _PART_ROWS)
        finally:
            if writer is not None:
                writer.close()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Floats do not compress, and their bounds help nobody; the checksum finds altered bytes."""
    coded = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return pq.ParquetWriter(
        path, schema, compression="none", use_dictionary=coded, write_statistics=False, write_page_checksum=True
    )


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, CodedText):
        codes = pa.array(column.codes, pa.int32())
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.names, pa.string()))
    if not isinstance(column, np.ndarray):
        return pa.array(column, pa.string())
    if column.ndim == 1:
        return pa.array(column)
    numbers = pa.array(np.ascontiguousarray(column).reshape(-1))
    kind = pa.list_(pa.field("element", numbers.type, nullable=False), column.shape[1])
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)


class ParquetReader:
    """Columns of a Parquet file, each read when asked for.

    Args:
        path: the file.

    Attributes:
        num_rows: of the whole file.
        rows_of_part: of each part (row group).
        columns: the names of its columns.

    Every method takes `part`, the one part to read; None reads the whole file.

    Raises:
        InputError: from here and from every method, where the file is missing, cut short, altered or of another
            kind, or where the column is missing, has empty cells or is of another kind. Nothing in it is ever run.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise InputError("expected a Parquet file, found no such file", path=path)
        with self._reading():
            self._file = pq.ParquetFile(self._path, memory_map=True, page_checksum_verification=True)
            metadata = self._file.metadata
            self.num_rows: int = metadata.num_rows
            self.rows_of_part = [metadata.row_group(part).num_rows for part in range(metadata.num_row_groups)]
            self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        size = self._path.stat().st_size
        if self.num_rows != sum(self.rows_of_part) or not 0 <= self.num_rows <= _MOST_ROWS_PER_BYTE * size:
            raise InputError(f"damaged: it claims {self.num_rows} rows in {size} bytes", path=path)

    def text(self, name: str, part: int | None = None) -> list[str]:
        """A column of text."""
        column = self._text(name, part)
        with self._reading():
            return column.to_numpy().tolist()

    def coded_text(self, name: str, part: int | None = None) -> CodedText:
        """A column of text in which much recurs."""
        column = self._text(name, part)
        with self._reading():
            coded = _as_array(column.dictionary_encode().unify_dictionaries())
            codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
            return CodedText(tuple(coded.dictionary.to_pylist()), codes)

    def _text(self, name: str, part: int | None) -> pa.ChunkedArray:
        column = self._column(name, part)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise self._wrong_kind(name, "text", column.type)
        return column

    def numbers(self, name: str, part: int | None = None) -> np.ndarray:
        """A column of numbers, `(num_rows,)`, of the dtype that they are stored in."""
        column = self._column(name, part)
        with self._reading():
            kind = column.type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
                raise self._wrong_kind(name, "numbers", kind)
            return column.to_numpy()

    def vectors(self, name: str, row_names: Sequence[str], part: int | None = None) -> np.ndarray:
        """A column of float vectors of one length, as float32 `(num_rows, dim)`.

        Parts are read one after another into one array: the peak is that array and one part.

        Args:
            name: the column.
            row_names: what each row is called, for errors to name it.
            part: the one part to read.
        """
        parts = range(len(self.rows_of_part)) if part is None else [part]
        vectors, row = np.empty((0, 0), np.float32), 0
        for each in parts:
            lists = self._column(name, each)
            with self._reading():
                block = self._stack(name, lists, row_names[row : row + len(lists)])
                if row == 0:
                    num_rows = sum(self.rows_of_part[each] for each in parts)
                    vectors = np.empty((num_rows, block.shape[1]), np.float32)
                elif block.shape[1] != vectors.shape[1]:
                    raise self._uneven(name, (row_names[row], block.shape[1]), (row_names[0], vectors.shape[1]))
                with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite
                    vectors[row : row + len(block)] = block
            row += len(lists)
        return vectors

    def _stack(self, name: str, lists: pa.ChunkedArray, row_names: Sequence[str]) -> np.ndarray:
        """The lists of one part as the rows of an array, without a copy."""
        kind = lists.type
        fixed = pa.types.is_fixed_size_list(kind)
        if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise self._wrong_kind(name, "lists of floats", kind)
        if not pa.types.is_floating(kind.value_type):
            raise self._wrong_kind(name, "lists of floats", kind)
        array = _as_array(lists)
        numbers = array.flatten()
        if numbers.null_count:
            raise InputError(f'column "{name}" has {numbers.null_count} empty numbers', path=self._path)
        if fixed:
            return numbers.to_numpy().reshape(-1, kind.list_size)
        dims = np.diff(array.offsets.to_numpy())
        uneven = np.flatnonzero(dims != dims[0]) if len(dims) else dims
        if len(uneven):
            raise self._uneven(name, (row_names[uneven[0]], int(dims[uneven[0]])), (row_names[0], int(dims[0])))
        return numbers.to_numpy().reshape(len(dims), -1 if len(numbers) else 0)

    def _column(self, name: str, part: int | None) -> pa.ChunkedArray:
        if name not in self.columns:
            found = ", ".join(self.columns) or "none"
            raise InputError(f'the column "{name}" is missing; found: {found}', path=self._path)
        with self._reading():
            parts = list(range(len(self.rows_of_part))) if part is None else [part]
            column = self._file.read_row_groups(parts, columns=[name]).column(name)
        expected = sum(self.rows_of_part[each] for each in parts)
        if len(column) != expected:
            raise InputError(f"damaged: it holds {len(column)} rows and claims {expected}", path=self._path)
        if column.null_count:
            raise InputError(f'column "{name}" has {column.null_count} empty cells', path=self._path)
        return column

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except _UNREADABLE as error:
            message = "expected a Parquet file, found one that is damaged or of another kind"
            raise InputError(f"{message} ({error})", path=self._path) from error

    def _wrong_kind(self, name: str, expected: str, found: pa.DataType) -> InputError:
        return InputError(f'expected column "{name}" to be {expected}, found {found}', path=self._path)

    def _uneven(self, name: str, found: tuple[str, int], first: tuple[str, int]) -> InputError:
        message = f'"{found[0]}" has {found[1]} numbers in column "{name}", and "{first[0]}" has {first[1]}'
        return InputError(message, path=self._path)


def _as_array(column: pa.ChunkedArray) -> pa.Array:
    """The chunks of a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
