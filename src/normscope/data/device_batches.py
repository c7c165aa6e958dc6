"""Batches on the device: whole batches are gathered, cropped, flipped and normalized at once, every
image for itself.

The images go to the device once, as uint8. What an epoch does with them (order, offsets, flips) is
drawn ahead for the whole epoch on the CPU, from the seed and the epoch alone, so it is the same on
every device and an interrupted run that resumes at an epoch needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from normscope.data.dataset import Dataset


@dataclass(frozen=True)
class EpochPlan:
    """The plan of one epoch: entry i is about the i-th image shown. All int64 [N], `flips` bool.

    Attributes:
        order: which image of the training split.
        tops: first row of the crop in the padded image, 0 to twice the padding.
        lefts: first column of the crop in the padded image, 0 to twice the padding.
        flips: whether the crop is mirrored left to right.
    """

    order: Tensor
    tops: Tensor
    lefts: Tensor
    flips: Tensor

    def at(self, rows: Tensor) -> EpochPlan:
        """The entries of these rows, int64 [n]."""
        return EpochPlan(*(entry.index_select(0, rows) for entry in self._entries()))

    def to(self, device: torch.device) -> EpochPlan:
        """The same on a device."""
        return EpochPlan(*(entry.to(device) for entry in self._entries()))

    def copy_(self, other: EpochPlan) -> None:
        """Take over another plan of as many images, in the same memory."""
        for mine, its in zip(self._entries(), other._entries(), strict=True):
            mine.copy_(its)

    def _entries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.order, self.tops, self.lefts, self.flips


def plan_epoch(
    count: int, seed: int, epoch: int, crop_padding: int, horizontal_flip: bool
) -> EpochPlan:
    """Draw one epoch over `count` images, on the CPU.

    Each purpose has its own generator, so the order does not depend on which augmentation is on.
    """
    order = torch.randperm(count, generator=_generator(seed, epoch, "order"))
    offsets = torch.randint(
        2 * crop_padding + 1, (2, count), generator=_generator(seed, epoch, "crop")
    )
    flips = torch.zeros(count, dtype=torch.bool)
    if horizontal_flip:
        flips = torch.randint(2, (count,), generator=_generator(seed, epoch, "flip")).bool()
    return EpochPlan(order, offsets[0], offsets[1], flips)


class Batches:
    """A data set on a device, in batches.

    On the CPU the images stay where they are (possibly memory-mapped, shared between processes);
    elsewhere they are copied once, as uint8.

    Attributes:
        train_batches: batches in an epoch, the last incomplete one among them.
        test_batches: batches in the test split, the last incomplete one among them.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: torch.device,
        *,
        crop_padding: int,
        horizontal_flip: bool,
        pixel_mean: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        largest = max(len(dataset.train_images), len(dataset.test_images))
        self.batch_size = batch_size = min(batch_size, largest)
        self.device = device
        self.crop_padding = crop_padding
        self.horizontal_flip = horizontal_flip
        self.dtype = dtype
        self._train_images = _to_device(dataset.train_images, device)
        self._train_labels = _to_device(dataset.train_labels, device)
        self._test_images = _to_device(dataset.test_images, device)
        self._test_labels = _to_device(dataset.test_labels, device)
        # (pixel / 255 - mean) / std as one multiplication and one addition per pixel. The constants
        # are repeated for a whole row [W, C], as broadcasting over the 3 channels alone would be
        # three times slower on the CPU.
        width = dataset.train_images.shape[2]
        mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
        self._scale, self._shift = (
            torch.tensor(values, dtype=torch.float32, device=device).repeat(width, 1)
            for values in (1 / (255 * std), -mean / std)
        )
        self._mean_image: Tensor | None = None  # float32 [1, H, W, C], 0 to 255
        if pixel_mean:
            image = dataset.train_images.mean(0, dtype=np.float64, keepdims=True)
            self._mean_image = torch.from_numpy(image).float().to(device)
            self._mean_crop = Crop(self._mean_image, batch_size, crop_padding)
            self._shift.zero_()
        self.train_batches = -(-len(self._train_images) // batch_size)
        self.test_batches = -(-len(self._test_images) // batch_size)
        self._slots = torch.arange(batch_size, device=device)
        self._begun: EpochPlan | None = None
        self._crop: Crop | None = None

    unit: ClassVar[str] = "image"
    """What speed counts."""

    def begin(self, seed: int, epoch: int) -> None:
        """Draw an epoch for `train_at`, into memory that stays in place from epoch to epoch."""
        drawn = self._draw(seed, epoch)
        if self._begun is None:
            self._begun, self._crop = drawn.to(self.device), self._new_crop()
        else:
            self._begun.copy_(drawn)

    def train_size(self, index: int) -> int:
        """Images in a training batch."""
        return min(self.batch_size, len(self._train_images) - index * self.batch_size)

    def train_at(self, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A batch of the epoch that was begun, as `train` yields it.

        What is done depends on the size alone, and waits for nothing on the host.

        Args:
            index: the number of the batch in its epoch, int64 [1] on the device.
            size: images in it.
        """
        assert self._begun is not None, "begin an epoch first"
        assert self._crop is not None
        return self._augmented(self._begun.at(self._rows(index, size)), self._crop)

    def test_size(self, index: int) -> int:
        """Images in a test batch."""
        return min(self.batch_size, len(self._test_images) - index * self.batch_size)

    def test_at(self, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A batch of the test split, as `test` yields it, asked for as in `train_at`."""
        rows = self._rows(index, size)
        images = self._seen(self._test_images.index_select(0, rows))
        return images, self._test_labels.index_select(0, rows)

    def train(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every training image once, augmented, in an order that depends on `seed` and `epoch`
        alone.

        Yields:
            images `dtype` [B, C, H, W] in channels_last memory, and labels int64 [B].
        """
        plan, crop = self._draw(seed, epoch).to(self.device), self._new_crop()
        for rows in torch.arange(len(plan.order), device=self.device).split(self.batch_size):
            yield self._augmented(plan.at(rows), crop)

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The test split in its own order, as it is; only the first `limit` batches if that is
        given.

        Yields:
            images `dtype` [B, C, H, W] in channels_last memory, and labels int64 [B].
        """
        batches = self.test_batches if limit is None else min(limit, self.test_batches)
        for start in range(0, batches * self.batch_size, self.batch_size):
            span = slice(start, start + self.batch_size)
            yield self._seen(self._test_images[span]), self._test_labels[span]

    def _draw(self, seed: int, epoch: int) -> EpochPlan:
        return plan_epoch(
            len(self._train_images), seed, epoch, self.crop_padding, self.horizontal_flip
        )

    def _new_crop(self) -> Crop:
        return Crop(
            self._train_images, min(self.batch_size, len(self._train_images)), self.crop_padding
        )

    def _rows(self, index: Tensor, size: int) -> Tensor:
        return index * self.batch_size + self._slots[:size]

    def _augmented(self, shown: EpochPlan, crop: Crop) -> tuple[Tensor, Tensor]:
        images = crop(shown.order, shown.tops, shown.lefts)
        if self._mean_image is not None:  # of the same window, so that padding stays 0
            one = torch.zeros_like(shown.order)
            images = images.float().sub_(self._mean_crop(one, shown.tops, shown.lefts))
        if self.horizontal_flip:
            images = _mirror(images, shown.flips)
        return self._normalize(images), self._train_labels.index_select(0, shown.order)

    def _seen(self, images: Tensor) -> Tensor:
        """Whole images uint8 [B, H, W, C], as the network sees them."""
        return self._normalize(images if self._mean_image is None else images - self._mean_image)

    def _normalize(self, images: Tensor) -> Tensor:
        """[B, H, W, C] -> `dtype` [B, C, H, W], which permuted is channels_last as it is."""
        values = images.to(torch.float32).mul_(self._scale).add_(self._shift)
        return values.to(self.dtype).permute(0, 3, 1, 2)


class TextBatches(Batches):
    """Windows of text as int64 [B, T], their next bytes int64 [B, T]; otherwise as `Batches`."""

    unit = "byte"

    def _normalize(self, images: Tensor) -> Tensor:
        return images.flatten(1).long()


class Crop:
    """Gathers images and cuts one window out of each, in zero padding: a few kernels, however many
    images.

    The batch is copied into the middle of a zeroed buffer [B, H + 2p, W + 2p, C]. A row of a crop
    is W*C consecutive bytes of that buffer, so indexing a view of all its (overlapping) stretches
    of that length, one per pixel, copies whole rows: an index per row, not per pixel.
    """

    def __init__(self, images: Tensor, batch_size: int, padding: int):
        height, width, channels = images.shape[1:]
        self._images = images
        self._padding = padding
        self._shape = (height, width, channels)
        self._buffer = images.new_zeros(
            (batch_size, height + 2 * padding, width + 2 * padding, channels)
        )
        pixels = self._buffer.numel() // channels
        self._stretches = self._buffer.as_strided(
            (pixels - width + 1, width * channels), (channels, 1)
        )
        self._rows = torch.arange(height, device=images.device)
        self._slots = torch.arange(batch_size, device=images.device)

    def __call__(self, order: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
        """Images uint8 [B, H, W, C]: of image `order[i]` the window at (`tops[i]`, `lefts[i]`)."""
        size = len(order)
        height, width, _ = self._shape
        p = self._padding
        self._buffer[:size, p : p + height, p : p + width] = self._images.index_select(0, order)
        padded_height, padded_width = height + 2 * p, width + 2 * p
        rows = (self._slots[:size] * padded_height + tops)[:, None] + self._rows
        starts = rows * padded_width + lefts[:, None]
        return self._stretches[starts.reshape(-1)].view(size, *self._shape)


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror those of images [B, H, W, C] with `flips` [B]; faster than `torch.where`."""
    size = len(images)
    slots = torch.arange(size, device=images.device)
    return torch.cat((images, images.flip(2))).index_select(0, slots + size * flips)


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    digest = hashlib.sha256(f"normscope {purpose} seed={seed} epoch={epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    # torch warns about (and could write to) a read-only array; arrays of ours are writable or copy
    # on write.
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
