"""Class folders: train/ and test/, in each one folder per class, in each its images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from normscope.data.cache import Bar, progress
from normscope.data.dataset import Layout, Splits
from normscope.errors import InputError
from normscope.records.read_limits import images_budget
from normscope.records.regular_files import read_bytes

TEST_NAMES = ("test", "val", "valid", "validation")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)

Entries = list[tuple[Path, int]]  # an image and its label


def find(directory: Path, known: tuple[str, ...] = ()) -> Layout | None:
    """Class folders in `directory`, with the images listed; `known` gives the classes their order,
    else it is sorted.

    Raises:
        InputError: if there is no test split, a class folder is empty, or a class is not known.
    """
    train = directory / "train"
    names = _class_names(train)
    if not names:
        return None
    test = next((directory / name for name in TEST_NAMES if _class_names(directory / name)), None)
    if test is None:
        raise InputError(f"{directory} has class folders in train/ but none in test/ (or val/).")
    allowed = known or tuple(names)
    strange = sorted({*names, *_class_names(test)} - set(allowed))
    if strange:
        raise InputError(
            f"{directory} has a folder for the class {strange[0]!r}. Known: {', '.join(allowed)}."
        )
    classes = tuple(name for name in allowed if name in names)
    splits = [_entries(train, classes), _entries(test, classes)]
    files = tuple(path for entries in splits for path, _ in entries)
    phrase = (
        "class folders"
        if test.name == "test"
        else f"class folders ({test.name}/ as the test split)"
    )
    return Layout(
        phrase, directory, files, classes, partial(_read, classes, *splits), by_content=False
    )


def _class_names(split: Path) -> list[str]:
    if not split.is_dir():
        return []
    return sorted(
        path.name for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _entries(split: Path, classes: tuple[str, ...]) -> Entries:
    entries: Entries = []
    for label, name in enumerate(classes):
        folder = split / name
        paths = (
            sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
            if folder.is_dir()
            else []
        )
        if not paths:
            raise InputError(
                f"The class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})."
            )
        entries += [(path, label) for path in paths]
    return entries


def _read(classes: tuple[str, ...], train: Entries, test: Entries) -> Splits:
    from normscope.data.layouts.decode import channels

    with progress("Decoding images", len(train) + len(test)) as bar:
        train_images, test_images = channels(_decode(train, bar), _decode(test, bar))
    train_labels, test_labels = (
        np.array([label for _, label in entries], np.int64) for entries in (train, test)
    )
    return Splits(classes, train_images, train_labels, test_images, test_labels)


def _decode(entries: Entries, bar: Bar) -> tuple[np.ndarray, bool]:
    from normscope.data.layouts.decode import ENCODED, decode

    most = images_budget() // ENCODED
    return decode(len(entries), ((str(p), partial(read_bytes, p, most)) for p, _ in entries), bar)
