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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from normscope.data.dataset import Layout, Splits
from normscope.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (32, 32, 3)
IMAGE_BYTES = 32 * 32 * 3
RECORD_BYTES = 1 + IMAGE_BYTES
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"

Batch = tuple[np.ndarray, np.ndarray]


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
    files = find_files(directory, "cifar-10-batches-bin", ".bin")
    if files is None:
        return None

    def read() -> Splits:
        return assemble(
            {path.stem: records(path.read_bytes(), str(path)) for path in files}, directory
        )

    return Layout("binary layout", directory, files, CLASSES, read)


def find_archive(directory: Path, archive: Archive) -> Layout | None:
    """The file of `archive` itself, lying in `directory`."""
    path = directory / archive.file_name
    if not path.is_file():
        return None
    return Layout(
        "binary archive",
        directory,
        (path,),
        CLASSES,
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
    return assemble(batches, path)


def records(data: bytes, where: str) -> Batch:
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


def find_files(directory: Path, folder: str, suffix: str) -> tuple[Path, ...] | None:
    """The six files, in `directory` or in the `folder` that the archive unpacks to; None if there
    is not one of them.

    Raises:
        InputError: if some of them are there and others are missing.
    """
    for place in (directory, directory / folder):
        paths = tuple(place / f"{name}{suffix}" for name in (*TRAIN, TEST))
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            return paths
        if len(missing) < len(paths):
            raise InputError(
                f"{place} holds some of the files of CIFAR-10, but not {', '.join(missing)}."
            )
    return None


def assemble(batches: Mapping[str, Batch], where: Path) -> Splits:
    """One data set from the six batches by name: each images uint8 [N, 3072] (channel, row, column)
    and labels [N].

    Raises:
        InputError: if a batch is missing, or holds fewer images than another: the official ones are
            all alike.
    """
    missing = [name for name in (*TRAIN, TEST) if name not in batches]
    if missing:
        raise InputError(
            f"{where} holds no {', '.join(missing)}: it is incomplete, or not CIFAR-10."
        )
    sizes = {name: len(labels) for name, (_, labels) in batches.items()}
    smallest, largest = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[smallest] != sizes[largest]:
        raise InputError(
            f"In {where}, {smallest} holds {sizes[smallest]} images but {largest} holds "
            f"{sizes[largest]}: "
            "it is truncated; the files of CIFAR-10 hold equally many."
        )
    images = [
        batches[name][0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for name in (*TRAIN, TEST)
    ]
    labels = [batches[name][1] for name in (*TRAIN, TEST)]
    return Splits(
        classes=CLASSES,
        train_images=np.concatenate(images[:-1]),
        train_labels=np.concatenate(labels[:-1]),
        test_images=np.ascontiguousarray(images[-1]),
        test_labels=labels[-1],
    )
