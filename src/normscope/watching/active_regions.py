"""The activation behind a layer, from the graph that autograd made."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch.autograd.graph import Node

from normscope.user_models.batch_reader import tensors_in
from normscope.watching.tensor_statistics import is_fused

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

FUNCTIONS = (
    "relu", "sigmoid", "tanh", "gelu", "silu", "leaky_relu", "elu", "hardtanh", "softplus",
    "hardswish",
)  # fmt: skip
# {autograd's name: ours}
_ACTIVATIONS = {f"{name.title().replace('_', '')}Backward0": name for name in FUNCTIONS}


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
