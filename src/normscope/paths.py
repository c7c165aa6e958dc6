"""Paths that users give, judged before work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from normscope.errors import InputError


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
