"""What the user did, said back in one clear message.

Every error that a user can cause by handing over bad input is an `InputError`; the command line prints
its message and exits with code 2. Errors of our own making stay ordinary Python exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class InputError(ValueError):
    """Bad input: what was found, what was expected, and where.

    Args:
        message: what was found and what was expected, in one sentence.
        path: the file it was found in, if any.
        line: the 1-based line within `path`, if any.

    The text reads `path:line: message`, the form editors and compilers use.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message)
        self.path = None if path is None else Path(path)
        self.line = line

    @classmethod
    def together(cls, errors: Sequence[InputError], *, summary: str) -> InputError:
        """One error that lists several, so that a user mends them all at once."""
        listed = "\n".join(f"  {error}" for error in errors)
        return cls(f"{summary}\n{listed}")


class DivergenceError(InputError):
    """Training left the finite numbers; names where, and the likely remedy.

    An `InputError`, because what makes a sound method diverge is the settings it was given: the user can mend
    it. A class of its own, so that a search over settings can catch this and nothing else.
    """


def suggest(name: str, choices: Iterable[str]) -> str:
    """A clause naming the valid choice nearest to `name`, or listing the choices when none is near.

    >>> suggest("coarl", ["coral", "mmd"])
    'did you mean "coral"?'
    >>> suggest("xyz", ["coral", "mmd"])
    'choose from: coral, mmd'
    """
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    return f'did you mean "{near[0]}"?' if near else f"choose from: {', '.join(choices)}"


def shorten(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, and how many more there are.

    >>> shorten(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
