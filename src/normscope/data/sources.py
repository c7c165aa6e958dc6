"""The data sets by name, and `load`, which finds, reads, checks and describes one.

Reading is lazy in every sense: torch is not needed, and scikit-learn, pyarrow and Pillow are
imported by the layout that uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from normscope.data.cache import cached, fetch
from normscope.data.dataset import (
    Dataset,
    Layout,
    Recipe,
    Splits,
    channel_statistics,
    check,
    fingerprint,
    select_classes,
)
from normscope.data.layouts import binary, folders, parquet, pickled, text
from normscope.errors import InputError, StorageError, lookup

MOST_INK = 16  # scikit-learn's digits count ink in 4x4 blocks: 0 to 16
TEST_EVERY = 5


@dataclass(frozen=True)
class Source:
    """A data set that `load` knows: how it is read, and what training on it uses.

    Attributes:
        title: what the data set is called among people.
        read: (data directory, cache directory) -> (splits, the layout they were in).
        recipe: what training uses unless told otherwise.
        mean: per channel, of pixels in [0, 1]; None has it computed from the training split.
        std: as `mean`.
        kind: "images" or "text".
    """

    title: str
    read: Callable[[Path | None, Path | None], tuple[Splits, str]]
    recipe: Recipe
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    kind: str = "images"


def read_digits(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """The 1,797 handwritten digits that come inside scikit-learn, as uint8 [N, 8, 8, 1], with 0..16
    scaled to 0..255.

    The split is fixed and stratified without a random generator, so that no version of a library
    can move it: of each class, in the order in which scikit-learn has them, every fifth image is
    for testing.

    Raises:
        InputError: if a directory is given: these images need none.
    """
    if data_dir is not None:
        raise InputError(
            f"The data 'digits' is embedded and reads no directory; {data_dir} was given. Leave "
            "it out."
        )
    pixels, target = _pixels_and_labels()
    images = np.rint(pixels * (255 / MOST_INK)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    names = tuple(str(label) for label in range(10))
    splits = Splits(names, images[~test], labels[~test], images[test], labels[test])
    return splits, "embedded in scikit-learn"


def _pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Read the file behind `sklearn.datasets.load_digits`, [1797, 64] and [1797], where it is where
    it has always been: importing scikit-learn takes every process more than a second.
    """
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return np.asarray(pixels), np.asarray(target)


