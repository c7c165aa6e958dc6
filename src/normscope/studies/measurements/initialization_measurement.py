"""What a normalization does before the first step: through depth, and to the scale of weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from normscope.measuring.depth import through_depth
from normscope.models.norms import NORMS, resolve_norm
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec

BATCH_SIZE = 128


def is_of_vectors(spec: RunSpec) -> bool:
    """Return whether the norm is one of ours, and can normalize maps of one value."""
    return spec.norm in NORMS and spec.norm != "instance"


def initialization(context: RunContext) -> Arrays:
    """Measure on the first batch of the run's seed, without augmentation, on the CPU.

    - "gradient", "rank": as of `measuring.depth`, in a deep network of its own with the run's norm.
    - "cosine": |cosine| of each convolution's weight and its gradient in the run's own network, in
      fp32, train mode; float64 [convolutions].
    """
    images, labels = next(iter(context.batches(BATCH_SIZE).train(context.spec.seed, 1)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(context.spec.seed)
        generator = torch.Generator().manual_seed(context.spec.seed)
        found = through_depth(images.flatten(1), resolve_norm(context.spec.norm), generator)
    model = context.fresh().train()
    F.cross_entropy(model(images), labels).backward()
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    cosines = [F.cosine_similarity(w.flatten(), w.grad.flatten(), 0) for w in weights]  # type: ignore[union-attr]
    return {**found, "cosine": np.abs([float(cosine.detach()) for cosine in cosines])}


def weight_growth(context: RunContext) -> Arrays:
    """Norm of each convolution's weight after the training over that before it, "growth", float64
    [convolutions].
    """
    start, end = (
        [m.weight.detach().double().norm() for m in model.modules() if isinstance(m, nn.Conv2d)]
        for model in (context.fresh(), context.trained())
    )
    return {"growth": np.array([float(b / a) for a, b in zip(start, end, strict=True)])}
