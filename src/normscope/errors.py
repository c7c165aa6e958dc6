"""Errors for users to read. Any module may import this one; it imports nothing of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
MOST_SIGNS = 4000
"""Of a message."""


class NormscopeError(Exception):
    """Base of the errors whose message is one line for the user: what was given and expected."""

    exit_status = 1


class InputError(NormscopeError):
    """Something the user gave cannot be used. The command line ends with status 2."""

    exit_status = 2

    def __str__(self) -> str:
        """Return the message in one line, also where it quotes a value that is written in more."""
        line = " ".join(part.strip() for part in super().__str__().splitlines())
        return line if len(line) <= MOST_SIGNS else f"{line[:MOST_SIGNS]} ..."


class NothingToWatchError(InputError):
    """A model has no normalization layer that could be watched."""


class RecordError(InputError):
    """A file that was given as a record is none, is damaged, or is of another version."""


class CheckError(NormscopeError):
    """A check found faults, and was asked to raise for them."""


class StorageError(NormscopeError, OSError):
    """The machine could not store what it was asked to, as on a full disk. Ends with status 1."""


def first_line(error: BaseException, most: int = 300) -> str:
    """Return the first line of an error's message; its type's name where it has none."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # somebody else's class
        lines = []
    return (lines[0] if lines else type(error).__name__)[:most].rstrip(".: ")


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    kind, reason = type(error).__name__, first_line(error)
    return kind if reason == kind else f"{kind}: {reason}"


def shown(value: object) -> str:
    """Return a value as a message quotes it: a short text or number, else its type."""
    plain = isinstance(value, str | float | bool) or (type(value) is int and abs(value) < 10**20)
    text = repr(value) if plain else ""
    return text if 0 < len(text) <= 60 else f"a value of type {type(value).__name__}"


def one_of(what: str, given: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known: what was given, a near match, all known."""
    names, given = list(known), given if len(given) <= 60 else f"{given[:60]}..."
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {given!r}.{hint} Known: {', '.join(names)}."


def lookup(what: str, name: str, table: Mapping[str, T]) -> T:
    """The entry called `name`; an InputError that lists the known names where there is none."""
    if not isinstance(name, str):
        raise InputError(f"{what} must be a text, not of type {type(name).__name__}.")
    try:
        return table[name]
    except KeyError:
        raise InputError(one_of(what, name, table)) from None


class NormscopeWarning(UserWarning):
    """Something cannot be recorded, or a recording has stopped; the program goes on."""
