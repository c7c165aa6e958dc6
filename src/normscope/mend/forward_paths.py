"""The ways that a forward takes through convolutions, linear and batch normalization layers."""

from __future__ import annotations

import builtins
import copy
import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from normscope.errors import InputError
from normscope.mend.tensor_rank import ranks

WEIGHTED = (_ConvNd, nn.Linear)
FOLLOWED = (*WEIGHTED, _BatchNorm)
MAX_PATHS = 32
_isinstance = isinstance
ERRORS = (ValueError, RuntimeError, AssertionError, NotImplementedError)
SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "layout", "is_cuda"}
SHAPE_METHODS = {"size", "dim", "ndimension", "numel"}


class UntraceableError(InputError):
    """The forward cannot be followed without inputs."""


@dataclass
class Path:
    """What one way through a forward does with the layers that are followed, each by its name.

    Attributes:
        calls: how often each layer is called.
        sources: {normalization: the convolution or linear layer whose output it gets}.
        ranks: {normalization: the number of dimensions of what it gets}, where that is known.
        others: {convolution or linear layer: how often its output is read, but for the
            normalization behind it}.
        read: layers with a weight or statistic that is read elsewhere than in their own forward.
    """

    calls: Counter[str] = field(default_factory=Counter)
    sources: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    read: set[str] = field(default_factory=set)


def followed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} of the layers that a path tells about, each once."""
    return {name: m for name, m in model.named_modules() if isinstance(m, FOLLOWED)}


def tensor_owners(model: nn.Module) -> dict[int, set[str]]:
    """{id of a parameter or buffer: the followed layers that hold it}."""
    owners: dict[int, set[str]] = {}
    for name, layer in followed_layers(model).items():
        for tensor in (*layer.parameters(), *layer.buffers()):
            owners.setdefault(id(tensor), set()).add(name)
    return owners


def traced_paths(model: nn.Module) -> list[Path]:
    """Every way through the model's forward, by symbolic tracing without inputs.

    Optional arguments of the forward keep their defaults.

    Raises:
        UntraceableError: if the forward cannot be traced, or has more than 32 ways.
    """
    owners = tensor_owners(model)
    return [_path(tracer, owners) for tracer in trace_all(model)]


def trace_all(model: nn.Module) -> Iterator[BranchTracer]:
    """Trace the model once for each way through its branches; those that end in an error are left
    out. Each is traced on a copy with the same tensors, for a forward may keep what it computes.

    Raises:
        UntraceableError: as `traced_paths`.
    """
    decisions: list[bool] = []
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for _ in range(MAX_PATHS):
        tracer = BranchTracer(copy.deepcopy(model, dict(tensors)), decisions)
        if tracer.finishes():
            yield tracer
        decisions = tracer.decisions
        while decisions and not decisions[-1]:
            decisions.pop()
        if not decisions:
            return
        decisions[-1] = False
    raise UntraceableError(f"its forward has more than {MAX_PATHS} ways through its branches")


def _isinstance_of_tensors(value: Any, classes: Any) -> bool:
    """isinstance, but a traced value is a tensor for whoever asks, except for PyTorch's own code.

    Without it a forward that asks would be traced along a way that it never takes. (A `__class__`
    of the traced value's own would do, but PyTorch's C++ code believes it and crashes.)
    """
    if type(value) is fx.Proxy:
        asks = sys._getframe(1).f_globals.get("__name__", "")
        if not asks.startswith("torch."):
            return _isinstance(torch.empty(0), classes)
    return _isinstance(value, classes)


class BranchTracer(fx.Tracer):
    """Traces one way: the first branches as decided, every later one as if its condition held.

    Attributes:
        decisions: of every branch that depends on the inputs, in order.
        graph: what was traced.
        hooked: the nodes that hooks of modules around the followed layers get to see.
    """

    def __init__(self, model: nn.Module, decisions: list[bool]):
        super().__init__()
        self.proxy_buffer_attributes = True
        self.model, self.decisions, self._next = model, list(decisions), 0
        self.hooked: set[fx.Node] = set()

    def finishes(self) -> bool:
        """Trace; False if this way ends in an error of the model's.

        Raises:
            UntraceableError: if it cannot be traced.
        """
        parameters = inspect.signature(self.model.forward).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        try:
            with (
                mock.patch.object(builtins, "isinstance", _isinstance_of_tensors),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of defaults that the graph does not check
                self.graph = self.trace(self.model, defaults or None)
        except Exception as error:  # whatever the model's code does with a traced value
            if self.decisions and isinstance(error, ERRORS) and not _raised_by_fx(error):
                return False
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UntraceableError(f"its forward cannot be traced ({reason})") from error
        return True

    def to_bool(self, obj: fx.Proxy) -> bool:
        if self._next == len(self.decisions):
            if self._next == MAX_PATHS:
                raise TraceError(f"more than {MAX_PATHS} branches")
            self.decisions.append(True)
        self._next += 1
        return self.decisions[self._next - 1]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, FOLLOWED):
            return True
        changed = "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks
        return not changed and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if (m._forward_hooks or m._forward_pre_hooks) and not isinstance(m, FOLLOWED):
            map_aggregate(
                (args, kwargs, result),
                lambda value: self.hooked.add(value.node) if isinstance(value, fx.Proxy) else None,
            )
        return result


def _raised_by_fx(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, TraceError) or module.startswith("torch.fx")


def _path(tracer: BranchTracer, owners: dict[int, set[str]]) -> Path:
    path, model = Path(), tracer.model
    layers = followed_layers(model)
    known_ranks = ranks(tracer.graph, model)
    for node in tracer.graph.nodes:
        if node.op == "get_attr":
            path.read |= owners.get(id(attribute(model, str(node.target))), set())
        name = str(node.target)
        if node.op != "call_module" or name not in layers:
            continue
        path.calls[name] += 1
        readers = set(readers_of(node))
        if isinstance(layers[name], _BatchNorm):
            source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
            if source is not None and source.op == "call_module":
                weighted = str(source.target)
                if isinstance(layers.get(weighted), WEIGHTED):
                    path.sources[name] = weighted
            if source in known_ranks:
                path.ranks[name] = known_ranks[source]
        else:
            path.others[name] += len([r for r in readers if not _is_norm(r, layers)])
            path.others[name] += max(len([r for r in readers if _is_norm(r, layers)]) - 1, 0)
            path.others[name] += node in tracer.hooked
    return path


def readers_of(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that read a node's values; its shape and type do not count."""
    for user in node.users:
        asks_shape = (user.target is getattr and user.args[1] in SHAPE_ATTRIBUTES) or (
            user.op == "call_method" and user.target in SHAPE_METHODS
        )
        if not asks_shape:
            yield user


def _is_norm(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(layers.get(str(node.target)), _BatchNorm)


def attribute(model: nn.Module, target: str) -> Any:
    """The value of a dotted name; None if there is none."""
    value: Any = model
    for name in target.split("."):
        value = getattr(value, name, None)
    return value
