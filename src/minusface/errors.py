"""The one exception users see: a single line that says what was wrong and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class MinusfaceError(ValueError):
    """Bad input, told in one line: what was wrong, what was expected, which file or key.

    The command line prints it after ``minusface: `` and exits with code 2. Broken invariants of our own
    are ``assert``s instead, so that a defect never looks like a user's mistake.
    """


def choice_error(what: str, given: str, known: Iterable[str]) -> MinusfaceError:
    """The error for a name that is not one of the known ones: names the nearest and lists all."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return MinusfaceError(f"unknown {what} {given!r}{hint} (known: {', '.join(names)})")


@contextmanager
def of_key(key: str) -> Iterator[None]:
    """Errors raised within name the setting that led there, once."""
    try:
        yield
    except MinusfaceError as error:
        if str(error).startswith(key):
            raise
        raise MinusfaceError(f"{key} {error}") from error
