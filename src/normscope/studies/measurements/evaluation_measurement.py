"""Test accuracy of the trained network, by statistics of several kinds, and on corrupted images."""

from __future__ import annotations

import numpy as np
import torch

from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec
from normscope.studies.train_mode_evaluation import AccuracyMeter

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
