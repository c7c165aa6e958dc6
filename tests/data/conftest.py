"""One tiny data set with the classes of CIFAR-10, and how it is written in every layout that can be
read.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normscope.data.dataset import Splits
from normscope.data.layouts import binary
from normscope.data.sources import load
from normscope.errors import InputError

Writer = Callable[[Path, Splits], object]


@pytest.fixture
def tiny() -> Splits:
    """50 + 10 images of 32x32x3, sorted by class, so that class folders keep the order of the
    official layouts.
    """
    draw = np.random.default_rng(7)
    train, test = (draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (50, 10))
    return Splits(binary.CLASSES, train, np.repeat(np.arange(10), 5), test, np.arange(10))


def official_batches(splits: Splits):
    """(name, images [N, 3072], labels) of the six official files."""
    for number in range(5):
        part = slice(10 * number, 10 * number + 10)
        yield binary.TRAIN[number], splits.train_images[part], splits.train_labels[part]
    yield binary.TEST, splits.test_images, splits.test_labels


def rows(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def binary_file(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), rows(images)], axis=1).tobytes()


def write_binary(directory: Path, splits: Splits) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, images, labels in official_batches(splits):
        (directory / f"{name}.bin").write_bytes(binary_file(images, labels))


def write_binary_in_its_folder(directory: Path, splits: Splits) -> None:
    write_binary(directory / "cifar-10-batches-bin", splits)


def write_archive(directory: Path, splits: Splits) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, images, labels in official_batches(splits):
            content = binary_file(images, labels)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_pickled(
    directory: Path, splits: Splits, protocol: int = 2, keys: Callable = str.encode
) -> None:
    folder = directory / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, images, labels in official_batches(splits):
        content = {
            keys("data"): rows(images),
            keys("labels"): labels.tolist(),
            keys("batch_label"): keys(name),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "png")
    return buffer.getvalue()


def write_folders(directory: Path, splits: Splits, test_name: str = "test") -> None:
    halves = (
        (splits.train_images, splits.train_labels, "train"),
        (splits.test_images, splits.test_labels, test_name),
    )
    for images, labels, split in halves:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = directory / split / splits.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:05d}.png").write_bytes(png(image))


def write_parquet(
    directory: Path,
    splits: Splits,
    columns: tuple[str, str] = ("img", "label"),
    named: bool = True,
    bare: bool = False,
    test_name: str = "test",
    strings: bool = False,
) -> None:
    """`named`: class names in the metadata; `bare`: bytes instead of a struct; `strings`: names for
    labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True, exist_ok=True)
    feature = {"_type": "ClassLabel", "names": list(splits.classes)}
    metadata = (
        {"huggingface": json.dumps({"info": {"features": {columns[1]: feature}}})}
        if named
        else None
    )
    halves = (
        (splits.train_images, splits.train_labels, "train"),
        (splits.test_images, splits.test_labels, test_name),
    )
    for images, labels, split in halves:
        encoded = [png(image) for image in images]
        cells = encoded if bare else [{"bytes": data, "path": None} for data in encoded]
        values = [splits.classes[label] for label in labels] if strings else labels.tolist()
        table = pa.table({columns[0]: cells, columns[1]: values}).replace_schema_metadata(metadata)
        pq.write_table(table, directory / f"{split}-00000-of-00001.parquet", row_group_size=20)


@pytest.fixture
def writers() -> dict[str, Writer]:
    """Every way to write `tiny` that needs no checksum, by name."""
    return {
        "binary": write_binary,
        "binary in its folder": write_binary_in_its_folder,
        "pickled by Python 2's rules": write_pickled,
        "pickled with text keys": lambda d, s: write_pickled(d, s, 4, str),
        "pickled by the newest protocol": lambda d, s: write_pickled(d, s, 5, str),
        "folders": write_folders,
        "parquet": write_parquet,
        "parquet, image": lambda d, s: write_parquet(d, s, ("image", "label")),
        "parquet without names": lambda d, s: write_parquet(d, s, named=False),
        "parquet, bytes and names": lambda d, s: write_parquet(
            d, s, bare=True, named=False, strings=True
        ),
        "parquet in a folder": lambda d, s: write_parquet(d / "plain_text", s),
    }


@pytest.fixture
def write_tiny_archive() -> Callable[[Path, Splits], Path]:
    """Writes the official archive with `tiny` in it; gives its path."""
    return write_archive


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache folder that nothing else uses."""
    monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def refuse() -> Callable[..., str]:
    """Loads what cannot be loaded; gives the message of the InputError: one line, of a length that
    can be read.
    """

    def refuse(name: str, data_dir: Path, **options) -> str:
        with pytest.raises(InputError) as caught:
            load(name, data_dir=data_dir, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        return message

    return refuse


@pytest.fixture
def make_images() -> Callable[..., Splits]:
    """Images of the user's own: three classes, not square, in one or three channels."""

    def make(channels: int = 3) -> Splits:
        draw = np.random.default_rng(3)
        train, test = (
            draw.integers(0, 256, (count, 5, 7, channels), dtype=np.uint8) for count in (9, 3)
        )
        return Splits(("ant", "bee", "cat"), train, np.repeat(np.arange(3), 3), test, np.arange(3))

    return make
