"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from normscope.errors import StorageError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what the body writes there takes its place when the
    body succeeds.

    Raises:
        StorageError: if the file cannot be written. What was at `path` is still there then.
    """
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            aside.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, as UTF-8."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a value as indented JSON. NaN and infinities are refused: they
    are no JSON.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """Return the folder for what can be made again: that of the environment variable
    NORMSCOPE_CACHE, else the platform's for caches.
    """
    if named := os.environ.get("NORMSCOPE_CACHE"):
        return Path(named)
    import pooch

    return Path(pooch.os_cache("normscope"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
