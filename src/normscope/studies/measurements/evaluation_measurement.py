"""Test accuracy of the trained network with running, recalibrated and batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec
from normscope.studies.train_mode_evaluation import AccuracyMeter

BATCHES, BATCH_SIZE = 16, 128
"""Training batches for new running statistics, and their size, whatever that of the training is."""


def is_batch_normalized(spec: RunSpec) -> bool:
    """Return whether the norm has statistics of a batch and running ones."""
    return spec.norm in ("batch", "noisy-batch")


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
    network.recalibrate(_training_batches(context))
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


def _training_batches(context: RunContext) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches, epoch after epoch."""
    batches = context.batches(BATCH_SIZE, augmented=True)
    size = min(BATCH_SIZE, len(context.dataset.train_labels))
    epochs = (batches.train(context.spec.seed, epoch) for epoch in range(1, BATCHES + 1))
    return islice((batch for epoch in epochs for batch in epoch if len(batch[1]) == size), BATCHES)
