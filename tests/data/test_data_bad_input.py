"""Directories, archives, parquet files and images that cannot be used: each one line that names
what is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tarfile

import pytest
from PIL import Image

from normscope.data.layouts import binary
from normscope.data.sources import load
from normscope.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("name", ["cifar10", "images"])
def test_a_directory_that_is_missing_empty_or_something_else(name, tmp_path, refuse):
    assert "does not exist" in refuse(name, tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "is a file" in refuse(name, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is empty. Expected: " in refuse(name, tmp_path / "empty")
    (tmp_path / "other").mkdir()
    for letter in "abcdef":
        (tmp_path / "other" / letter).touch()
    assert "holds a, b, c, d, .... Expected: " in refuse(name, tmp_path / "other")


def test_images_need_a_directory():
    with pytest.raises(InputError, match="needs a directory"):
        load("images")


@pytest.mark.parametrize(("layout", "suffix"), [("binary", ".bin"), ("pickled with text keys", "")])
def test_truncated_and_missing_official_files(layout, suffix, tiny, writers, tmp_path, refuse):
    writers[layout](tmp_path, tiny)
    file = next(tmp_path.rglob(f"data_batch_3{suffix}"))
    content = file.read_bytes()
    file.write_bytes(content[:-1000])
    message = refuse("cifar10", tmp_path)
    assert "data_batch_3" in message
    assert "truncated" in message
    file.write_bytes(b"")
    assert "data_batch_3" in refuse("cifar10", tmp_path)
    file.unlink()
    assert f"but not data_batch_3{suffix}" in refuse("cifar10", tmp_path)


def test_a_file_truncated_between_two_records(tiny, writers, tmp_path, refuse):
    writers["binary"](tmp_path, tiny)
    file = tmp_path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[: -binary.RECORD_BYTES])
    assert "data_batch_2 holds 9 images but data_batch_1 holds 10: it is truncated" in refuse(
        "cifar10", tmp_path
    )


@pytest.mark.parametrize("label", [10, 255])
def test_labels_out_of_range(label, tiny, writers, tmp_path, refuse):
    tiny.train_labels[12] = label
    writers["binary"](tmp_path, tiny)
    assert f"Image 12 of the training split of {tmp_path} has label {label}" in refuse(
        "cifar10", tmp_path
    )
    assert "from 0 to 9" in refuse("cifar10", tmp_path, classes=["bird", "cat"])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_the_range_that_parquet_names(label, writers, tmp_path, refuse, make_images):
    made = make_images()
    made.test_labels[1] = label
    writers["parquet"](tmp_path, made)
    assert f"Image 1 of the test split of {tmp_path} has label {label}" in refuse(
        "images", tmp_path
    )


def test_an_archive_with_a_wrong_checksum_is_not_read(tiny, write_tiny_archive, tmp_path, refuse):
    write_tiny_archive(tmp_path, tiny)
    message = refuse("cifar10", tmp_path)
    assert "cifar-10-binary.tar.gz has the checksum md5:" in message
    assert f"not md5:{binary.CIFAR10.checksum.removeprefix('md5:')}" in message


def test_an_archive_that_is_cut_short_or_holds_something_else(tiny, write_tiny_archive, tmp_path):
    path = write_tiny_archive(tmp_path, tiny)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cannot be read as a \.tar\.gz archive"):
        binary.read_archive(path, hashlib.md5(path.read_bytes()).hexdigest())
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "elsewhere.bin.py")
    with pytest.raises(InputError, match="holds no data_batch_1"):
        binary.read_archive(path, hashlib.md5(path.read_bytes()).hexdigest())


def test_parquet_with_other_columns(tmp_path, refuse):
    from pyarrow import parquet, table

    for split in ("train", "test"):
        parquet.write_table(table({"picture": [b""], "label": [0]}), tmp_path / f"{split}.parquet")
    message = refuse("images", tmp_path)
    assert (
        "has the columns picture, label; expected an image column (image or img) and a label column"
        in message
    )


@pytest.mark.parametrize(
    ("cell", "label", "message"),
    [
        (b"no image", 0, "Row 1 of .*train.parquet is damaged, or is no image"),
        (None, 0, "Row 1 of .*train.parquet has no image bytes in its column 'image'"),
        (b"", 0, "Row 1 of .*train.parquet is damaged"),
        ("text", 0, "Row 0 of .*train.parquet has no image bytes"),
        (b"no image", None, "Row 1 of .*train.parquet has the label None"),
        (b"no image", 0.5, "has the label 0.5|Row 0 of .* has the label 0.0"),
    ],
)
def test_cells_that_are_no_image_and_labels_that_are_none(cell, label, message, tmp_path):
    from pyarrow import parquet, table

    good = "text" if isinstance(cell, str) else _png()
    for split, cells, labels in (
        ("train", [good, cell], [0, label]),
        ("test", [good, good], [0, 1]),
    ):
        parquet.write_table(table({"image": cells, "label": labels}), tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match=message):
        load("images", data_dir=tmp_path)


def _png(size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "png")
    return buffer.getvalue()


def test_truncated_parquet_and_missing_parts(writers, tmp_path, refuse, make_images):
    writers["parquet"](tmp_path, make_images())
    train = tmp_path / "train-00000-of-00001.parquet"
    whole = train.read_bytes()
    train.write_bytes(whole[:-100])
    assert f"{train} is truncated, damaged, or no parquet file" in refuse("images", tmp_path)
    train.write_bytes(b"")
    assert f"{train} is truncated, damaged, or no parquet file" in refuse("images", tmp_path)
    train.write_bytes(whole)
    part = train.rename(tmp_path / "train-00000-of-00002.parquet")
    assert "train-00000-of-00002.parquet says that there are 2 such files; 1 are there" in refuse(
        "images", tmp_path
    )
    part.unlink()
    assert "needs parquet files named train* and test*" in refuse("images", tmp_path)


def test_damaged_bytes_inside_a_parquet_file_are_an_input_error_wherever_they_are(
    writers, tmp_path, make_images
):
    writers["parquet"](tmp_path, make_images())
    train = tmp_path / "train-00000-of-00001.parquet"
    whole = bytearray(train.read_bytes())
    for position in range(8, len(whole), len(whole) // 25):
        damaged = whole.copy()
        damaged[position : position + 24] = bytes(24)
        train.write_bytes(damaged)
        with contextlib.suppress(InputError):  # any other error fails the test
            load("images", data_dir=tmp_path)


def test_an_image_that_is_no_image_or_is_truncated_is_named(writers, tmp_path, refuse, make_images):
    writers["folders"](tmp_path, make_images())
    image = tmp_path / "train" / "cat" / "00007.png"
    whole = image.read_bytes()
    for content in (b"no image", b"", whole[:60], whole[:-60]):
        image.write_bytes(content)
        assert f"{image} is damaged, or is no image" in refuse("images", tmp_path)


def test_images_of_several_sizes_and_of_more_than_8_bits(writers, tmp_path, refuse, make_images):
    writers["folders"](tmp_path, make_images())
    image = tmp_path / "train" / "cat" / "00007.png"
    image.write_bytes(_png((9, 5)))
    first = tmp_path / "train" / "ant" / "00000.png"
    message = refuse("images", tmp_path)
    assert (
        f"{image} is 9x5 pixels but {first} is 7x5: all images must have the same size" in message
    )
    image.write_bytes(_png((7, 5), "I;16"))
    assert f"{image} has more than 8 bits a channel" in refuse("images", tmp_path)


def test_class_folders_that_do_not_fit(writers, tmp_path, refuse, make_images):
    writers["folders"](tmp_path, make_images())
    assert "has a folder for the class 'ant'. Known: airplane" in refuse("cifar10", tmp_path)
    (tmp_path / "test" / "dog").mkdir()
    assert "has a folder for the class 'dog'. Known: ant, bee, cat." in refuse("images", tmp_path)
    shutil.rmtree(tmp_path / "test" / "dog")
    for path in (tmp_path / "train" / "bee").iterdir():
        path.unlink()
    assert f"The class folder {tmp_path / 'train' / 'bee'} holds no images" in refuse(
        "images", tmp_path
    )
    shutil.rmtree(tmp_path / "test")
    assert "has class folders in train/ but none in test/" in refuse("images", tmp_path)


def test_a_single_class_is_not_enough(writers, tmp_path, refuse, make_images):
    writers["folders"](tmp_path, make_images())
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            shutil.rmtree(tmp_path / split / name)
    assert "needs at least 2 classes" in refuse("images", tmp_path)


def test_other_images_are_not_taken_for_cifar10(writers, tmp_path, refuse, make_images):
    writers["parquet"](tmp_path, make_images())
    message = refuse("cifar10", tmp_path)
    assert "5x7x3 images of ant, bee, cat" in message
    assert "use the data 'images'" in message
