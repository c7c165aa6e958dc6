"""Encoded images (PNG, JPEG, ...) to one uint8 array, by Pillow in threads: it frees the GIL."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice

import numpy as np
from PIL import Image

from normscope.data.cache import Bar
from normscope.errors import InputError
from normscope.records.read_limits import images_budget, refuse_beyond

# Only formats that Pillow reads itself: for PostScript, for example, it would start an interpreter.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GRAYSCALE = frozenset({"1", "L", "LA"})
# more than 8 bits a channel: no faithful uint8
DEEP = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
ONE = 64  # share of the budget that one image may take: eight are decoded at a time
ENCODED = 16  # the same of its file
TASK = 64  # images a thread decodes at a time: small ones take 0.1 ms each
BLOCK = 16 * TASK  # images whose encoded bytes are held at once

Encoded = tuple[str, Callable[[], bytes]]  # what to call an image in an error, and its bytes


def decode(count: int, encoded: Iterable[Encoded], bar: Bar) -> tuple[np.ndarray, bool]:
    """All `count` images as uint8 [N, H, W, 3], and whether every one of them is grayscale.

    Raises:
        InputError: naming the first image that is none, is damaged, has more than 8 bits a channel,
            or differs in size from the first one.
    """
    remaining = iter(encoded)
    first_name, first_bytes = next(remaining)
    first, _ = _decode_one((first_name, first_bytes), None, "")
    refuse_beyond(count * first.size, images_budget(), f"{count:,} images like {first_name}")
    images = np.empty((count, *first.shape), np.uint8)
    grayscale = True
    entries = chain([(first_name, first_bytes)], remaining)

    def decode_task(start: int, task: list[Encoded]) -> bool:
        all_gray = True
        for index, entry in enumerate(task, start):
            images[index], gray = _decode_one(entry, first.shape[:2], first_name)
            all_gray &= gray
        bar.advance(len(task))
        return all_gray

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, count, BLOCK):
            tasks = list(_tasks(islice(entries, BLOCK)))
            starts = range(start, start + BLOCK, TASK)
            grayscale &= all(list(pool.map(decode_task, starts, tasks)))
    return images, grayscale


def format_of(name: str, data: bytes) -> str:
    """The format of an encoded image, "JPEG" for example.

    Raises:
        InputError: naming the image, if it is none.
    """
    with _opened(name, data) as image:
        return str(image.format)


def channels(
    train: tuple[np.ndarray, bool], test: tuple[np.ndarray, bool]
) -> tuple[np.ndarray, np.ndarray]:
    """The images of both splits in the channels they need: one if all are grayscale, else three."""
    if train[1] and test[1]:
        return np.ascontiguousarray(train[0][..., :1]), np.ascontiguousarray(test[0][..., :1])
    return train[0], test[0]


def _tasks(entries: Iterator[Encoded]) -> Iterator[list[Encoded]]:
    while task := list(islice(entries, TASK)):
        yield task


def _decode_one(
    entry: Encoded, size: tuple[int, ...] | None, size_of: str
) -> tuple[np.ndarray, bool]:
    """One image as uint8 [H, W, 3], and if it is grayscale; `size` is (H, W) of `size_of`."""
    name, read = entry
    with _opened(name, read()) as image:
        refuse_beyond(3 * image.width * image.height, images_budget() // ONE, name)
        if size is not None and (image.height, image.width) != size:
            raise InputError(
                f"{name} is {image.width}x{image.height} pixels but {size_of} is "
                f"{size[1]}x{size[0]}: "
                "all images must have the same size; resize them first."
            )
        if image.mode in DEEP:
            raise InputError(
                f"{name} has more than 8 bits a channel; save the images with 8 first."
            )
        return np.asarray(image.convert("RGB")), image.mode in GRAYSCALE


@contextmanager
def _opened(name: str, data: bytes) -> Iterator[Image.Image]:
    """The image behind some bytes; what Pillow's readers raise on damaged ones becomes one line."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is damaged, or is no image ({', '.join(FORMATS)}).") from error
