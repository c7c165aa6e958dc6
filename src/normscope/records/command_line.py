"""The command line that a page names as its origin: normscope's own, without the machine's folders.

A program that calls normscope may have been started with keys and private paths. Its command line
is never looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePosixPath, PureWindowsPath

_arguments: ContextVar[tuple[str, ...] | None] = ContextVar("arguments", default=None)


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Say that the normscope command runs with these arguments, as long as the context lasts."""
    token = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(token)


def command_line() -> str:
    """Return the command as one would type it; an empty string outside the normscope command."""
    arguments = _arguments.get()
    if arguments is None:
        return ""
    return shlex.join(["normscope", *map(_without_folders, arguments)])


def _without_folders(argument: str) -> str:
    """The argument; of a path into the machine its last part alone."""
    option, equals, value = argument.rpartition("=")
    for path in (PurePosixPath(value), PureWindowsPath(value)):
        if path.anchor or ".." in path.parts or value.startswith("~"):
            return f"{option}{equals}{path.name or '.'}"
    return argument
