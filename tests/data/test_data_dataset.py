"""The parts of a data set: selected classes, exact constants, fingerprints, and the embedded
digits.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from normscope.data import sources
from normscope.data.dataset import Splits, channel_statistics, check, fingerprint, select_classes
from normscope.data.sources import load
from normscope.errors import InputError


@pytest.fixture
def splits() -> Splits:
    draw = np.random.default_rng(0)
    train, test = (draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8) for count in (12, 6))
    return Splits(("ant", "bee", "cat"), train, np.arange(12) % 3, test, np.arange(6) % 3)


def test_selected_classes_are_relabelled_in_the_order_given(splits):
    chosen = select_classes(splits, ["cat", "ant"])
    assert chosen.classes == ("cat", "ant")
    for part in ("train", "test"):
        images, labels = getattr(splits, f"{part}_images"), getattr(splits, f"{part}_labels")
        kept = labels != 1
        assert np.array_equal(getattr(chosen, f"{part}_images"), images[kept])
        assert getattr(chosen, f"{part}_labels").tolist() == [
            {2: 0, 0: 1}[label] for label in labels[kept].tolist()
        ]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], "Unknown class 'dog'"),
        (["cat", "ant", "cat"], "'cat' is named more than once"),
        (["cat"], "at least 2 classes; only 'cat'"),
    ],
)
def test_classes_that_cannot_be_selected(splits, classes, message):
    with pytest.raises(InputError, match=message) as caught:
        select_classes(splits, classes)
    assert "Known: ant, bee, cat." in str(caught.value)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_named(splits, label):
    splits.test_labels[4] = label
    with pytest.raises(
        InputError, match=f"Image 4 of the test split of here has label {label}; .* from 0 to 2"
    ):
        check(splits, "here")


def test_an_empty_split_and_shapes_that_disagree_are_errors(splits):
    with pytest.raises(InputError, match="training split of here holds no images"):
        check(
            replace(
                splits, train_images=splits.train_images[:0], train_labels=splits.train_labels[:0]
            ),
            "here",
        )
    with pytest.raises(
        InputError, match="training images of here are 4x4x3 but its test images are 4x2x3"
    ):
        check(replace(splits, test_images=splits.test_images[:, :, :2]), "here")


def test_constants_are_exact_over_many_chunks():
    images = np.random.default_rng(1).integers(0, 256, (2500, 3, 2, 2), dtype=np.uint8)
    mean, std = channel_statistics(images)
    for channel in range(2):
        pixels = images[..., channel].reshape(-1).tolist()
        exact = Fraction(sum(pixels), len(pixels) * 255)
        variance = Fraction(sum(p * p for p in pixels), len(pixels) * 255**2) - exact**2
        assert mean[channel] == float(exact)
        assert std[channel] == pytest.approx(float(variance) ** 0.5, rel=1e-15)


def test_a_constant_channel_does_not_divide_by_zero():
    assert channel_statistics(np.full((3, 2, 2, 1), 51, np.uint8)) == ((0.2,), (1.0,))


def test_fingerprints_tell_classes_labels_and_pixels_apart(splits):
    same = replace(splits, train_images=np.asfortranarray(splits.train_images))
    assert fingerprint(same) == fingerprint(splits)
    pixel, label = splits.train_images.copy(), splits.test_labels.copy()
    pixel[0, 0, 0, 0] ^= 1
    label[0] ^= 1
    changed = [replace(splits, train_images=pixel), replace(splits, test_labels=label)]
    changed.append(replace(splits, classes=("ant", "bee", "cow")))
    assert len({fingerprint(other) for other in [splits, *changed]}) == 4


def test_digits_are_split_in_the_same_stratified_way_every_time():
    digits = load("digits")
    assert digits.train_images.shape == (1442, 8, 8, 1)
    assert digits.test_images.shape == (355, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8
    assert {digits.train_images.min(), digits.train_images.max()} == {0, 255}
    assert digits.train_labels.dtype == np.int64
    shares = np.bincount(digits.test_labels) / np.bincount(
        np.r_[digits.test_labels, digits.train_labels]
    )
    assert (np.abs(shares - 0.2) < 0.005).all()
    assert digits.fingerprint == load("digits").fingerprint
    assert digits.classes == tuple("0123456789")
    assert digits.recipe.epochs == 20


def test_digits_are_those_of_scikit_learn_with_its_file_or_without(monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    through_sklearn, _ = sources.read_digits(None, None)
    monkeypatch.undo()
    digits, _ = sources.read_digits(None, None)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(digits, name), getattr(through_sklearn, name)), name
    labels = np.r_[digits.train_labels, digits.test_labels]
    assert sorted(labels) == sorted(load_digits().target)


def test_the_constants_are_those_of_the_subset():
    digits = load("digits", classes=["1", "7"])
    assert set(digits.train_labels.tolist()) == {0, 1}
    pixels = digits.train_images / 255
    assert digits.mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert digits.std == pytest.approx((pixels.std(),), rel=1e-12)


@pytest.mark.parametrize(("share", "count"), [(1.0, 1442), (0.5, 721), (1 / 3, 481), (1e-6, 1)])
def test_a_share_is_spread_over_the_training_samples_and_leaves_the_rest(share, count):
    digits = load("digits")
    less = digits.share(share)
    step = -(-1442 // count)
    assert np.array_equal(less.train_images, digits.train_images[::step])
    assert np.array_equal(less.train_labels, digits.train_labels[::step])
    assert np.array_equal(less.test_images, digits.test_images)
    assert (less.mean, less.fingerprint) == (digits.mean, digits.fingerprint)


def test_unknown_data_and_a_directory_for_digits_are_errors():
    with pytest.raises(
        InputError, match=r"Unknown data 'digit'. Did you mean 'digits'\? Known: digits"
    ):
        load("digit")
    with pytest.raises(InputError, match="embedded and reads no directory; somewhere was given"):
        load("digits", data_dir=Path("somewhere"))
