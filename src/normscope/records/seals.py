"""Checksums beside files of a cache: what is not as it was written is made again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from normscope.records.files import write_text
from normscope.records.regular_files import open_regular, read_text


def seal(path: Path) -> None:
    """Write a file's checksum beside it.

    Raises:
        OSError, StorageError: if that cannot be done.
    """
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_text(_seal(path), f"{digest}  {path.name}\n")


def is_sealed(path: Path) -> bool:
    """Tell whether a file is there, and is the one that was sealed."""
    return read_sealed(path, keep=False) is not None


def read_sealed(path: Path, *, keep: bool = True) -> bytes | None:
    """Return the content of a file, or with `keep` false b"", if it is the one that was sealed."""
    try:
        expected = read_text(_seal(path))
        with open_regular(path) as file:
            content = file.read() if keep else b""
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return content if expected == f"{found}  {path.name}\n" else None


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
