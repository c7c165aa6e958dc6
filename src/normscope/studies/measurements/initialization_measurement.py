"""What a normalization does to gradients, variances and weights, before and in the first steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.models.norms import NORMS, resolve_norm
from normscope.models.residual_blocks import BLOCKS, Block
from normscope.studies.capture import tapped
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec

BATCH_SIZE = 128


def is_of_vectors(spec: RunSpec) -> bool:
    """Return whether the norm is one of ours, and can normalize maps of one value."""
    return spec.norm in NORMS and spec.norm != "instance"


def initialization(context: RunContext) -> Arrays:
    """Measure on the first batch of the run's seed, without augmentation, on the CPU.

    - "gradient", "rank": as of `through_depth`, in a deep network of its own with the run's norm.
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
    """Norm of convolutions' weights after the training over that before: "growth", float64."""
    start, end = (
        [m.weight.detach().double().norm() for m in model.modules() if isinstance(m, nn.Conv2d)]
        for model in (context.fresh(), context.trained())
    )
    return {"growth": np.array([float(b / a) for a, b in zip(start, end, strict=True)])}


DEPTH, WIDTH = 40, 256


@torch.enable_grad()
def through_depth(
    x: Tensor, norm: Callable[[int], nn.Module], generator: torch.Generator
) -> dict[str, np.ndarray]:
    """Send vectors and a random gradient through DEPTH layers of linear map, norm and ReLU, in
    train mode and float64.

    Weights are drawn as He et al. 2015 do, biases are 0.

    Args:
        x: the vectors, [N, D]; the first map takes them to WIDTH units.
        norm: makes the normalization of so many channels, for [N, C, 1, 1].
        generator: of the weights and of the gradient at the end.

    Returns:
        "gradient", the l2 norm of the gradient at each layer's output, and "rank", the
        participation ratio of the hidden vectors there: (sum of eigenvalues)^2 over the sum of
        their squares, of the matrix of inner products, 1 where all vectors are parallel. float64
        [DEPTH] each, from the input on.
    """
    hidden, outputs = x.double()[:, :, None, None], []
    for _ in range(DEPTH):
        width = hidden.shape[1]
        weight = torch.empty(WIDTH, width, dtype=torch.float64)
        weight.normal_(0, math.sqrt(2 / width), generator=generator)
        hidden = nn.functional.conv2d(hidden, weight[:, :, None, None].requires_grad_())
        hidden = torch.relu(norm(WIDTH).double().train()(hidden))
        hidden.retain_grad()
        outputs.append(hidden)
    direction = torch.empty_like(hidden).normal_(generator=generator)
    (hidden * direction).sum().backward()
    return {
        "gradient": np.array([float(_gradient(output).norm()) for output in outputs]),
        "rank": np.array([_participation(output.detach().flatten(1)) for output in outputs]),
    }


def _gradient(output: Tensor) -> Tensor:
    assert output.grad is not None
    return output.grad


def _participation(vectors: Tensor) -> float:
    products = vectors @ vectors.T
    return float(products.trace() ** 2 / products.square().sum())


PROPAGATED_BATCHES = 3


def has_paths(spec: RunSpec) -> bool:
    """Return whether blocks end with the addition, so that their output shows both paths."""
    return spec.block in BLOCKS and BLOCKS[spec.block].branch_end is not None


def propagation(context: RunContext) -> Arrays:
    """Variances of skip and branch of every residual block before the first step, in fp32 on the
    CPU, in train mode.

    Blocks in which something follows the addition have no such paths, and are left out.
    """
    model = context.fresh()
    blocks: Blocks = {
        name: (module, module.get_submodule(module.branch_end))
        for name, module in model.named_modules()
        if isinstance(module, Block) and module.branch_end is not None
    }
    batches = context.batches(BATCH_SIZE).train(context.spec.seed, 1)
    images = (images for images, _ in islice(batches, PROPAGATED_BATCHES))
    return path_variances(model.train(), images, blocks)


Blocks = Mapping[str, tuple[nn.Module, nn.Module]]
"""{name: (block, the module inside whose output is its branch)}, in the order of the forward pass.
The block's output is the branch plus the skip, with nothing after the addition.
"""


@torch.no_grad()
def path_variances(
    forward: Callable[[Tensor], object], batches: Iterable[Tensor], blocks: Blocks
) -> dict[str, np.ndarray]:
    """Return {"skip", "branch"}: variances, float64 [blocks], the mean over channels and batches.

    A channel's variance is over the images and positions of a batch (De & Smith 2020, section 2).
    The caller decides the mode of the network; in train mode running statistics move.
    """
    taps = {
        f"{end}:{name}": (module, "output")
        for name, ends in blocks.items()
        for end, module in zip("yb", ends, strict=True)
    }
    sums = {"skip": np.zeros(len(blocks)), "branch": np.zeros(len(blocks))}
    count = 0
    with tapped(taps) as tensors:
        for images in batches:
            forward(images)
            count += 1
            for index, name in enumerate(blocks):
                branch = tensors[f"b:{name}"].double()
                sums["branch"][index] += _map_variance(branch)
                sums["skip"][index] += _map_variance(tensors[f"y:{name}"].double() - branch)
            tensors.clear()
    return {path: total / max(count, 1) for path, total in sums.items()}


def _map_variance(x: Tensor) -> float:
    """Mean over channels of the variance of (N, C, H, W) in each."""
    return float(x.var(dim=(0, 2, 3), correction=0).mean())


DECAY_STEPS, DECAY_BATCH_SIZE = 40, 64
SHRINKING = 0.99
"""Factor of decay on the weights in a step: 1 - rate x decay."""


def decay_as_rate(context: RunContext) -> Arrays:
    """Train the run's network from its start three times for some steps of plain SGD on the same
    batches, in float64: with decay on its convolutions, without but with a rate for them that
    rises, and with neither. "unexplained" and "moved" as in `records.measurements`.
    """
    seed, in_batches = context.spec.seed, context.batches(DECAY_BATCH_SIZE)
    every = (in_batches.train(seed, epoch) for epoch in range(1, DECAY_STEPS + 1))
    batches = list(islice(chain.from_iterable(every), DECAY_STEPS))
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
