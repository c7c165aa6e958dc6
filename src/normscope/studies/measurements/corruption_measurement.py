"""Test accuracy on corrupted images, with running statistics and with those of the batches."""

from __future__ import annotations

import numpy as np
import torch

from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.train_mode_evaluation import AccuracyMeter

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
