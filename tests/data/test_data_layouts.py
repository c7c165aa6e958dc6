"""Every layout gives the same data, and every way to be wrong gives one line that names what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normscope.data.dataset import Splits, fingerprint
from normscope.data.layouts import binary, official
from normscope.data.layouts.pickled import STAND_INS
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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refuse(name: str, data_dir: Path, **options) -> str:
    """The message of the InputError that loading raises: one line, of a length that can be read."""
    with pytest.raises(InputError) as caught:
        load(name, data_dir=data_dir, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_cifar10_gives_the_same_data(layout, tiny, writers, tmp_path):
    writers[layout](tmp_path / "data", tiny)
    loaded = load("cifar10", data_dir=tmp_path / "data")
    assert np.array_equal(loaded.train_images, tiny.train_images)
    assert np.array_equal(loaded.test_labels, tiny.test_labels)
    assert loaded.train_images.dtype == np.uint8
    assert loaded.train_labels.dtype == np.int64
    assert loaded.fingerprint == fingerprint(tiny)
    assert loaded.classes == official.CLASSES
    assert loaded.mean == (0.4914, 0.4822, 0.4465)
    assert loaded.source.startswith("CIFAR-10, ")


def test_the_layouts_above_are_all_there_are(writers):
    assert list(writers) == LAYOUTS


def test_the_archive_is_read_where_it_lies(tiny, write_tiny_archive, tmp_path):
    path = write_tiny_archive(tmp_path / "data", tiny)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert fingerprint(binary.read_archive(path, md5)) == fingerprint(tiny)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_subset_is_relabelled_in_the_order_given(tiny, writers, tmp_path):
    writers["binary"](tmp_path, tiny)
    loaded = load("cifar10", data_dir=tmp_path, classes=["bird", "airplane"])
    assert loaded.classes == ("bird", "airplane")
    assert loaded.train_labels.tolist() == [1] * 5 + [0] * 5
    assert np.array_equal(loaded.train_images[5:], tiny.train_images[10:15])
    assert "Unknown class 'brid'. Did you mean 'bird'?" in refuse("cifar10", tmp_path, classes=["airplane", "brid"])


def test_a_folder_of_a_few_official_classes_keeps_their_official_order(tiny, writers, tmp_path):
    writers["folders"](tmp_path, tiny)
    for split in ("train", "test"):
        for name in set(official.CLASSES) - {"automobile", "airplane", "truck"}:
            shutil.rmtree(tmp_path / split / name)
    assert load("cifar10", data_dir=tmp_path).classes == ("airplane", "automobile", "truck")


# --- images of the user's own ---------------------------------------------------------------------------------------


def make_images(channels: int = 3, size: tuple[int, int] = (5, 7)) -> Splits:
    draw = np.random.default_rng(3)
    shape = (*size, channels)
    train, test = (draw.integers(0, 256, (count, *shape), dtype=np.uint8) for count in (9, 3))
    return Splits(("ant", "bee", "cat"), train, np.repeat(np.arange(3), 3), test, np.arange(3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["folders", "parquet", "parquet, bytes and names"])
def test_images_of_any_size_in_grayscale_or_colour(channels, layout, writers, tmp_path):
    made = make_images(channels)
    writers[layout](tmp_path, made)
    loaded = load("images", data_dir=tmp_path)
    assert loaded.fingerprint == fingerprint(made)
    assert loaded.train_images.shape == (9, 5, 7, channels)
    pixels = made.train_images.reshape(-1, channels) / 255
    assert loaded.mean == pytest.approx(tuple(pixels.mean(0)), rel=1e-12)
    assert loaded.std == pytest.approx(tuple(pixels.std(0)), rel=1e-12)


def test_integer_labels_without_names_are_named_by_themselves(writers, tmp_path):
    writers["parquet without names"](tmp_path, make_images())
    assert load("images", data_dir=tmp_path).classes == ("0", "1", "2")


def test_grayscale_among_colour_becomes_colour(writers, tmp_path):
    made = make_images()
    writers["folders"](tmp_path, made)
    Image.fromarray(made.test_images[0, ..., 0]).save(tmp_path / "test" / "ant" / "00000.png")
    loaded = load("images", data_dir=tmp_path)
    assert loaded.test_images.shape[-1] == 3
    assert np.array_equal(loaded.test_images[0], np.repeat(made.test_images[0, ..., :1], 3, axis=-1))


def test_a_validation_split_serves_for_testing_and_this_is_said(writers, tmp_path):
    writers["folders"](tmp_path / "folders", make_images())
    (tmp_path / "folders" / "test").rename(tmp_path / "folders" / "val")
    assert "val/ as the test split" in load("images", data_dir=tmp_path / "folders").source
    writers["parquet"](tmp_path / "parquet", make_images())
    test = tmp_path / "parquet" / "test-00000-of-00001.parquet"
    test.rename(test.with_name("validation-00000-of-00001.parquet"))
    assert "validation as the test split" in load("images", data_dir=tmp_path / "parquet").source


def test_changed_class_folders_are_decoded_anew(writers, tmp_path):
    made = make_images()
    writers["folders"](tmp_path, made)
    before = load("images", data_dir=tmp_path).fingerprint
    image = tmp_path / "train" / "bee" / "00003.png"
    Image.fromarray(255 - made.train_images[3]).save(image)
    assert load("images", data_dir=tmp_path).fingerprint != before


# --- what cannot be used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "images"])
def test_a_directory_that_is_missing_empty_or_something_else(name, tmp_path):
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
def test_truncated_and_missing_official_files(layout, suffix, tiny, writers, tmp_path):
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


def test_a_file_truncated_between_two_records(tiny, writers, tmp_path):
    writers["binary"](tmp_path, tiny)
    file = tmp_path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[: -binary.RECORD_BYTES])
    assert "data_batch_2 holds 9 images but data_batch_1 holds 10: it is truncated" in refuse("cifar10", tmp_path)


@pytest.mark.parametrize("label", [10, 255])
def test_labels_out_of_range(label, tiny, writers, tmp_path):
    tiny.train_labels[12] = label
    writers["binary"](tmp_path, tiny)
    assert f"Image 12 of the training split of {tmp_path} has label {label}" in refuse("cifar10", tmp_path)
    assert "from 0 to 9" in refuse("cifar10", tmp_path, classes=["bird", "cat"])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_the_range_that_parquet_names(label, writers, tmp_path):
    made = make_images()
    made.test_labels[1] = label
    writers["parquet"](tmp_path, made)
    assert f"Image 1 of the test split of {tmp_path} has label {label}" in refuse("images", tmp_path)


def test_an_archive_with_a_wrong_checksum_is_not_read(tiny, write_tiny_archive, tmp_path):
    write_tiny_archive(tmp_path, tiny)
    message = refuse("cifar10", tmp_path)
    assert "cifar-10-binary.tar.gz has the checksum md5:" in message
    assert f"not md5:{binary.CIFAR10.md5}" in message


def test_an_archive_that_is_cut_short_or_holds_something_else(tiny, write_tiny_archive, tmp_path):
    path = write_tiny_archive(tmp_path, tiny)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cannot be read as a \.tar\.gz archive"):
        binary.read_archive(path, hashlib.md5(path.read_bytes()).hexdigest())
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "elsewhere.bin.py")
    with pytest.raises(InputError, match="holds no data_batch_1"):
        binary.read_archive(path, hashlib.md5(path.read_bytes()).hexdigest())


class RunsCode:
    """A pickle of this creates `path` when it is loaded by the ordinary unpickler."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Asks:
    """A pickle of this calls `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_a_pickle_that_tries_to_run_code_is_refused_and_does_not_run(tiny, writers, tmp_path):
    writers["pickled with text keys"](tmp_path / "data", tiny)
    trace = tmp_path / "it-ran"
    file = next(tmp_path.rglob("data_batch_4"))
    file.write_bytes(pickle.dumps({"data": RunsCode(trace), "labels": []}))
    message = refuse("cifar10", tmp_path / "data")
    assert "data_batch_4 is a pickle that asks for " in message
    assert "it was not run" in message
    assert not trace.exists()
    pickle.loads(file.read_bytes())  # noqa: S301  # and the ordinary unpickler does run it: the test can fail
    assert trace.exists()


@pytest.mark.parametrize("function", [eval, getattr, print, __import__, np.fromfile, np.load, Path])
def test_no_global_but_the_stand_ins_is_reachable(function, tiny, writers, tmp_path):
    writers["pickled with text keys"](tmp_path, tiny)
    next(tmp_path.rglob("test_batch")).write_bytes(pickle.dumps(Asks(function, "1")))
    assert f".{function.__name__}, which image data does not need" in refuse("cifar10", tmp_path)


def test_no_stand_in_is_the_real_thing():
    assert all(value.__module__ == "normscope.data.layouts.pickled" for value in STAND_INS.values())


@pytest.mark.parametrize(
    "content",
    [
        ["no", "dictionary"],
        {"labels": [1]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [1]},
        {"data": np.zeros((1, 3072), np.float32), "labels": [1]},
        {"data": np.zeros((1, 384), np.float64), "labels": [1]},
        {"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), "labels": [1, 2]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [-1]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]},
        {"data": np.full((1, 3072), None), "labels": [1]},
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_other_things(content, protocol, tiny, writers, tmp_path):
    writers["pickled with text keys"](tmp_path, tiny)
    next(tmp_path.rglob("data_batch_1")).write_bytes(pickle.dumps(content, protocol=protocol))
    assert "data_batch_1 " in refuse("cifar10", tmp_path)


def test_parquet_with_other_columns(tmp_path):
    from pyarrow import parquet, table

    for split in ("train", "test"):
        parquet.write_table(table({"picture": [b""], "label": [0]}), tmp_path / f"{split}.parquet")
    message = refuse("images", tmp_path)
    assert "has the columns picture, label; expected an image column (image or img) and a label column" in message


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
    for split, cells, labels in (("train", [good, cell], [0, label]), ("test", [good, good], [0, 1])):
        parquet.write_table(table({"image": cells, "label": labels}), tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match=message):
        load("images", data_dir=tmp_path)


def _png(size: tuple[int, int] = (4, 3), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "png")
    return buffer.getvalue()


def test_truncated_parquet_and_missing_parts(writers, tmp_path):
    writers["parquet"](tmp_path, make_images())
    train = tmp_path / "train-00000-of-00001.parquet"
    whole = train.read_bytes()
    train.write_bytes(whole[:-100])
    assert f"{train} is truncated, damaged, or no parquet file" in refuse("images", tmp_path)
    train.write_bytes(b"")
    assert f"{train} is truncated, damaged, or no parquet file" in refuse("images", tmp_path)
    train.write_bytes(whole)
    part = train.rename(tmp_path / "train-00000-of-00002.parquet")
    assert "train-00000-of-00002.parquet says that there are 2 such files; 1 are there" in refuse("images", tmp_path)
    part.unlink()
    assert "needs parquet files named train* and test*" in refuse("images", tmp_path)


def test_damaged_bytes_inside_a_parquet_file_are_an_input_error_wherever_they_are(writers, tmp_path):
    writers["parquet"](tmp_path, make_images())
    train = tmp_path / "train-00000-of-00001.parquet"
    whole = bytearray(train.read_bytes())
    for position in range(8, len(whole), len(whole) // 25):
        damaged = whole.copy()
        damaged[position : position + 24] = bytes(24)
        train.write_bytes(damaged)
        with contextlib.suppress(InputError):  # any other error fails the test
            load("images", data_dir=tmp_path)


def test_an_image_that_is_no_image_or_is_truncated_is_named(writers, tmp_path):
    writers["folders"](tmp_path, make_images())
    image = tmp_path / "train" / "cat" / "00007.png"
    whole = image.read_bytes()
    for content in (b"no image", b"", whole[:60], whole[:-60]):
        image.write_bytes(content)
        assert f"{image} is damaged, or is no image" in refuse("images", tmp_path)


def test_images_of_several_sizes_and_of_more_than_8_bits(writers, tmp_path):
    writers["folders"](tmp_path, make_images())
    image = tmp_path / "train" / "cat" / "00007.png"
    image.write_bytes(_png((9, 5)))
    first = tmp_path / "train" / "ant" / "00000.png"
    message = refuse("images", tmp_path)
    assert f"{image} is 9x5 pixels but {first} is 7x5: all images must have the same size" in message
    image.write_bytes(_png((7, 5), "I;16"))
    assert f"{image} has more than 8 bits a channel" in refuse("images", tmp_path)


def test_class_folders_that_do_not_fit(writers, tmp_path):
    writers["folders"](tmp_path, make_images())
    assert "has a folder for the class 'ant'. Known: airplane" in refuse("cifar10", tmp_path)
    (tmp_path / "test" / "dog").mkdir()
    assert "has a folder for the class 'dog'. Known: ant, bee, cat." in refuse("images", tmp_path)
    shutil.rmtree(tmp_path / "test" / "dog")
    for path in (tmp_path / "train" / "bee").iterdir():
        path.unlink()
    assert f"The class folder {tmp_path / 'train' / 'bee'} holds no images" in refuse("images", tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert "has class folders in train/ but none in test/" in refuse("images", tmp_path)


def test_a_single_class_is_not_enough(writers, tmp_path):
    writers["folders"](tmp_path, make_images())
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            shutil.rmtree(tmp_path / split / name)
    assert "needs at least 2 classes" in refuse("images", tmp_path)


def test_other_images_are_not_taken_for_cifar10(writers, tmp_path):
    writers["parquet"](tmp_path, make_images())
    message = refuse("cifar10", tmp_path)
    assert "5x7x3 images of ant, bee, cat" in message
    assert "use the data 'images'" in message
