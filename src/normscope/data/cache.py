"""Decoded once: the splits of a layout as memory-mapped uint8 .npy files, in a folder named by a
checksum.

Decoding 60,000 images takes from several to tens of seconds, mapping them 4 ms, and processes that
map the same file share its memory. An entry is written aside and renamed, so it is whole or not
there; a lock keeps two processes from decoding the same images, and the operating system lets it go
when its holder dies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np

from normscope.data.dataset import Splits, check
from normscope.data.layouts.layout import Layout
from normscope.errors import StorageError
from normscope.records.files import cache_folder

VERSION = 1  # of the entries: raise it when the same files would be decoded to something else
ARRAYS = tuple(field.name for field in fields(Splits) if field.name != "classes")


def cache_directory(given: Path | None = None) -> Path:
    """Return the folder of decoded images and downloads: `given`, else normscope's cache."""
    return cache_folder() if given is None else given


def cached(layout: Layout, cache_dir: Path | None = None) -> Splits:
    """The splits of `layout`, memory-mapped (copy on write); read and decoded first if this was
    never done.

    Raises:
        InputError: if the files cannot be read, or hold what cannot be trained on.
        StorageError: if the cache folder cannot be written.
    """
    entry = cache_directory(cache_dir) / "decoded" / checksum(layout)
    if (splits := _open(entry)) is not None:
        return splits
    with locked(entry):
        if (splits := _open(entry)) is None:
            _store(check(layout.read(), str(layout.directory)), entry)
            splits = _open(entry)
    if splits is None:
        raise StorageError(
            f"The decoded images in {entry} cannot be read back. Set NORMSCOPE_CACHE to another "
            "folder."
        )
    return splits


def checksum(layout: Layout) -> str:
    """Hash what decides the decoded splits: the files, how they are read, and the class names."""
    digest = hashlib.sha256(json.dumps([VERSION, layout.phrase, layout.classes]).encode())
    if not layout.by_content:
        digest.update(bytes(layout.directory.resolve()))
    for path in layout.files:
        digest.update(f"\0{path.relative_to(layout.directory)}\0".encode(errors="surrogateescape"))
        if layout.by_content:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            state = path.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}".encode())
    return digest.hexdigest()[:32]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`, making its folder first; waits for whoever holds it.

    Raises:
        StorageError: if the folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = (
            "the disk is full"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else error.strerror or str(error)
        )
        raise StorageError(
            f"Cannot write the image cache {folder}: {reason}. Set NORMSCOPE_CACHE to a folder "
            "with room."
        ) from error


def _open(entry: Path) -> Splits | None:
    """The entry, or None if it is not there or not whole (a disk that lost bytes, a hand in the
    folder).
    """
    try:
        classes = tuple(json.loads((entry / "classes.json").read_text(encoding="utf-8")))
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in ARRAYS}
    except (OSError, ValueError, EOFError):
        return None
    return Splits(classes, **arrays)


def _store(splits: Splits, entry: Path) -> None:
    aside = entry.with_name(
        f"{entry.name}.partial"
    )  # under the lock: what is there was left by a killed process
    with storing(entry.parent):
        for leftover in (aside, entry):
            if leftover.exists():
                shutil.rmtree(leftover)
        try:
            aside.mkdir()
            for name in ARRAYS:
                np.save(aside / f"{name}.npy", getattr(splits, name), allow_pickle=False)
            (aside / "classes.json").write_text(json.dumps(splits.classes), encoding="utf-8")
            aside.rename(entry)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
