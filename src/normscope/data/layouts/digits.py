"""The 1,797 handwritten digits, 8x8, that come inside scikit-learn: no network is needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from normscope.data.dataset import Splits

LARGEST = 16  # scikit-learn's digits count ink in 4x4 blocks: 0 to 16
TEST_EVERY = 5


def read() -> Splits:
    """The digits as uint8 [N, 8, 8, 1], with 0..16 scaled to 0..255.

    The split is fixed and stratified without a random generator, so that no version of a library
    can move it: of each class, in the order in which scikit-learn has them, every fifth image is
    for testing.
    """
    pixels, target = _pixels_and_labels()
    images = np.rint(pixels * (255 / LARGEST)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    names = tuple(str(label) for label in range(10))
    return Splits(names, images[~test], labels[~test], images[test], labels[test])


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
