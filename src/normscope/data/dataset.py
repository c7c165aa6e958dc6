"""A data set in memory: uint8 images and labels, their classes, constants and fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from normscope.errors import InputError, one_of
from normscope.records.regular_files import without_halves

CHUNK = 1024  # images: bounds the memory of a pass over a memory-mapped split


@dataclass(frozen=True)
class Recipe:
    """The defaults of training on this data."""

    epochs: int
    learning_rates: tuple[float, ...]
    crop_padding: int
    horizontal_flip: bool


@dataclass(frozen=True, eq=False)
class Splits:
    """The splits of a layout: images uint8 [N, H, W, C], labels int64 [N] into `classes`."""

    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels on the host, ready for `Batches`.

    Of text, an image is a window of bytes [T, 1, 1], and a label the byte after each, int64 [T].

    Attributes:
        name: the name that `load` knows it by.
        classes: the class names; a label is an index into them.
        train_images: uint8 [N, H, W, C], possibly memory-mapped (copy on write: the file is never
            changed).
        train_labels: int64 [N].
        test_images: as `train_images`.
        test_labels: as `train_labels`.
        mean: per channel, of pixels in [0, 1]; what normalization subtracts.
        std: per channel, of pixels in [0, 1]; what normalization divides by.
        fingerprint: hexadecimal, of classes, labels and images in their order: equal data is equal,
            however stored.
        source: one phrase for people, such as "CIFAR-10, Hugging Face parquet layout".
        recipe: what training on this data uses unless told otherwise.
        kind: "images" or "text".
    """

    name: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    source: str
    recipe: Recipe
    kind: str = "images"

    def share(self, share: float) -> Dataset:
        """Return it with this share of its training samples, at least one, evenly spread over them;
        constants and fingerprint stay those of all.
        """
        if share == 1:
            return self
        count = len(self.train_images)
        kept = np.arange(max(1, round(share * count))) / share
        rows = np.minimum(kept.astype(np.int64), count - 1)
        return replace(
            self, train_images=self.train_images[rows], train_labels=self.train_labels[rows]
        )


def select_classes(splits: Splits, classes: Sequence[str]) -> Splits:
    """Only the images of `classes`, relabelled in the order given; all of them, unchanged, if none
    is named.

    Raises:
        InputError: for a class that is unknown or named twice, for a single class, and for classes
            of text.
    """
    if not classes or tuple(classes) == splits.classes:
        return splits
    if splits.train_labels.ndim > 1:
        raise InputError("Classes can be chosen of images, not of text (--classes).")
    known = f"Known: {', '.join(splits.classes)}."
    classes = [without_halves(name) for name in classes]
    for name in classes:
        if name not in splits.classes:
            raise InputError(one_of("class", name, splits.classes))
        if list(classes).count(name) > 1:
            raise InputError(f"Class {name!r} is named more than once. {known}")
    if len(classes) < 2:
        raise InputError(
            f"Classification needs at least 2 classes; only {classes[0]!r} is named. {known}"
        )
    relabel = np.full(len(splits.classes), -1, np.int64)
    relabel[[splits.classes.index(name) for name in classes]] = np.arange(len(classes))
    train, test = relabel[splits.train_labels], relabel[splits.test_labels]
    kept, kept_test = train >= 0, test >= 0
    return Splits(
        classes=tuple(classes),
        train_images=splits.train_images[kept],
        train_labels=train[kept],
        test_images=splits.test_images[kept_test],
        test_labels=test[kept_test],
    )


def check(splits: Splits, where: str) -> Splits:
    """The same splits, if they can be trained on; `where` names them in the error.

    Raises:
        InputError: for an empty split, splits of different image shapes, fewer than two classes or
            two of one name, or a label that is none of the classes.
    """
    name, times = Counter(splits.classes).most_common(1)[0] if splits.classes else ("", 0)
    if times > 1:
        raise InputError(f"{where} has {times} classes called {name!r}.")
    for split, images, labels in (
        ("training", splits.train_images, splits.train_labels),
        ("test", splits.test_images, splits.test_labels),
    ):
        if len(images) == 0:
            raise InputError(f"The {split} split of {where} holds no images.")
        if len(labels) != len(images):
            raise InputError(
                f"The {split} split of {where} has {len(images)} images and {len(labels)} labels."
            )
        outside = ((labels < 0) | (labels >= len(splits.classes))).reshape(len(labels), -1).any(1)
        if outside.any():
            row = int(outside.argmax())
            raise InputError(
                f"Image {row} of the {split} split of {where} has label {labels[row]}; "
                f"labels run from 0 to {len(splits.classes) - 1}."
            )
    if len(splits.classes) < 2:
        raise InputError(
            f"Classification needs at least 2 classes; {where} holds {len(splits.classes)}."
        )
    if splits.train_images.shape[1:] != splits.test_images.shape[1:]:
        shapes = [
            "x".join(map(str, images.shape[1:]))
            for images in (splits.train_images, splits.test_images)
        ]
        raise InputError(
            f"The training images of {where} are {shapes[0]} but its test images are {shapes[1]}."
        )
    return splits


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of the population) per channel, of pixels in [0, 1].

    Exact up to one rounding: the pixel values are counted, and the sums are integers. A constant
    channel gets the standard deviation 1, as it is all zeros once its mean is subtracted and must
    not become NaN.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for chunk in _chunks(images):
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].reshape(-1), minlength=256)
    means, deviations = [], []
    for row in counts.tolist():
        n = sum(row)
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        means.append(first / (255 * n))
        deviations.append(math.sqrt(n * second - first * first) / (255 * n) or 1.0)
    return tuple(means), tuple(deviations)


def fingerprint(splits: Splits) -> str:
    """SHA-256, in hexadecimal, of classes, labels and images in their order."""
    digest = hashlib.sha256()
    shapes = [splits.train_images.shape, splits.test_images.shape]
    digest.update(json.dumps([list(splits.classes), *map(list, shapes)]).encode())
    for labels in (splits.train_labels, splits.test_labels):
        digest.update(labels.astype("<i8").tobytes())
    for images in (splits.train_images, splits.test_images):
        for chunk in _chunks(images):
            digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))


@dataclass(frozen=True)
class Layout:
    """Images that were found and are not read yet.

    Attributes:
        phrase: the layout, for people.
        directory: what was searched; names the data in errors.
        files: everything that the splits are read from.
        classes: the class names that the caller knows, in their order; empty leaves them to the
            files.
        read: reads and decodes the files, which takes seconds.
        by_content: tell a change by a checksum of the content; otherwise, for folders of many small
            files where reading is the cost that the cache exists to save, by the sizes and times of
            the files.
    """

    phrase: str
    directory: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    read: Callable[[], Splits]
    by_content: bool = True
