"""Every layout gives the same data."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from normscope.data.dataset import fingerprint
from normscope.data.layouts import binary
from normscope.data.sources import load
from normscope.errors import InputError

LAYOUTS = [
    "binary",
    "binary in its folder",
    "pickled by Python 2's rules",
    "pickled with text keys",
    "pickled by the newest protocol",
    "folders",
    "parquet",
    "parquet, image",
    "parquet without names",
    "parquet, bytes and names",
    "parquet in a folder",
]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_cifar10_gives_the_same_data(layout, tiny, writers, tmp_path):
    writers[layout](tmp_path / "data", tiny)
    loaded = load("cifar10", data_dir=tmp_path / "data")
    assert np.array_equal(loaded.train_images, tiny.train_images)
    assert np.array_equal(loaded.test_labels, tiny.test_labels)
    assert loaded.train_images.dtype == np.uint8
    assert loaded.train_labels.dtype == np.int64
    assert loaded.fingerprint == fingerprint(tiny)
    assert loaded.classes == binary.CLASSES
    assert loaded.mean == (0.4914, 0.4822, 0.4465)
    assert loaded.source.startswith("CIFAR-10, ")


def test_the_layouts_above_are_all_there_are(writers):
    assert list(writers) == LAYOUTS


def test_the_archive_is_read_where_it_lies(tiny, write_tiny_archive, tmp_path):
    path = write_tiny_archive(tmp_path / "data", tiny)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert fingerprint(binary.read_archive(path, md5)) == fingerprint(tiny)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_subset_is_relabelled_in_the_order_given(tiny, writers, tmp_path, refuse):
    writers["binary"](tmp_path, tiny)
    loaded = load("cifar10", data_dir=tmp_path, classes=["bird", "airplane"])
    assert loaded.classes == ("bird", "airplane")
    assert loaded.train_labels.tolist() == [1] * 5 + [0] * 5
    assert np.array_equal(loaded.train_images[5:], tiny.train_images[10:15])
    assert "Unknown class 'brid'. Did you mean 'bird'?" in refuse(
        "cifar10", tmp_path, classes=["airplane", "brid"]
    )


def test_a_folder_of_a_few_official_classes_keeps_their_official_order(tiny, writers, tmp_path):
    writers["folders"](tmp_path, tiny)
    for split in ("train", "test"):
        for name in set(binary.CLASSES) - {"automobile", "airplane", "truck"}:
            shutil.rmtree(tmp_path / split / name)
    assert load("cifar10", data_dir=tmp_path).classes == ("airplane", "automobile", "truck")


# --- images of the user's own
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["folders", "parquet", "parquet, bytes and names"])
def test_images_of_any_size_in_grayscale_or_colour(
    channels, layout, writers, tmp_path, make_images
):
    made = make_images(channels)
    writers[layout](tmp_path, made)
    loaded = load("images", data_dir=tmp_path)
    assert loaded.fingerprint == fingerprint(made)
    assert loaded.train_images.shape == (9, 5, 7, channels)
    pixels = made.train_images.reshape(-1, channels) / 255
    assert loaded.mean == pytest.approx(tuple(pixels.mean(0)), rel=1e-12)
    assert loaded.std == pytest.approx(tuple(pixels.std(0)), rel=1e-12)


def test_integer_labels_without_names_are_named_by_themselves(writers, tmp_path, make_images):
    writers["parquet without names"](tmp_path, make_images())
    assert load("images", data_dir=tmp_path).classes == ("0", "1", "2")


def test_grayscale_among_colour_becomes_colour(writers, tmp_path, make_images):
    made = make_images()
    writers["folders"](tmp_path, made)
    Image.fromarray(made.test_images[0, ..., 0]).save(tmp_path / "test" / "ant" / "00000.png")
    loaded = load("images", data_dir=tmp_path)
    assert loaded.test_images.shape[-1] == 3
    assert np.array_equal(
        loaded.test_images[0], np.repeat(made.test_images[0, ..., :1], 3, axis=-1)
    )


def test_a_validation_split_serves_for_testing_and_this_is_said(writers, tmp_path, make_images):
    writers["folders"](tmp_path / "folders", make_images())
    (tmp_path / "folders" / "test").rename(tmp_path / "folders" / "val")
    assert "val/ as the test split" in load("images", data_dir=tmp_path / "folders").source
    writers["parquet"](tmp_path / "parquet", make_images())
    test = tmp_path / "parquet" / "test-00000-of-00001.parquet"
    test.rename(test.with_name("validation-00000-of-00001.parquet"))
    assert "validation as the test split" in load("images", data_dir=tmp_path / "parquet").source


def test_class_folders_whose_names_are_not_utf8(writers, tmp_path, make_images):
    """Half of a character becomes its escape, also where the class is asked for by its folder."""
    made = make_images()
    named = (os.fsdecode(b"caf\xe9"), "bee", "cat")
    writers["folders"](tmp_path, dataclasses.replace(made, classes=named))
    for _ in range(2):  # decoded, and from the cache
        assert load("images", data_dir=tmp_path).classes == ("bee", r"caf\udce9", "cat")
    chosen = load("images", data_dir=tmp_path, classes=("cat", named[0]))
    assert chosen.classes == ("cat", r"caf\udce9")
    assert load("images", data_dir=tmp_path, classes=chosen.classes).classes == chosen.classes
    writers["folders"](tmp_path, dataclasses.replace(made, classes=(r"caf\udce9", "bee", "cat")))
    with pytest.raises(InputError, match="2 classes called"):
        load("images", data_dir=tmp_path)


def test_changed_class_folders_are_decoded_anew(writers, tmp_path, make_images):
    made = make_images()
    writers["folders"](tmp_path, made)
    before = load("images", data_dir=tmp_path).fingerprint
    image = tmp_path / "train" / "bee" / "00003.png"
    Image.fromarray(255 - made.train_images[3]).save(image)
    assert load("images", data_dir=tmp_path).fingerprint != before
