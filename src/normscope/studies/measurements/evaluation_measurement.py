"""Accuracies of the trained network: by statistics of several kinds, and on corrupted images."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.data.dataset import Dataset
from normscope.mend.recalibrate import recalibrate
from normscope.models.network import Network
from normscope.records.explanation import ORDERS, Forgotten
from normscope.studies.grid import batches_for
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec
from normscope.training.precision import autocast, repeatable

BATCH_SIZES = (1, 2, 8, 128)
REPEATS = 5
MAX_IMAGES = 1000
"""Test images at most, drawn once: a batch size of 1 takes a forward pass for each."""


class AccuracyMeter:
    """Measures accuracies on test images, of a copy with its buffers restored each time."""

    def __init__(self, model: Network, dataset: Dataset, spec: RunSpec):
        self._device = torch.device(spec.device)
        self._precision = spec.precision
        self._model = copy.deepcopy(model).to(self._device)
        self._model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: as in training
        self._buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        self.images, self.labels = _test_images(dataset, spec, self._device)
        self.values_per_image = self._fewest_values_per_image()

    @torch.inference_mode()
    def _accuracy(self, order: Tensor, batch_size: int) -> float:
        """Share of images classified right in the mode that the network is in."""
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        for part in order.split(batch_size):
            logits = self._forward(self.images[part])
            correct += (logits.argmax(1) == self.labels[part]).sum()
        return int(correct) / len(order)

    def pass_without_eval(self, order: Tensor, batch_size: int) -> tuple[float, float]:
        """Accuracy in train mode, then in eval mode with the running statistics left behind."""
        return self.accuracy_without_eval(order, batch_size), self.eval_accuracy()

    def accuracy_without_eval(self, order: Tensor, batch_size: int) -> float:
        """Accuracy in train mode, over the images in this order; running statistics move."""
        self._restore()
        self._model.train()
        return self._accuracy(order, batch_size)

    def recalibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replace the running statistics until the next pass without eval."""
        with repeatable(self._device.type), autocast(self._precision, self._device.type):
            recalibrate(self._model, batches, limit=None)

    def eval_accuracy(self) -> float:
        """Accuracy in eval mode, with the running statistics as they are."""
        self._model.eval()
        return self._accuracy(torch.arange(len(self.labels), device=self._device), max(BATCH_SIZES))

    def sizes(self, *more: int) -> tuple[int, ...]:
        """Return the batch sizes to try, in order: BATCH_SIZES, some more, and all images at once.

        What is lost with all at once is not the noise of a batch: the images are not augmented, as
        those of the training were, so that their statistics differ from the training's.
        """
        return tuple(sorted({*BATCH_SIZES, *more, len(self.labels)}))

    def refuses(self, batch_size: int) -> bool:
        """Return whether PyTorch refuses such a pass: some batch has one value per channel."""
        last = len(self.labels) % batch_size or batch_size
        return min(last, batch_size) * self.values_per_image == 1

    def _forward(self, images: Tensor) -> Tensor:
        with repeatable(self._device.type), autocast(self._precision, self._device.type):
            return self._model(images.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def _restore(self) -> None:
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._buffers[name])

    @torch.no_grad()
    def _fewest_values_per_image(self) -> int:
        """Positions (H x W) of the smallest map that a batch normalization is given."""
        sizes: list[int] = []

        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            sizes.append(given[0][0, 0].numel())

        with ExitStack() as hooks:
            for module in self._model.modules():
                if isinstance(module, _BatchNorm):
                    hooks.enter_context(module.register_forward_pre_hook(note))
            self._model.eval()
            self._forward(self.images[:1])
        return min(sizes)


