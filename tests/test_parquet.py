"""Parquet columns: back bit for bit, read as others write them, and refused by name where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkadapt.errors import InputError
from spkadapt.parquet import CodedText, ParquetReader, write_parquet

TEXT = ["b", "a", "b", "ü", ""]
SCORES = np.array([0.5, -np.inf, np.nan, -0.0, 1e-300])
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3) / 7


def decode(coded: CodedText) -> list[str]:
    return [coded.names[code] for code in coded.codes]


def write_example(path: Path, num_batches: int = 1) -> None:
    batch = {"id": TEXT, "score": SCORES, "is_target": SCORES > 0, "vector": VECTORS}
    write_parquet(path, [batch] * num_batches)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_round_trip_is_exact(tmp_path: Path, num_batches: int) -> None:
    path = tmp_path / "folder" / "table.parquet"
    write_example(path, num_batches)
    reader = ParquetReader(path)
    assert (reader.num_rows, reader.rows_of_part) == (5 * num_batches, [5] * num_batches)
    assert reader.columns == ("id", "score", "is_target", "vector")
    assert reader.text("id") == TEXT * num_batches
    coded = reader.coded_text("id")
    assert decode(coded) == TEXT * num_batches
    assert len(coded) == 5 * num_batches
    assert sorted(coded.names) == sorted(set(TEXT))
    assert reader.numbers("score").tobytes() == np.tile(SCORES, num_batches).tobytes()
    assert reader.numbers("is_target").tolist() == (SCORES > 0).tolist() * num_batches
    vectors = reader.vectors("vector", TEXT * num_batches)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.tile(VECTORS, (num_batches, 1)))
    assert [file.name for file in path.parent.iterdir()] == ["table.parquet"]


def test_one_part_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(path, [{"id": [f"u{i}"], "score": np.array([i]), "v": np.full((1, 2), i / 2)} for i in range(3)])
    reader = ParquetReader(path)
    assert reader.text("id", part=1) == ["u1"]
    assert reader.numbers("score", part=2).tolist() == [2]
    assert reader.vectors("v", ["u1"], part=1).tolist() == [[0.5, 0.5]]


def test_coded_text_is_written_as_coded(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(path, [{"id": CodedText(("x", "y"), np.array(codes))} for codes in ([1, 0, 1], [0, 0])])
    assert ParquetReader(path).text("id") == ["y", "x", "y", "x", "x"]
    assert decode(ParquetReader(path).coded_text("id")) == ["y", "x", "y", "x", "x"]
    assert decode(ParquetReader(path).coded_text("id", part=1)) == ["x", "x"]
    assert pq.read_table(path).column("id").to_pylist() == ["y", "x", "y", "x", "x"]
    many = CodedText(("a" * 100,), np.zeros(10**5, np.int32))
    write_parquet(path, [{"id": many}])
    assert path.stat().st_size < 10**4


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(path, [{"id": [], "score": np.empty(0), "vector": np.empty((0, 3), np.float32)}])
    reader = ParquetReader(path)
    assert reader.text("id") == []
    assert decode(reader.coded_text("id")) == []
    assert reader.numbers("score").shape == (0,)
    assert reader.vectors("vector", []).shape[0] == 0


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float64()])
def test_reads_what_others_write(tmp_path: Path, dtype: pa.DataType) -> None:
    """Plain strings, lists of no fixed size, compressed, in parts of two rows."""
    path = tmp_path / "table.parquet"
    lists = pa.array(VECTORS.tolist(), pa.list_(dtype))
    ids = pa.array(TEXT, pa.large_string())
    pq.write_table(pa.table({"id": ids, "vector": lists}), path, row_group_size=2, compression="zstd")
    reader = ParquetReader(path)
    assert reader.rows_of_part == [2, 2, 1]
    assert reader.text("id") == TEXT
    vectors = reader.vectors("vector", TEXT)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS)


def refusal(path: Path, method: str, *args: object) -> str:
    with pytest.raises(InputError) as caught:
        getattr(ParquetReader(path), method)(*args)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    assert refusal(path, "text", "id") == "expected a Parquet file, found no such file"
    for content in (b"", b"PAR1", b"hello, this is text\n"):
        path.write_bytes(content)
        assert "damaged or of another kind" in refusal(path, "text", "id")
    write_example(path)
    assert refusal(path, "text", "ID") == 'the column "ID" is missing; found: id, score, is_target, vector'
    assert refusal(path, "text", "score") == 'expected column "score" to be text, found double'
    assert "to be numbers, found string" in refusal(path, "numbers", "id")
    assert "to be lists of floats, found double" in refusal(path, "vectors", "score", TEXT)
    columns = {
        "id": ["a", None, "c"],
        "v": pa.array([[1.0, 2.0], [1.0], [1.0, 2.0]]),
        "w": pa.array([[1.0], [None], [2.0]]),
        "i": pa.array([[1], [2], [3]]),
    }
    for rows in (3, 1):
        pq.write_table(pa.table(columns), path, row_group_size=rows)
        assert refusal(path, "text", "id") == 'column "id" has 1 empty cells'
        uneven = '"utt2" has 1 numbers in column "v", and "utt1" has 2'
        assert refusal(path, "vectors", "v", ["utt1", "utt2", "utt3"]) == uneven
        assert refusal(path, "vectors", "w", TEXT) == 'column "w" has 1 empty numbers'
        assert "to be lists of floats, found list" in refusal(path, "vectors", "i", TEXT)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_example(path)
    before = path.read_bytes()

    def batches() -> object:
        yield {"id": ["a"]}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_parquet(path, batches())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def example_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / "table.parquet"
    write_example(path)
    return path.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_is_one_clear_error(tmp_path: Path, example_bytes: bytes, data: st.DataObject) -> None:
    """Cut anywhere, or with any byte changed: an InputError, or columns of the same length; nothing else."""
    path = tmp_path / "table.parquet"
    content = bytearray(example_bytes)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message, lengths = f"{path}: ", [5, 5, 5, 5]
    try:
        reader = ParquetReader(path)
        columns = [
            reader.text("id"),
            reader.coded_text("id"),
            reader.numbers("score"),
            reader.vectors("vector", TEXT),
        ]
        lengths = [len(column) for column in columns]
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert lengths == [5, 5, 5, 5]
