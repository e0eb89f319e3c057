"""Messages that users read: where, what, and the nearest valid name."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from spkadapt import errors
from spkadapt.errors import InputError, shorten, suggest


def test_the_examples_in_the_docstrings() -> None:
    results = doctest.testmod(errors)
    assert results.attempted >= 3
    assert results.failed == 0


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [
        (None, None, "bad"),
        ("a.csv", None, "a.csv: bad"),
        (Path("b/a.csv"), 7, "b/a.csv:7: bad"),
        (None, 7, "bad"),  # a line of no file means nothing
    ],
)
def test_an_error_says_where(path: str | Path | None, line: int | None, text: str) -> None:
    error = InputError("bad", path=path, line=line)
    assert str(error) == text
    assert error.path == (None if path is None else Path(path))
    assert error.line == line
    assert isinstance(error, ValueError)


def test_several_errors_in_one() -> None:
    errors = [InputError("bad", path="a.wav"), InputError("worse")]
    assert str(InputError.together(errors, summary="2 are bad")) == "2 are bad\n  a.wav: bad\n  worse"


def test_suggest_takes_any_iterable_and_prefers_the_nearest() -> None:
    assert suggest("corl", iter(["moral", "coral"])) == 'did you mean "coral"?'
    assert suggest("q", {"coral": 1, "mmd": 2}) == "choose from: coral, mmd"


@pytest.mark.parametrize(("most", "text"), [(1, "a and 1 more"), (2, "a, b"), (10, "a, b")])
def test_shorten(most: int, text: str) -> None:
    assert shorten(["a", "b"], most) == text