def accuracies_without_eval(
    model: Network,
    dataset: Dataset,
    spec: RunSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Forgotten:
    """Test accuracy in eval mode, and in train mode by batch size and order.

    Every accuracy is taken over REPEATS drawn orders of the images, at batch size 1 over the first
    alone, on at most MAX_IMAGES test images. Neither the model nor its buffers are touched.
    `progress` is told the passes that are done and their number.
    """
    subject = AccuracyMeter(model, dataset, spec)
    eval_accuracy = subject.eval_accuracy()
    sizes = subject.sizes()
    during = np.full((len(ORDERS), len(sizes), REPEATS), np.nan)
    afterwards = during.copy()
    labels = subject.labels.cpu()
    for done, (place, order) in enumerate(_orders(labels, spec.seed)):
        for column, batch_size in enumerate(sizes):
            # alone in its batch an image meets no other, so its order is tried once, for what it
            # leaves behind
            if not subject.refuses(batch_size) and (batch_size > 1 or place[1] == 0):
                cell = (place[0], column, place[1])
                during[cell], afterwards[cell] = subject.pass_without_eval(
                    order.to(subject.labels.device), batch_size
                )
        progress(done + 1, len(ORDERS) * REPEATS)
    return Forgotten(len(labels), eval_accuracy, sizes, during, afterwards)


def _orders(labels: Tensor, seed: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield ((index into ORDERS, repeat), order of the images): random, and sorted by class."""
    for repeat in range(REPEATS):
        shuffled = torch.from_numpy(np.random.default_rng([seed, repeat]).permutation(len(labels)))
        for place, name in enumerate(ORDERS):
            by_class = shuffled[labels[shuffled].argsort(stable=True)]
            yield (place, repeat), by_class if name == "class-ordered" else shuffled


def _test_images(dataset: Dataset, spec: RunSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return normalized test images [T, C, H, W] and labels [T]: all, or MAX_IMAGES drawn."""
    count = len(dataset.test_labels)
    drawn = np.sort(np.random.default_rng([spec.seed, 0]).permutation(count)[:MAX_IMAGES])
    part = dataclasses.replace(
        dataset, test_images=dataset.test_images[drawn], test_labels=dataset.test_labels[drawn]
    )
    batches = batches_for(part, spec, device, batch_size=max(BATCH_SIZES), augmented=False)
    images, labels = zip(*batches.test(), strict=True)
    return torch.cat(images), torch.cat(labels)


BATCHES, BATCH_SIZE = 16, 128
"""Training batches for new running statistics, and their size, whatever that of the training is."""


def is_batch_normalized(spec: RunSpec) -> bool:
    """Return whether the norm has statistics of a batch and running ones."""
    return spec.norm in ("batch", "noisy-batch", "ghost-batch")


def evaluation(context: RunContext) -> Arrays:
    """Accuracies as fractions of the same test images (1,000 at most), float64.

    - "running" [1]: in eval mode, with the running statistics of the training.
    - "recalibrated" [1]: the same with statistics of 16 training batches of 128, augmented as in
      training.
    - "batch" [sizes]: without eval(), over one random order of the images in batches of "size"
      (int64 [sizes]); the run's own batch size is among them, and all images at once. NaN where
      a batch would have one value in a channel.
    """
    spec = context.spec
    network = AccuracyMeter(context.trained(), context.dataset, spec)
    sizes = network.sizes(spec.batch_size)
    order = torch.from_numpy(np.random.default_rng([spec.seed, 1]).permutation(len(network.labels)))
    running = network.eval_accuracy()
    network.recalibrate(context.whole_batches(BATCHES, BATCH_SIZE))
    recalibrated = network.eval_accuracy()
    batch = np.full(len(sizes), np.nan)
    for index, size in enumerate(sizes):
        context.progress((index + 1) / (len(sizes) + 1))
        if not network.refuses(size):
            batch[index] = network.accuracy_without_eval(order.to(network.labels.device), size)
    return {
        "running": np.array([running]),
        "recalibrated": np.array([recalibrated]),
        "batch": batch,
        "size": np.array(sizes),
    }


NOISE = 1.0
"""Standard deviation of the Gaussian noise on normalized images: as much as the images have."""

LARGE, SMALL = 128, 8


def corruption(context: RunContext) -> Arrays:
    """Accuracies as fractions of the same test images (1,000 at most) with Gaussian noise, float64
    [1] each.

    - "running": in eval mode.
    - "batch", "small": without eval(), over one random order of the images, in batches of 128 and
      of 8.
    - "one_class": the same in batches of 128 of images sorted by class.
    """
    spec = context.spec
    network = AccuracyMeter(context.trained(), context.dataset, spec)
    generator = torch.Generator().manual_seed(spec.seed)
    noise = torch.empty(network.images.shape).normal_(0, NOISE, generator=generator)
    network.images = network.images + noise.to(network.images)
    labels = network.labels.cpu()
    shuffled = torch.from_numpy(np.random.default_rng([spec.seed, 1]).permutation(len(labels)))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    tried = {"batch": (shuffled, LARGE), "small": (shuffled, SMALL), "one_class": (by_class, LARGE)}
    found = {"running": network.eval_accuracy()}
    for name, (order, size) in tried.items():
        refused = network.refuses(size)
        order = order.to(network.labels.device)
        found[name] = np.nan if refused else network.accuracy_without_eval(order, size)
    return {name: np.array([value]) for name, value in found.items()}
