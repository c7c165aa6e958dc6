"""The loss along the direction of steepest descent, at points on the way of a run's training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.training.loop import Callback
from normscope.user_models.state_guard import preserve_state

POINTS = 12
"""Points of the training, evenly spread to its end, beside the one before the first step."""

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
        total = context.spec.iterations or self._steps_of_epoch * context.spec.epochs
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


Parameters = Mapping[str, Tensor]

Loss = Callable[[Callable[..., Tensor]], Tensor]
"""Given the network as a function of its inputs, the loss on one fixed batch, 0-dim."""


@dataclass(frozen=True, eq=False)
class Descent:
    """The points on one line, float64 [points] each; NaN or infinite where the loss is not finite.

    Attributes:
        distances: from the start, over all parameters together (l2).
        losses: there.
        changes: l2 distance of the gradient there from the one at the start ("gradient
            predictiveness" of Santurkar et al. 2018, section 3.1: the smaller, the better the
            gradient predicts).
    """

    distances: np.ndarray
    losses: np.ndarray
    changes: np.ndarray


@dataclass(frozen=True)
class Start:
    """Where lines begin.

    Attributes:
        loss: there.
        gradient: l2 norm of the gradient over all parameters.
        weights: l2 norm of the weights of two dimensions and more, those that normalized and other
            networks share.
    """

    loss: float
    gradient: float
    weights: float


class Landscape:
    """The loss of a network on one batch, seen from where its weights are now. Leaves no trace on
    the network.

    Every point is evaluated from the same buffers and random numbers, so that dropout and noise are
    the same along a line; running statistics stay as they were, bit by bit. The network is in the
    mode in which it is found: in train mode, normalization goes by the statistics of the batch. No
    parameter is written: moved copies stand in for them.

    Args:
        model: the network. Its parameters that require gradients are what moves.
        loss: the loss, on a batch that is the same at every call.
    """

    def __init__(self, model: nn.Module, loss: Loss):
        self._model, self._loss = model, loss
        self._at = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        value, self._gradient = self._evaluate(self._at)
        weights = [p for p in self._at.values() if p.ndim > 1]
        self.start = Start(value, _norm(self._gradient), _norm(weights))

    def descend(self, distances: Sequence[float]) -> Descent:
        """Look at the points at these l2 distances from the weights, along the negative gradient.

        Without a gradient there is no direction: losses and changes are NaN.
        """
        found = [self._look(distance) for distance in distances]
        losses, changes = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return Descent(np.array(distances, dtype=np.float64), losses, changes)

    def _look(self, distance: float) -> tuple[float, float]:
        """(loss, change of the gradient) at a distance."""
        if not 0 < self.start.gradient < math.inf:
            return math.nan, math.nan
        factor = distance / self.start.gradient
        moved = {
            name: p - factor * g
            for (name, p), g in zip(self._at.items(), self._gradient, strict=True)
        }
        value, gradient = self._evaluate(moved)
        return value, _norm(
            [
                there.double() - here.double()
                for there, here in zip(gradient, self._gradient, strict=True)
            ]
        )

    def _evaluate(self, parameters: Parameters) -> tuple[float, list[Tensor]]:
        """Loss and gradients, the latter in the order of the parameters."""
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}

        def network(*inputs: Tensor) -> Tensor:
            return functional_call(self._model, leaves, inputs)

        with preserve_state(self._model), torch.enable_grad():
            value = self._loss(network)
            gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        known = zip(leaves.values(), gradients, strict=True)
        return float(value.detach()), [torch.zeros_like(p) if g is None else g for p, g in known]


def _norm(tensors: Sequence[Tensor]) -> float:
    """l2 norm over all of them, in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
