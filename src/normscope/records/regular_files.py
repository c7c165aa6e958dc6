"""Reading files that may be anything: whatever is at a path, nothing waits, and nothing grows."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any

MOST_BYTES = 64 << 20
"""Of a file that is read whole, unless its reader allows more: descriptions, summaries, results."""

MOST_DEPTH = 64
"""Of lists and tables inside one another."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path, state: os.stat_result | None = None) -> None:
    """Check that a path, or what it links to, is a file that can be read to its end.

    Raises:
        OSError: if it is not there, or is a pipe, a folder, a socket or a device.
    """
    mode = (path.stat() if state is None else state).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def open_regular(path: Path, most: int | None = None) -> BufferedReader:
    """Open a file for reading its bytes; whatever is at the path, this does not wait for anything.

    Args:
        path: of a regular file, or a link to one.
        most: the bytes that it may have.

    Raises:
        OSError: if it cannot be opened, is no regular file, or is larger.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    try:
        state = os.fstat(file.fileno())
        check_regular(path, state)
        if most is not None and state.st_size > most:
            held, allowed = f"{state.st_size / 1e6:,.0f} MB", f"{most / 1e6:,.0f} MB"
            raise OSError(errno.EFBIG, f"it has {held}, and at most {allowed} are read", str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return a regular file's content.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, most) as file:
        return file.read()


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Return a regular file's content as text in UTF-8.

    Raises:
        OSError: as `open_regular`.
        ValueError: if it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def read_json(path: Path) -> Any:
    """Return the value in a regular file of JSON; NaN and infinities are none.

    Raises:
        OSError: as `open_regular`.
        ValueError: if it is not JSON in UTF-8, or is nested too deeply.
    """
    return decode_json(read_text(path))


_HALVES = re.compile("[\ud800-\udfff]")
_DOTTED = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){40}""")


def read_toml(path: Path, most: int = 1 << 22) -> dict[str, Any]:
    """Return the table in a regular file of TOML.

    Raises:
        OSError: as `open_regular`.
        ValueError: if it is not TOML in UTF-8, or is nested too deeply.
    """
    text = read_text(path, most).replace("\r\n", "\n")
    try:
        if _DOTTED.search(text):  # tomllib's time grows with the square of the parts
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_json(text: str | bytes) -> Any:
    """Return the value of a text of JSON; NaN and infinities are none.

    Raises:
        ValueError: if it is not JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value)
    escape = b"\\ud" if isinstance(text, bytes) else "\\ud"
    if escape in text.lower():  # pyright: ignore[reportOperatorIssue]: of one type
        _check_text(value)
    return value


def encode_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that `decode_json` reads: half of a character, which comes from names
    of files that are not UTF-8, becomes its escape.

    Raises:
        ValueError: for NaN and infinities.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    if "\\ud" in text:
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        text = _HALVES.sub(lambda half: rf"\\u{ord(half[0]):x}", text)
    return text


def without_halves(text: str) -> str:
    """Return a text as it is after `encode_json` and `decode_json`."""
    return _HALVES.sub(lambda half: rf"\u{ord(half[0]):x}", text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        inside = (item.values() if isinstance(item, dict) else item for item in level
                  if isinstance(item, dict | list))  # fmt: skip
        level = [part for parts in inside for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character (a lone surrogate)") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is too large")
    return value


def is_database(path: Path) -> bool:
    """Tell whether a path is a SQLite file, as records and recordings are."""
    try:
        with open_regular(path) as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False
