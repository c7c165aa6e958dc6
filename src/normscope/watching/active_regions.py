"""The activation behind a layer, and the share of its inputs at which gradients pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F

from normscope.errors import lookup
from normscope.user_models.batch_reader import tensors_in
from normscope.watching.fused_nodes import is_fused

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

# {autograd's name: ours}
_ACTIVATIONS = {f"{name.title().replace('_', '')}Backward0": name for name in FUNCTIONS}

# The regions that the blog post names: [0, 1] for ReLU, [-1, 1] for sigmoid and tanh.
NAMED_REGIONS = {"relu": (0.0, 1.0), "sigmoid": (-1.0, 1.0), "tanh": (-1.0, 1.0)}


def followers(output: Any, nodes: Mapping[str, Node]) -> dict[str, tuple[str, list[str]]]:
    """Return {layer: (activation, operations between)} of layers whose output an activation uses.

    Reads the graph that autograd made of a real forward, from its output back to the layers, and
    then from each layer forward to its consumers, through residual additions, reshapes, dropout and
    max pooling, which are named. The graph ends at checkpointing and custom functions.

    Args:
        output: what the model returned: a tensor, or tensors in tuples, lists and mappings.
        nodes: `grad_fn` of each layer's output.
    """
    roots = [tensor.grad_fn for tensor in tensors_in(output)]
    consumers = _consumers([node for node in roots if node is not None])
    activations = {layer: _first_activation(node, consumers) for layer, node in nodes.items()}
    return {layer: found for layer, found in activations.items() if found is not None}


def _consumers(roots: list[Node]) -> dict[Node, list[Node]]:
    """Return {node: the nodes that consume its output} of the graph beneath the roots."""
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
    """Return the nearest activation behind a node, and the operations on the way."""
    if is_fused(node) and node.relu:
        return "relu", ["addition"] if node.has_residual else []
    waiting: deque[tuple[Any, list[str]]] = deque([(node, [])])
    visited = {node}
    while waiting:
        at, via = waiting.popleft()
        for consumer in consumers.get(at, ()):
            name = consumer.name()
            if name in _ACTIVATIONS:
                return _ACTIVATIONS[name], via
            fused = is_fused(consumer) and consumer.has_residual and consumer.relu
            if fused and consumer.next_functions[1][0] is at:
                return "relu", [*via, "addition"]
            if name in _PASSED and consumer not in visited:
                visited.add(consumer)
                waiting.append((consumer, [*via, _PASSED[name]] if _PASSED[name] else via))
    return None


def derivative(activation: str, values: Tensor) -> Tensor:
    """Return the activation's derivative at each value; at its kinks, autograd's."""
    function = lookup("activation", activation, FUNCTIONS)
    with torch.enable_grad():
        points = values.detach().clone().requires_grad_()
        return torch.autograd.grad(function(points).sum(), points)[0]


def mean_derivative(activation: str, values: Tensor) -> Tensor:
    """Return the mean of its derivative, a scalar: the share of a gradient that passes it."""
    return derivative(activation, values).mean()


def in_named_region(activation: str, values: Tensor) -> Tensor:
    """Return the fraction of values in the blog's active region, ends included: [0, 1] for ReLU,
    [-1, 1] for sigmoid and tanh.
    """
    low, high = lookup("activation with a named region", activation, NAMED_REGIONS)
    return ((values >= low) & (values <= high)).float().mean()


def in_active_region(activation: str, values: Tensor, share: float = 0.1) -> Tensor:
    """Return the fraction of values at which the derivative is above a share of its largest."""
    limit = share * largest_derivative(activation)
    return (derivative(activation, values).abs() > limit).float().mean()


def largest_derivative(activation: str) -> float:
    """Return the supremum of |derivative| on a grid over [-20, 20] with 0 and every kink."""
    grid = torch.linspace(-20.0, 20.0, 40001, dtype=torch.float64)
    return float(derivative(activation, grid).abs().max())
