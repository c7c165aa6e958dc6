"""The cache of decoded images: decoded once, whole or not there, by one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from normscope.data import cache
from normscope.data.cache import cache_directory, cached, checksum
from normscope.data.dataset import Layout, channel_statistics
from normscope.data.device_batches import Batches
from normscope.data.sources import load
from normscope.errors import InputError, StorageError


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_bytes(b"content")
    return path


def make_layout(source: Path, splits, log: Path, seconds: float = 0.0) -> Layout:
    """A layout that appends the process to `log` whenever it is read."""

    def read():
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return splits

    return Layout("made", source, (source / "file",), (), read)


def times_read(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_layout_is_read_once_and_mapped_afterwards(tiny, source, tmp_path):
    layout, log = make_layout(source, tiny, tmp_path / "log"), tmp_path / "log"
    for _ in range(3):
        splits = cached(layout, tmp_path / "cache")
        assert isinstance(splits.train_images, np.memmap)
        assert np.array_equal(splits.train_images, tiny.train_images)
        assert splits.classes == tiny.classes
    assert times_read(log) == 1


def test_writing_to_the_mapped_images_never_reaches_the_file(tiny, source, tmp_path):
    layout = make_layout(source, tiny, tmp_path / "log")
    cached(layout, tmp_path / "cache").train_images[:] = 0
    assert np.array_equal(cached(layout, tmp_path / "cache").train_images, tiny.train_images)


def test_changed_content_is_another_entry_and_touching_is_not(tiny, source):
    layout = make_layout(source, tiny, source / "log")
    before = checksum(layout)
    os.utime(source / "file", (1, 1))
    assert checksum(layout) == before
    assert checksum(replace(layout, phrase="other")) != before
    assert checksum(replace(layout, classes=("a", "b"))) != before
    (source / "file").write_bytes(b"Content")
    assert checksum(layout) != before


def test_many_small_files_are_told_apart_by_size_time_and_place(tiny, source, tmp_path):
    layout = replace(make_layout(source, tiny, tmp_path / "log"), by_content=False)
    before = checksum(layout)
    assert checksum(layout) == before
    elsewhere = tmp_path / "elsewhere"
    source.rename(elsewhere)
    moved = replace(layout, directory=elsewhere, files=(elsewhere / "file",))
    assert checksum(moved) != before
    before = checksum(moved)
    os.utime(elsewhere / "file", ns=(1, 1))
    assert checksum(moved) != before


@pytest.mark.parametrize(
    "damage",
    [
        "cut an array",
        "remove an array",
        "empty an array",
        "cut the description",
        "exchange the labels",
        "rename a class",
        "flip a bit of an image",
    ],
)
def test_a_damaged_entry_is_decoded_again(damage, tiny, source, tmp_path):
    layout, log = make_layout(source, tiny, tmp_path / "log"), tmp_path / "log"
    cached(layout, tmp_path / "cache")
    entry = tmp_path / "cache" / "decoded" / checksum(layout)
    array = entry / "train_images.npy"
    match damage:
        case "cut an array":
            array.write_bytes(array.read_bytes()[:-1])
        case "remove an array":
            array.unlink()
        case "empty an array":
            array.write_bytes(b"")
        case "cut the description":
            (entry / "entry.json").write_text('["a')
        case "exchange the labels":
            labels = np.load(entry / "train_labels.npy")
            np.save(entry / "train_labels.npy", labels[::-1])
        case "rename a class":
            about = json.loads((entry / "entry.json").read_text())
            (entry / "entry.json").write_text(json.dumps(about | {"classes": ["x", "y", "z"]}))
        case "flip a bit of an image":
            content = bytearray(array.read_bytes())
            content[-1] ^= 1
            array.write_bytes(content)
    assert np.array_equal(cached(layout, tmp_path / "cache").train_images, tiny.train_images)
    assert times_read(log) == 2


def test_what_a_killed_process_left_is_cleared_away(tiny, source, tmp_path):
    layout = make_layout(source, tiny, tmp_path / "log")
    entry = tmp_path / "cache" / "decoded" / checksum(layout)
    aside = entry.with_name(entry.name + ".partial")
    aside.mkdir(parents=True)
    (aside / "train_images.npy").write_bytes(b"half")
    cached(layout, tmp_path / "cache")
    assert sorted(path.name for path in entry.parent.iterdir()) == [
        entry.name,
        f"{entry.name}.lock",
    ]


def test_data_that_cannot_be_used_is_not_stored(tiny, source, tmp_path):
    tiny.train_labels[0] = 99
    layout = make_layout(source, tiny, tmp_path / "log")
    with pytest.raises(InputError, match=f"Image 0 of the training split of {source} has label 99"):
        cached(layout, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "decoded").iterdir()] == [".lock"]


def _load_in_process(source, splits, log, cache_dir, barrier, sums) -> None:
    barrier.wait()
    loaded = cached(make_layout(source, splits, log, seconds=0.3), cache_dir)
    sums.put(int(loaded.train_images.sum()))


def test_two_processes_at_once_decode_once_and_see_the_same(tiny, source, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, sums = context.Barrier(2), context.Queue()
    log = tmp_path / "log"
    arguments = (source, tiny, log, tmp_path / "cache", barrier, sums)
    processes = [context.Process(target=_load_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = {sums.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found == {int(tiny.train_images.sum())}
    assert times_read(log) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, source, tmp_path, monkeypatch):
    def full(path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    layout = make_layout(source, tiny, tmp_path / "log")
    with pytest.raises(
        StorageError, match="the disk is full. Set NORMSCOPE_CACHE to a folder with room"
    ) as caught:
        cached(layout, tmp_path / "cache")
    assert caught.value.exit_status == 1
    assert [path.suffix for path in (tmp_path / "cache" / "decoded").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_made_is_one_line(tiny, source, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(
        StorageError, match="Cannot write the image cache .*Not a directory|File exists"
    ):
        cached(make_layout(source, tiny, tmp_path / "log"), tmp_path / "cache")


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "named"))
    assert cache_directory() == tmp_path / "named"
    assert cache_directory(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("NORMSCOPE_CACHE")
    assert cache_directory().name == "normscope"


def test_the_real_images(cifar10_directory):
    """The counts of the notebook, and pixels from which its constants come (JPEG moves them by less
    than 0.002).
    """
    cifar10 = load("cifar10", data_dir=cifar10_directory)
    assert cifar10.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10
    mean, std = channel_statistics(cifar10.train_images)
    assert mean == pytest.approx(cifar10.mean, abs=2e-3)
    assert std == pytest.approx(cifar10.std, abs=2e-3)
    batches = Batches(cifar10, 128, torch.device("cpu"), crop_padding=4, horizontal_flip=True)
    assert (batches.train_batches, batches.test_batches) == (391, 79)
    assert sum(1 for _ in batches.test()) == 79
    shown = [labels for _, labels in batches.train(0, 0)]
    assert len(shown) == 391
    assert len(shown[-1]) == 50_000 - 390 * 128
    assert torch.bincount(torch.cat(shown)).tolist() == [5000] * 10
