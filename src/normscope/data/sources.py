"""The data sets by name, and `load`, which finds, reads, checks and describes one.

Reading is lazy in every sense: torch is not needed, and scikit-learn, pyarrow and Pillow are imported by the layout
that uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from normscope.data.dataset import Dataset, Recipe, Splits, channel_statistics, check, fingerprint, select_classes
from normscope.data.layouts import digits
from normscope.errors import InputError, lookup


@dataclass(frozen=True)
class Source:
    """A data set that `load` knows: how it is read, and what training on it uses.

    Attributes:
        title: what the data set is called among people.
        read: (data directory, cache directory) -> (splits, the layout they were in).
        recipe: what training uses unless told otherwise.
        mean: per channel, of pixels in [0, 1]; None has it computed from the training split.
        std: as `mean`.
    """

    title: str
    read: Callable[[Path | None, Path | None], tuple[Splits, str]]
    recipe: Recipe
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_digits(data_dir: Path | None, cache_dir: Path | None) -> tuple[Splits, str]:
    """The digits embedded in scikit-learn.

    Raises:
        InputError: if a directory is given: these images need none.
    """
    if data_dir is not None:
        raise InputError(f"The data 'digits' is embedded and reads no directory; {data_dir} was given. Leave it out.")
    return digits.read(), "embedded in scikit-learn"


DATASETS: Mapping[str, Source] = {
    "digits": Source("Handwritten digits (8x8)", read_digits, Recipe(20, (0.01, 0.1, 1.0), 1, False)),
}


def load(
    name: str, *, data_dir: Path | None = None, classes: Sequence[str] = (), cache_dir: Path | None = None
) -> Dataset:
    """The data set called `name`.

    Args:
        name: one of `DATASETS`.
        data_dir: the directory that holds the images.
        classes: keep only these, relabelled in this order; empty keeps all.
        cache_dir: where decoded images and downloads are kept; see `cache.cache_directory` for the default.

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
    )
