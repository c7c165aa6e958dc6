"""CIFAR-10's two official layouts: five training files and a test file, 3,072 bytes an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from normscope.data.dataset import Splits
from normscope.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (32, 32, 3)
IMAGE_BYTES = 32 * 32 * 3
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"

Batch = tuple[np.ndarray, np.ndarray]


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
