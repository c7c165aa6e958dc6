"""What the forward of a subclass does around PyTorch's operation, by tracing it."""

from __future__ import annotations

import copy
import inspect

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.mend.forward_paths import UntraceableError, attribute, readers_of, trace_all

SIGNATURE = inspect.signature(F.batch_norm)
CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, F.linear}
STATE = ("running_mean", "running_var", "weight", "bias")


def behind_normalization(norm: _BatchNorm) -> nn.Module | str:
    """The part of an eval-mode forward behind the normalization, as a module, or why it cannot be
    told.

    It can be told where the traced forward normalizes its input, once, with the layer's own
    statistics, weight, bias and eps, by torch's function.
    """
    try:
        tracers = list(trace_all(norm))
    except UntraceableError as error:
        return str(error)
    if len(tracers) != 1:
        return "that depends on the input"
    graph = tracers[0].graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    calls = [node for node in graph.nodes if node.target in (F.batch_norm, torch.batch_norm)]
    if len(calls) != 1 or not _normalizes(norm, calls[0], inputs[0]):
        return "that is not F.batch_norm with the layer's own statistics and weights"
    normalized = calls[0]
    normalized.replace_all_uses_with(inputs[0])
    graph.erase_node(normalized)
    behind = fx.GraphModule(tracers[0].model, graph, f"{type(norm).__name__}WithoutNormalization")
    behind.graph.eliminate_dead_code()
    if any(node.op == "get_attr" and _is_state(norm, node) for node in behind.graph.nodes):
        return "that reads its statistics or weights again"
    behind.recompile()
    behind.delete_all_unused_submodules()
    return behind.eval()


def ends_in_own_weights(layer: nn.Module) -> bool:
    """Whether the forward of a convolution or linear layer's subclass, whatever it does before,
    ends in torch's function with the layer's own weight and bias, as padding to the same size does.
    """
    try:
        graphs = [tracer.graph for tracer in trace_all(layer)]
    except UntraceableError:
        return False
    return bool(graphs) and all(_ends_in_own_weights(layer, graph) for graph in graphs)


def _ends_in_own_weights(layer: nn.Module, graph: fx.Graph) -> bool:
    last = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(last, fx.Node) or last.target not in CONVOLUTIONS:
        return False
    for position, name in ((1, "weight"), (2, "bias")):
        value = last.args[position] if len(last.args) > position else last.kwargs.get(name)
        tensor = attribute(layer, str(value.target)) if isinstance(value, fx.Node) else value
        if tensor is not getattr(layer, name):
            return False
    states = [n for n in graph.nodes if n.op == "get_attr"]
    return all(reader is last for node in states for reader in readers_of(node))


def evaluates_frozen(norm: nn.Module) -> bool | None:
    """Whether a forward in eval mode leaves the statistics alone; None if tracing cannot tell."""
    norm = copy.deepcopy(norm).eval()
    try:
        calls = [
            node
            for tracer in trace_all(norm)
            for node in tracer.graph.nodes
            if node.target is F.batch_norm
        ]
    except UntraceableError:
        return None
    return not any(_arguments(node)["training"] for node in calls) if calls else None


def _normalizes(norm: _BatchNorm, call: fx.Node, source: fx.Node) -> bool:
    """Whether the call normalizes the input as the layer in eval mode would."""
    if call.target is not F.batch_norm:
        return False
    arguments = _arguments(call)
    own = all(
        arguments[name] is None
        if (value := getattr(norm, name)) is None
        else isinstance(arguments[name], fx.Node)
        and attribute(norm, str(arguments[name].target)) is value
        for name in STATE
    )
    return (
        own
        and arguments["input"] is source
        and not arguments["training"]
        and arguments["eps"] == norm.eps
        and list(readers_of(source)) == [call]
    )


def _is_state(norm: _BatchNorm, node: fx.Node) -> bool:
    value = attribute(norm, str(node.target))
    return value is not None and any(value is getattr(norm, name) for name in STATE)


def _arguments(call: fx.Node) -> dict:
    bound = SIGNATURE.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments
