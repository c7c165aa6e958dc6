"""Whether weight decay is a learning rate that rises, for the weights of a run's network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.studies.measurements.run_context import Arrays, RunContext

STEPS, BATCH_SIZE = 40, 64
SHRINKING = 0.99
"""Factor of decay on the weights in a step: 1 - rate x decay."""


def decay_as_rate(context: RunContext) -> Arrays:
    """Train the run's network from its start three times for STEPS steps of plain SGD on the same
    batches, in float64: with decay on its convolutions, without but with a rate for them that
    rises, and with neither. "unexplained" and "moved" as in `records.measurements`.
    """
    batches = [
        batch
        for epoch in range(1, STEPS + 1)
        for batch in islice(context.batches(BATCH_SIZE).train(context.spec.seed, epoch), STEPS)
    ][:STEPS]
    start, rate = context.fresh(), context.spec.learning_rate
    decayed = directions(start, batches, rate, shrinking=SHRINKING)
    raised = directions(start, batches, rate, rising=lambda step: SHRINKING ** -(2 * step + 1))
    constant = directions(start, batches, rate)
    return {"unexplained": _apart(decayed, raised), "moved": _apart(decayed, constant)}


def directions(
    start: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    rate: float,
    shrinking: float = 1.0,
    rising: Callable[[int], float] = lambda step: 1.0,
) -> list[Tensor]:
    """Return the weights of a network's convolutions after plain SGD, each at length 1.

    Args:
        start: the network, which is copied.
        batches: a step on each.
        rate: of all parameters.
        shrinking: factor on the convolutions' weights in every step.
        rising: factor on the convolutions' rate in a step, counted from 0.
    """
    model = copy.deepcopy(start).double().train()
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    chosen = {id(weight) for weight in weights}
    parameters = [p for p in model.parameters() if p.requires_grad]
    for step, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images.double()), labels)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                scaled = id(parameter) in chosen
                parameter.mul_(shrinking if scaled else 1.0)
                parameter.sub_(gradient, alpha=rate * (rising(step) if scaled else 1.0))
    return [(weight / weight.norm()).detach() for weight in weights]


def _apart(first: list[Tensor], second: list[Tensor]) -> np.ndarray:
    return np.array([float((a - b).norm()) for a, b in zip(first, second, strict=True)])
