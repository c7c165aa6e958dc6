"""Activation regions: which activation follows a layer, and how much of what enters it lies where gradients pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F

from normscope.errors import lookup
from normscope.watching.fused_nodes import is_fused

# What autograd calls an activation -> the name by which this package knows it.
_ACTIVATIONS = {
    "ReluBackward0": "relu",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "LeakyReluBackward0": "leaky_relu",
    "EluBackward0": "elu",
    "HardtanhBackward0": "hardtanh",
    "SoftplusBackward0": "softplus",
    "HardswishBackward0": "hardswish",
}

# Operations between a layer and its activation that the search goes through, by what autograd calls
# them.
_PASSED = {
    "AddBackward0": "addition",
    "ViewBackward0": "",
    "ReshapeAliasBackward0": "",
    "UnsafeViewBackward0": "",
    "CloneBackward0": "",
    "AliasBackward0": "",
    "ToCopyBackward0": "",
    "PermuteBackward0": "",
    "TransposeBackward0": "",
    "NativeDropoutBackward0": "dropout",
    "MaxPool2DWithIndicesBackward0": "max pooling",
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
}

# The regions that the blog post names: [0, 1] for ReLU, [-1, 1] for sigmoid and tanh.
NAMED_REGIONS = {"relu": (0.0, 1.0), "sigmoid": (-1.0, 1.0), "tanh": (-1.0, 1.0)}


def followers(output: Any, nodes: Mapping[str, Node]) -> dict[str, tuple[str, list[str]]]:
    """{layer: (activation, operations between)} for the layers whose output an activation consumes.

    Reads the graph that autograd made of a real forward, from its output back to the layers, and
    then from each layer forward to its consumers. Residual additions, reshapes, dropout and max
    pooling are gone through and named. What lies behind checkpointing or a custom function is not
    seen.

    Args:
        output: what the model returned: a tensor, or tensors in tuples, lists and mappings.
        nodes: `grad_fn` of each layer's output.
    """
    consumers = _consumers(_roots(output))
    found = {}
    for layer, node in nodes.items():
        if (follower := _first_activation(node, consumers)) is not None:
            found[layer] = follower
    return found


def _roots(output: Any) -> list[Node]:
    if isinstance(output, Tensor):
        return [output.grad_fn] if output.grad_fn is not None else []
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return [node for item in output for node in _roots(item)]
    return []


def _consumers(roots: list[Node]) -> dict[Node, list[Node]]:
    """{node: the nodes that consume its output} of the graph beneath the roots."""
    consumers: dict[Node, list[Node]] = {node: [] for node in roots}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        for producer, _ in node.next_functions:
            if producer is None:
                continue
            if producer not in consumers:
                consumers[producer] = []
                waiting.append(producer)
            consumers[producer].append(node)
    return consumers


def _first_activation(node: Any, consumers: dict[Any, list[Any]]) -> tuple[str, list[str]] | None:
    """The nearest activation behind a node, and the operations on the way."""
    if is_fused(node) and node.relu:
        return "relu", ["addition"] if node.has_residual else []
    waiting: deque[tuple[Any, list[str]]] = deque([(node, [])])
    seen = {node}
    while waiting:
        at, via = waiting.popleft()
        for consumer in consumers.get(at, ()):
            name = consumer.name()
            if name in _ACTIVATIONS:
                return _ACTIVATIONS[name], via
            if (
                is_fused(consumer)
                and consumer.has_residual
                and consumer.relu
                and consumer.next_functions[1][0] is at
            ):
                return "relu", [*via, "addition"]
            if name in _PASSED and consumer not in seen:
                seen.add(consumer)
                waiting.append((consumer, [*via, _PASSED[name]] if _PASSED[name] else via))
    return None


def derivative(activation: str, values: Tensor) -> Tensor:
    """The activation's derivative at each value, in the values' own shape. At its kinks, what
    autograd says.
    """
    function = lookup("activation", activation, FUNCTIONS)
    with torch.enable_grad():
        points = values.detach().clone().requires_grad_()
        return torch.autograd.grad(function(points).sum(), points)[0]


def mean_derivative(activation: str, values: Tensor) -> Tensor:
    """The share of a gradient that passes the activation on average: the mean of its derivative, a
    scalar.
    """
    return derivative(activation, values).mean()


def in_named_region(activation: str, values: Tensor) -> Tensor:
    """The fraction of values in the blog's active region, ends included: [0, 1] for ReLU, [-1, 1]
    for sigmoid, tanh.
    """
    low, high = lookup("activation with a named region", activation, NAMED_REGIONS)
    return ((values >= low) & (values <= high)).float().mean()


def in_active_region(activation: str, values: Tensor, share: float = 0.1) -> Tensor:
    """The fraction of values at which the derivative is above a tenth (or another share) of its
    largest.
    """
    return (
        (derivative(activation, values).abs() > share * largest_derivative(activation))
        .float()
        .mean()
    )


def largest_derivative(activation: str) -> float:
    """The supremum of |derivative|, found on a grid over [-20, 20] that contains 0 and every kink."""
    grid = torch.linspace(-20.0, 20.0, 40001, dtype=torch.float64)
    return float(derivative(activation, grid).abs().max())
