"""Files that come into being whole, their checksums, and the leftovers of killed processes."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normscope.errors import StorageError
from normscope.records.regular_files import encode_json, open_regular, read_text

_being_written: set[str] = set()  # files aside, of this process


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn a failure of the file system into a StorageError: what cannot be done, and why."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Cannot {what}: {error.strerror or error}.") from error


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what the body writes there takes its place when the
    body succeeds, and is on the disk by then.

    What a process that was killed has left of such a file is removed first.

    Raises:
        StorageError: if the file cannot be written. What was at `path` is still there then.
    """
    with storing(f"write {path}"):
        clear_dead(path)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{_prefix(path)}{this_process()}-", suffix=path.suffix
        )
        _being_written.add(name)
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            aside.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
            _being_written.discard(name)


def clear_dead(path: Path) -> None:
    """Remove what processes that are gone have left aside of a file, and of its journal."""
    ours = re.compile(
        rf"{re.escape(_prefix(path))}([0-9a-f]{{8}}-\d+)-\w+{re.escape(path.suffix)}(-journal)?"
    )
    with suppress(OSError):  # whether the folder can be used shows when it is
        for entry in path.parent.iterdir():
            found = ours.fullmatch(entry.name)
            if found and not _is_being_written(entry, found[1]):
                entry.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.stem[:80]}-"


def _is_being_written(path: Path, process: str) -> bool:
    if process == this_process():
        return str(path).removesuffix("-journal") in _being_written
    return is_alive(process)


def this_process() -> str:
    """Return the machine, not by its name, and the number of this process there."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def is_alive(process: str) -> bool:
    """Tell if a process, as `this_process` names it, runs; True where that cannot be known: of
    another machine, and on Windows.
    """
    machine, _, number = process.partition("-")
    if not number.isdecimal() or machine != this_process().partition("-")[0] or os.name == "nt":
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, as UTF-8."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a value as indented JSON. NaN and infinities are refused: they
    are no JSON.
    """
    write_text(path, encode_json(value, indent=2) + "\n")


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
