"""The official binary layout of CIFAR-10, unpacked or in its archive: records of one label byte and
one image.

Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html. It is the layout that is downloaded,
as it holds nothing but bytes. The archive is read where it lies; nothing is unpacked, so no path in
it is ever written to.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from normscope.data.dataset import Splits
from normscope.data.layouts import official
from normscope.data.layouts.layout import Layout
from normscope.errors import InputError

RECORD_BYTES = 1 + official.IMAGE_BYTES


@dataclass(frozen=True)
class Archive:
    """An archive that can be downloaded, and the checksum that tells whether it arrived whole."""

    url: str
    checksum: str  # with its algorithm, "md5:..." or "sha256:..."

    @property
    def file_name(self) -> str:
        """The name it is stored under."""
        return PurePosixPath(self.url).name


CIFAR10 = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
)


def find(directory: Path) -> Layout | None:
    """The six binary files in `directory`, or in the folder that the archive unpacks to."""
    files = official.find_files(directory, "cifar-10-batches-bin", ".bin")
    if files is None:
        return None

    def read() -> Splits:
        return official.assemble(
            {path.stem: records(path.read_bytes(), str(path)) for path in files}, directory
        )

    return Layout("binary layout", directory, files, official.CLASSES, read)


def find_archive(directory: Path, archive: Archive) -> Layout | None:
    """The file of `archive` itself, lying in `directory`."""
    path = directory / archive.file_name
    if not path.is_file():
        return None
    return Layout(
        "binary archive",
        directory,
        (path,),
        official.CLASSES,
        lambda: read_archive(path, archive.checksum.removeprefix("md5:")),
    )


def read_archive(path: Path, md5: str) -> Splits:
    """The data set in the archive at `path`.

    Raises:
        InputError: if the file does not have the checksum, or is no archive of the six files.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise InputError(
            f"{path} has the checksum md5:{found}, not md5:{md5}: it is truncated or altered."
        )
    batches = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = (
                    archive.extractfile(member)
                    if name.suffix == ".bin" and member.isfile()
                    else None
                )
                if content is not None:
                    batches[name.stem] = records(content.read(), f"{name} in {path}")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} cannot be read as a .tar.gz archive: {error}.") from error
    return official.assemble(batches, path)


def records(data: bytes, where: str) -> official.Batch:
    """Images uint8 [N, 3072] and labels int64 [N] of one file's content.

    Raises:
        InputError: if it is empty or ends inside a record.
    """
    if not data or len(data) % RECORD_BYTES:
        raise InputError(
            f"{where} has {len(data)} bytes, not a multiple of {RECORD_BYTES} (a label and an "
            "image): it is truncated."
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    return table[:, 1:], table[:, 0].astype(np.int64)
