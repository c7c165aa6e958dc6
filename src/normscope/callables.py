"""Imports by module:name, as users give them. The module's code is run."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from normscope.errors import InputError, one_line


def import_named(text: str, what: str) -> Any:
    """Import module:name and return the object; the name may have points.

    Args:
        text: module:name, as the user wrote it.
        what: what it is to be, to begin the message with.

    Raises:
        InputError: if it is of another form, there is no such module or name, or importing fails.
    """
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise InputError(f"{what} {text!r} is not of the form module:callable.")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's code
        raise InputError(
            f"{what} {text!r}: importing {module_name!r} failed: {one_line(error)}."
        ) from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise InputError(
            f"{what} {text!r}: module {module_name!r} has no attribute {name!r}."
        ) from error
