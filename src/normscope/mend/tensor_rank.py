"""How many dimensions a traced value has, where the operations before it fix that."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

FIXED = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
# Modules and functions whose output has as many dimensions as their input.
KEEPING = tuple(
    f"torch.nn.modules.{name}"
    for name in ("activation", "batchnorm", "conv", "dropout", "linear", "pooling")
)
ELEMENTWISE = {F.relu, torch.relu, F.gelu, F.silu, F.leaky_relu, F.hardtanh, F.relu6, F.dropout,
               torch.sigmoid, torch.tanh, "relu", "sigmoid", "tanh", "contiguous", "clone"}  # fmt: skip
JOINING = {operator.add, operator.mul, operator.sub, torch.add, torch.mul}
REDUCING = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}
FLATTENING = {torch.flatten, "flatten"}


def ranks(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, int]:
    """{node: its number of dimensions} of the nodes for which that is certain."""
    known: dict[fx.Node, int] = {}
    for node in graph.nodes:
        inputs = [known.get(source) for source in node.all_input_nodes]
        if node.op == "call_module":
            rank = _of_module(model.get_submodule(str(node.target)), inputs)
        else:
            rank = _of_function(node, inputs)
        if rank is not None:
            known[node] = rank
    return known


def _of_module(module: nn.Module, inputs: list[int | None]) -> int | None:
    if isinstance(module, nn.Flatten):
        return 2 if (module.start_dim, module.end_dim) == (1, -1) else None
    for cls, rank in FIXED.items():
        checks = getattr(type(module), "_check_input_dim", None)
        if isinstance(module, cls) and checks is cls._check_input_dim:
            return rank
    keeps = type(module).__module__ in KEEPING or isinstance(module, nn.Identity)
    return inputs[0] if keeps and len(inputs) == 1 else None


def _of_function(node: fx.Node, inputs: list[int | None]) -> int | None:
    if node.target in FLATTENING:
        return 2 if _arguments(node, ("start_dim", "end_dim"), (0, -1)) == (1, -1) else None
    if node.target in ELEMENTWISE and inputs:
        return inputs[0]
    if node.target in JOINING and inputs and None not in inputs:
        return max(rank for rank in inputs if rank is not None)
    if node.target in REDUCING and len(inputs) == 1 and inputs[0] is not None:
        dims, keep = _arguments(node, ("dim", "keepdim"), (None, False))
        count = len(dims) if isinstance(dims, tuple | list) else 1
        return None if dims is None else inputs[0] - (0 if keep else count)
    if node.target in ("view", "reshape") and node.op == "call_method":
        shape = node.args[1:]
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return len(shape) if len(shape) > 1 else None  # type: ignore[arg-type]
    return None


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments behind the tensor, by position or by name."""
    positional = dict(zip(names, node.args[1:], strict=False))
    return tuple(
        positional.get(name, node.kwargs.get(name, default))
        for name, default in zip(names, defaults, strict=True)
    )
