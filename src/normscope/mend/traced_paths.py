"""Every way through a forward, by symbolic tracing without inputs."""

from __future__ import annotations

import copy
import inspect
import linecache
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.fx.proxy import TraceError
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from normscope.errors import InputError
from normscope.mend.forward_paths import Path, followed_layers, plain_values, tensor_owners
from normscope.mend.tensor_rank import ranks

MAX_PATHS = 32
TRACING = threading.Lock()  # torch.fx patches nn.Module while it traces
ERRORS = (ValueError, RuntimeError, AssertionError, NotImplementedError)
SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "layout", "is_cuda"}
SHAPE_METHODS = {"size", "dim", "ndimension", "numel"}


class UntraceableError(InputError):
    """The forward cannot be followed without inputs."""


def traced_paths(model: nn.Module, whole: Collection[str] = ()) -> list[Path]:
    """Every way through the model's forward, by symbolic tracing without inputs.

    Optional arguments of the forward keep their defaults. `whole` names further modules that are
    one operation, whatever is in them.

    Raises:
        UntraceableError: if the forward cannot be traced, or has more than 32 ways.
    """
    owners = tensor_owners(model)
    return [_path(tracer, owners) for tracer in trace_all(model, whole)]


def operations(model: nn.Module, whole: Collection[str]) -> list[list[tuple[str, str]]] | None:
    """Return the operations of every way, to compare two models by; None if untraceable."""
    try:
        return [path.operations for path in traced_paths(model, whole)]
    except UntraceableError:
        return None


def trace_all(model: nn.Module, whole: Collection[str] = ()) -> Iterator[BranchTracer]:
    """Trace the model once for each way through its branches; those that end in an error are left
    out. Each is traced on a copy with the same tensors, for a forward may keep what it computes.

    Raises:
        UntraceableError: as `traced_paths`.
    """
    decisions: list[bool] = []
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for _ in range(MAX_PATHS):
        tracer = BranchTracer(copy.deepcopy(model, dict(tensors)), decisions, whole)
        if tracer.finishes():
            yield tracer
        decisions = tracer.decisions
        while decisions and not decisions[-1]:
            decisions.pop()
        if not decisions:
            return
        decisions[-1] = False
    raise UntraceableError(f"its forward has more than {MAX_PATHS} ways through its branches")


class _Proxy(fx.Proxy):
    """A traced value that is a tensor for a model that asks by isinstance.

    Otherwise a forward that asks would be traced along a way that it never takes. Nobody else may
    believe it: PyTorch's C++ code, which asks too, would crash.
    """

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        frame = sys._getframe(1)
        code = frame.f_code
        if not frame.f_globals.get("__name__", "").startswith("torch."):
            line = linecache.getline(code.co_filename, frame.f_lineno)  # empty without a source
            if "isinstance" in code.co_names and "isinstance" in (line or "isinstance"):
                return torch.Tensor
        return _Proxy


class BranchTracer(fx.Tracer):
    """Traces one way: the first branches as decided, every later one as if its condition held.

    Attributes:
        decisions: of every branch that depends on the inputs, in order.
        graph: what was traced.
        kept: the nodes that hooks of modules around the followed layers get to see, or attributes
            hold afterwards.
        read: ids of the parameters that the forward itself computes with.
    """

    def __init__(self, model: nn.Module, decisions: list[bool], whole: Collection[str] = ()):
        super().__init__()
        self.proxy_buffer_attributes = True
        self.model, self.decisions, self._next = model, list(decisions), 0
        self.kept: set[fx.Node] = set()
        self.read: set[int] = set()
        self._whole = frozenset(whole)
        self.layers = followed_layers(model)
        self._followed = set(self.layers.values())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def finishes(self) -> bool:
        """Trace; False if this way ends in an error of the model's.

        Raises:
            UntraceableError: if it cannot be traced.
        """
        parameters = inspect.signature(self.model.forward).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        try:
            with (
                TRACING,
                _Reads(self.read),
                self._asking_for_the_grad_mode(),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of defaults that the graph does not check
                self.graph = self.trace(self.model, defaults or None)
        except Exception as error:  # whatever the model's code does with a traced value
            if self.decisions and isinstance(error, ERRORS) and not _raised_by_fx(error):
                return False
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UntraceableError(f"its forward cannot be traced ({reason})") from error
        held = (value for module in self.model.modules() for value in plain_values(module))
        self.kept |= {value.node for value in held if isinstance(value, fx.Proxy)}
        return True

    @contextmanager
    def _asking_for_the_grad_mode(self) -> Iterator[None]:
        """Make a forward's `torch.is_grad_enabled()` a branch, the same one at each call."""
        original, answers = torch.is_grad_enabled, []

        def asked() -> bool:
            if sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):
                return original()
            if not answers:
                answers.append(self._decide())
            return answers[0]

        torch.is_grad_enabled = asked
        try:
            yield
        finally:
            torch.is_grad_enabled = original

    def _decide(self) -> bool:
        if self._next == len(self.decisions):
            if self._next == MAX_PATHS:
                raise TraceError(f"more than {MAX_PATHS} branches")
            self.decisions.append(True)
        self._next += 1
        return self.decisions[self._next - 1]

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self._decide()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self._followed or module_qualified_name in self._whole:
            return True
        changed = "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks
        return not changed and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if (m._forward_hooks or m._forward_pre_hooks) and m not in self._followed:
            map_aggregate(
                (args, kwargs, result),
                lambda value: self.kept.add(value.node) if isinstance(value, fx.Proxy) else None,
            )
        return result


class _Reads(TorchFunctionMode):
    """Collects the ids of parameters that are computed with; the traced values are none."""

    def __init__(self, read: set[int]):
        super().__init__()
        self._read = read

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") != "__get__":  # shape, dtype and the like
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, nn.Parameter):
                    self._read.add(id(value))
        return func(*args, **(kwargs or {}))


def _raised_by_fx(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, TraceError) or module.startswith("torch.fx")


def _path(tracer: BranchTracer, owners: dict[int, set[str]]) -> Path:
    path, model, layers = Path(), tracer.model, tracer.layers
    known_ranks = ranks(tracer.graph, model)
    for parameter in tracer.read:
        path.read |= owners.get(parameter, set())
    for node in tracer.graph.nodes:
        target = node.target if isinstance(node.target, str) else node.target.__name__
        path.operations.append((node.op, target))
        if node.op == "get_attr":
            path.read |= owners.get(id(attrgetter(str(node.target))(model)), set())
        name = str(node.target)
        if node.op == "call_module" and name not in layers:
            path.read |= _inside(model.get_submodule(name), layers)
        if node.op != "call_module" or name not in layers:
            continue
        path.calls[name] += 1
        if len(node.args) + len(node.kwargs) != 1 or set(node.kwargs) - {"input"}:
            path.argued.add(name)
        if layers[name].training:
            path.trained.add(name)
        for reader in set(readers_of(node)):
            layer = reader.op == "call_module" and str(reader.target) in layers
            if layer and len(reader.all_input_nodes) == 1:
                path.edges[name, str(reader.target)] += 1
            else:
                path.others[name] += 1
        path.others[name] += node in tracer.kept
        if len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in known_ranks:
            path.ranks[name] = known_ranks[node.all_input_nodes[0]]
    return path


def _inside(module: nn.Module, layers: dict[str, nn.Module]) -> set[str]:
    """The layers inside a module that is called as a whole: one of PyTorch's, as
    MultiheadAttention, reads their weights itself.
    """
    inner = set(module.modules())
    return {name for name, layer in layers.items() if layer in inner}


def readers_of(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that read a node's values; its shape and type do not count."""
    for user in node.users:
        asks_shape = (user.target is getattr and user.args[1] in SHAPE_ATTRIBUTES) or (
            user.op == "call_method" and user.target in SHAPE_METHODS
        )
        if not asks_shape:
            yield user
