"""The loss along the direction of steepest descent, at points on the way of a run's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.measuring.loss_landscape import Descent, Landscape, Start
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.training.loop import Callback

POINTS = 12
"""Points of the training, beside the one before the first step: evenly spread, the last at the end.
"""

RATES = (0.5, 1.0, 2.0, 4.0)
"""Distances of the paper's kind: gradient descent steps at these multiples of the run's rate."""

SHARES = (0.001, 0.003, 0.01, 0.03)
"""Distances that do not depend on the gradient: in l2 norms of the weights."""


def landscape(context: RunContext) -> Arrays:
    """Loss and gradient along the negative gradient, in train mode, float64 [points of the
    training, distances].

    "planned" is the number of points that a training has which does not diverge.

    The run is trained once more in fp32 on the CPU. The batch is the same at all points and
    distances: the first of the run's size in the order of its seed, without augmentation; the arms
    of a seed have the same images.
    """
    model = context.fresh()
    batch = next(iter(context.batches().train(context.spec.seed, 1)))
    looking = _Looking(context, model, batch)
    context.retrain(model, looking)
    return looking.arrays()


class _Looking(Callback):
    """Evaluates the loss around the weights, before the first step and after some."""

    def __init__(self, context: RunContext, model: nn.Module, batch: tuple[Tensor, Tensor]):
        self._model, self._batch, self._rate = model, batch, context.spec.learning_rate
        self._steps_of_epoch = context.batches().train_batches
        total = self._steps_of_epoch * context.spec.epochs
        self._wanted = {round(total * point / POINTS) for point in range(POINTS + 1)}
        self._steps: list[int] = []
        self._starts: list[Start] = []
        self._lines: dict[str, list[Descent]] = {"rate": [], "relative": []}

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model.train()
        self._look(0)

    def on_step(self, epoch: int, index: int) -> None:
        step = (epoch - 1) * self._steps_of_epoch + index + 1
        if step in self._wanted:
            self._look(step)

    def arrays(self) -> Arrays:
        """Return the measurements as they stand in the record."""
        starts = {
            name: [getattr(start, name) for start in self._starts]
            for name in ("loss", "gradient", "weights")
        }
        lines = {
            f"{kind}_{name}": [getattr(line, name) for line in found]
            for kind, found in self._lines.items()
            for name in ("distances", "losses", "changes")
        }
        columns: dict[str, list[Any]] = {
            "step": self._steps,
            "planned": [len(self._wanted)],
            **starts,
            **lines,
        }
        return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}

    def _look(self, step: int) -> None:
        around = Landscape(self._model, self._loss)
        start = around.start
        self._steps.append(step)
        self._starts.append(start)
        self._lines["rate"].append(
            around.descend([rate * self._rate * start.gradient for rate in RATES])
        )
        self._lines["relative"].append(around.descend([share * start.weights for share in SHARES]))

    def _loss(self, network: Callable[..., Tensor]) -> Tensor:
        images, labels = self._batch
        return F.cross_entropy(network(images), labels)
