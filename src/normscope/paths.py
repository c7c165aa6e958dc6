"""Paths and files that users give, judged before work begins. Only regular files are read: a pipe
may wait for ever, and a device never ends.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from normscope.errors import InputError

MOST_TEXT = 1 << 24
"""Bytes of a text that is read as a whole: a study, a pyproject.toml, a check's result."""


def given_path(value: Any, what: str = "A path") -> Path:
    """Return what a user gave as a path, whether or not there is something.

    Raises:
        InputError: if it is no path, has a name that is too long or holds a zero byte, or lies in a
            folder that may not be entered.
    """
    if isinstance(value, bytes) or not isinstance(value, str | os.PathLike):
        raise InputError(f"{what} must be a path, not a {type(value).__name__}.")
    path = Path(value)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError:
        raise InputError(f"{what} holds a zero byte: {str(path)[:80]!r}.") from None
    except OSError as error:
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]} ..."
        raise InputError(f"{shown} cannot be used: {error.strerror or error}.") from error
    return path


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read, without waiting for anything.

    Raises:
        InputError: if it is no regular file.
        OSError: if it cannot be opened.
    """
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise InputError(f"{path} is no regular file.")
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def regular_text(path: Path) -> str:
    """Return the UTF-8 text of a regular file.

    Raises:
        InputError: if it is no regular file, or larger than such texts are.
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise InputError(f"{path} has more than {MOST_TEXT:,} bytes: that is no such text.")
    return content.decode("utf-8").replace("\r\n", "\n")