def read_cifar10(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """CIFAR-10 from a directory in any of its layouts; the official binary archive, downloaded
    once, without one.

    Raises:
        InputError: if the directory holds no CIFAR-10, or the archive cannot be downloaded.
    """
    known = binary.CLASSES
    finders = [lambda directory: binary.find_archive(directory, binary.CIFAR10)]
    if data_dir is None:
        data_dir = fetch(binary.CIFAR10, cache_dir).parent
    else:
        finders = [binary.find, pickled.find, *finders]
        finders += [
            lambda directory: folders.find(directory, known),
            lambda directory: parquet.find(directory, known),
        ]
    splits, layout = _read_directory(data_dir, cache_dir, finders, CIFAR10_LAYOUTS)
    strange = set(splits.classes) - set(binary.CLASSES)
    if splits.train_images.shape[1:] != binary.SHAPE or strange:
        shape = "x".join(map(str, splits.train_images.shape[1:]))
        raise InputError(
            f"{data_dir} holds {shape} images of {', '.join(splits.classes[:4])}, ...: that is "
            "not CIFAR-10. "
            "For images of your own, use the data 'images'."
        )
    return splits, layout


def read_images(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """Images of the user's own.

    Raises:
        InputError: if there is no directory, or it has no layout that is known.
    """
    if data_dir is None:
        raise InputError(f"The data 'images' needs a directory (--data-dir): {IMAGE_LAYOUTS}.")
    return _read_directory(data_dir, cache_dir, [folders.find, parquet.find], IMAGE_LAYOUTS)


def read_text(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """Text: of Python's documentation, or of a file or folder of the user's.

    Raises:
        InputError: if the file or folder holds no text that can be used.
    """
    if data_dir is None:
        return text.read_topics(), f"embedded in Python {sys.version_info[0]}.{sys.version_info[1]}"
    try:
        return text.read_path(data_dir), f"{data_dir.name or data_dir}"
    except OSError as error:
        raise InputError(f"Cannot read {error.filename or data_dir}: {error.strerror}.") from error


def read_shakespeare(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """Karpathy's file of Shakespeare's plays, downloaded once.

    Raises:
        InputError: if it cannot be downloaded.
    """
    return text.read_path(data_dir or fetch(SHAKESPEARE, cache_dir)), "1.1 MB"


SHAKESPEARE = binary.Archive(
    "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def _read_directory(
    directory: Path,
    cache_dir: Path | None,
    finders: Sequence[Callable[[Path], Layout | None]],
    expected: str,
) -> tuple[Splits, str]:
    """The splits in `directory` by the first finder that knows it, and the layout's name."""
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        raise InputError(f"The data directory {directory} {what}. Expected: {expected}.")
    try:
        layout = next((layout for find in finders if (layout := find(directory))), None)
        if layout is not None:
            return cached(layout, cache_dir), layout.phrase
        names = sorted(path.name for path in directory.iterdir())
    except StorageError:
        raise
    except OSError as error:
        raise InputError(
            f"Cannot read {error.filename or directory}: {error.strerror or error}."
        ) from error
    held = (
        f"holds {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else "is empty"
    )
    raise InputError(f"The data directory {directory} {held}. Expected: {expected}.")


IMAGE_LAYOUTS = (
    "class folders in train/ and test/, or parquet files train* and test* with an image and a "
    "label column"
)
CIFAR10_LAYOUTS = (
    "CIFAR-10 as data_batch_1.bin ... test_batch.bin, as data_batch_1 ... test_batch, as "
    f"{binary.CIFAR10.file_name}, "
    f"as {IMAGE_LAYOUTS}"
)
CIFAR10_RECIPE = Recipe(epochs=30, learning_rates=(0.1,), crop_padding=4, horizontal_flip=True)

TEXT_RECIPE = Recipe(epochs=5, learning_rates=(0.001, 0.003), crop_padding=0, horizontal_flip=False)
_BYTES: Any = {"kind": "text", "mean": (0.0,), "std": (1.0,)}

DATASETS: Mapping[str, Source] = {
    "digits": Source(
        title="Handwritten digits (8x8)",
        read=read_digits,
        recipe=Recipe(
            epochs=20, learning_rates=(0.01, 0.1, 1.0), crop_padding=1, horizontal_flip=False
        ),
    ),
    "cifar10": Source(
        title="CIFAR-10",
        read=read_cifar10,
        recipe=CIFAR10_RECIPE,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "images": Source(title="Images", read=read_images, recipe=CIFAR10_RECIPE),
    "text": Source(title="English text", read=read_text, recipe=TEXT_RECIPE, **_BYTES),
    "tiny-shakespeare": Source(
        title="Tiny Shakespeare", read=read_shakespeare, recipe=TEXT_RECIPE, **_BYTES
    ),
}


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    classes: Sequence[str] = (),
    cache_dir: Path | None = None,
) -> Dataset:
    """Return the data set called `name`, one of `DATASETS`, from the directory that holds it.

    `classes` are the only ones that are kept, relabelled in this order; empty keeps all. Decoded
    images and downloads go into `cache_dir`, by default that of `cache.cache_directory`.

    Raises:
        InputError: for an unknown name or class, and for a directory that does not hold the images.
        StorageError: if the decoded images cannot be stored.
    """
    source = lookup("data", name, DATASETS)
    everything, layout = source.read(data_dir, cache_dir)
    splits = check(select_classes(everything, classes), str(data_dir or name))
    mean, std = source.mean, source.std
    if mean is None or std is None:
        mean, std = channel_statistics(splits.train_images)
    return Dataset(
        name=name,
        classes=splits.classes,
        train_images=splits.train_images,
        train_labels=splits.train_labels,
        test_images=splits.test_images,
        test_labels=splits.test_labels,
        mean=mean,
        std=std,
        fingerprint=fingerprint(splits),
        source=f"{source.title}, {layout}",
        recipe=source.recipe,
        kind=source.kind,
    )
