"""The number of dimensions of a traced value, where the operations before it fix that."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

# Modules and functions whose output has as many dimensions as their input.
KEEPING = ("activation", "batchnorm", "conv", "dropout", "linear", "pooling")
ELEMENTWISE = {
    F.relu, torch.relu, F.gelu, F.silu, F.leaky_relu, F.hardtanh, F.relu6, F.dropout,
    torch.sigmoid, torch.tanh, "relu", "sigmoid", "tanh", "contiguous", "clone",
}  # fmt: skip
JOINING = {operator.add, operator.mul, operator.sub, torch.add, torch.mul}
REDUCING = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}
FLATTENING = {torch.flatten, "flatten"}


def ranks(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, int]:
    """{node: its number of dimensions} of the nodes for which that is certain."""
    certain: dict[fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [certain.get(source) for source in node.all_input_nodes]
        if node.op == "call_module":
            rank = _of_module(model.get_submodule(str(node.target)), inputs)
        else:
            rank = _of_function(node, inputs)
        if rank is not None:
            certain[node] = rank
    return certain


def _of_module(module: nn.Module, inputs: list[int | None]) -> int | None:
    if isinstance(module, nn.Flatten):
        return 2 if (module.start_dim, module.end_dim) == (1, -1) else None
    for cls, rank in ((nn.BatchNorm2d, 4), (nn.BatchNorm3d, 5)):
        if isinstance(module, cls) and type(module)._check_input_dim is cls._check_input_dim:
            return rank
    keeps = type(module).__module__.removeprefix("torch.nn.modules.") in KEEPING
    return inputs[0] if keeps and len(inputs) == 1 else None


def _of_function(node: fx.Node, inputs: list[int | None]) -> int | None:
    first = inputs[0] if inputs else None
    if node.target in FLATTENING:
        return 2 if _arguments(node, start_dim=0, end_dim=-1) == [1, -1] else None
    if node.target in ELEMENTWISE:
        return first
    if node.target in JOINING:
        certain = [rank for rank in inputs if rank is not None]
        return max(certain) if certain and len(certain) == len(inputs) else None
    if node.target in REDUCING and first is not None and len(inputs) == 1:
        dims, keep = _arguments(node, dim=None, keepdim=False)
        count = len(dims) if isinstance(dims, tuple | list) else 1
        return None if dims is None else first - (0 if keep else count)
    if node.op == "call_method" and node.target in ("view", "reshape"):
        shape: Any = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
        return len(shape) if len(shape) > 1 else None
    return None


def _arguments(node: fx.Node, **defaults: Any) -> list[Any]:
    """The arguments behind the tensor, by position or by name."""
    positional = dict(zip(defaults, node.args[1:], strict=False))
    return [positional.get(name, node.kwargs.get(name, value)) for name, value in defaults.items()]
