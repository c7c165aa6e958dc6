"""What feeds and what follows each normalization layer, read off one real forward.

Every torch function that the forward calls becomes a node that knows which nodes made its inputs; a normalization
layer is one node whatever it does inside. Nothing is compiled or exported, so any model that runs can be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.records.examination import Place

CONVOLUTIONS = {f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)} | {"convolution"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
NORMS = {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm"}
POOLS = {f"{k}_pool{d}d" for k in ("avg", "max", "adaptive_avg", "adaptive_max", "lp") for d in (1, 2, 3)}
ACTIVATIONS = {
    "relu", "relu_", "relu6", "gelu", "silu", "elu", "elu_", "selu", "celu", "leaky_relu", "leaky_relu_", "prelu",
    "hardswish", "hardtanh", "hardtanh_", "hardsigmoid", "mish", "softplus", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "rrelu", "threshold", "clamp", "clamp_", "glu", "softmax", "log_softmax", "logsigmoid", "softsign",
}  # fmt: skip
SAME_AXES = {"contiguous", "to", "float", "half", "bfloat16", "double", "type", "clone", "detach", "type_as", "alias"}
OTHER_AXES = {
    "reshape", "view", "flatten", "transpose", "permute", "movedim", "unsqueeze", "squeeze", "__getitem__", "chunk",
    "split", "unbind", "expand", "swapaxes", "unflatten", "T", "mT", "select", "narrow", "view_as", "pixel_shuffle",
}  # fmt: skip
KINDS: dict[str, str] = {
    **dict.fromkeys(CONVOLUTIONS, "conv"), **dict.fromkeys(DROPOUTS, "dropout"), **dict.fromkeys(NORMS, "norm"),
    **dict.fromkeys(POOLS, "pool"), **dict.fromkeys(ACTIVATIONS, "activation"), **dict.fromkeys(SAME_AXES, "view"),
    **dict.fromkeys(OTHER_AXES, "axes"), "linear": "linear", "addmm": "linear", "bilinear": "linear",
    "matmul": "matmul", "mm": "matmul", "bmm": "matmul", "einsum": "matmul", "__matmul__": "matmul",
    "embedding": "embedding", "embedding_bag": "embedding", "lstm": "recurrent", "gru": "recurrent",
    "scaled_dot_product_attention": "attention", "multi_head_attention_forward": "attention",
    "add": "add", "add_": "add", "__add__": "add", "__radd__": "add", "__iadd__": "add", "cat": "cat", "stack": "cat",
    "mul": "multiply", "mul_": "multiply", "__mul__": "multiply", "__rmul__": "multiply", "div": "multiply",
    "mean": "mean", "sum": "mean",
}  # fmt: skip
WEIGHTED = {"conv", "linear", "matmul", "embedding", "recurrent", "attention", "norm"}
FEATURES_LAST = {"linear", "embedding", "recurrent", "attention"}


@dataclass(eq=False)
class Node:
    """One operation of the forward."""

    kind: str
    module: str
    inputs: tuple[Node, ...] = ()
    readers: list[Node] = field(default_factory=list)
    bias: bool = False
    p: float = 0.0  # of a dropout
    whole: bool = False  # a pool over all positions


@dataclass
class Trace:
    """What one forward showed."""

    places: dict[str, Place]
    batch_norm_calls: tuple[str, ...]  # where F.batch_norm(training=True) ran outside the known layers


@torch.no_grad()
def trace(forward: Callable[[], Any], model: nn.Module, layers: dict[str, nn.Module], inputs: list[Tensor]) -> Trace:
    """Run one forward and say where each layer stands. `inputs` are the tensors that the model is called with."""
    recorder = _Recorder(layers, inputs)
    with _hooked(model, recorder), recorder:
        forward()
    shapes = recorder.shapes
    places = {name: _place(name, nodes, shapes[name], recorder) for name, nodes in recorder.layer_nodes.items()}
    return Trace(places, tuple(dict.fromkeys(recorder.batch_norm_calls)))


class _Recorder(TorchFunctionMode):
    """Builds the nodes while it is active."""

    def __init__(self, layers: dict[str, nn.Module], inputs: list[Tensor]):
        super().__init__()
        self.names = {id(module): name for name, module in layers.items()}
        self.layers = layers
        self.made: dict[int, Node] = {id(tensor): Node("input", "") for tensor in inputs}
        self.alive: list[Tensor] = list(inputs)  # an id is only unique among living objects
        self.stack: list[str] = []
        self.open: list[tuple[str, tuple[Node, ...]]] = []  # normalization layers that are running
        self.layer_nodes: dict[str, list[Node]] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self.batch_norm_calls: list[str] = []
        self.called: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _name(func)
        if self.open:
            return result
        if name in ("batch_norm", "_native_batch_norm_legit", "native_batch_norm") and _batch_norm_trains(args, kwargs):
            self.batch_norm_calls.append(self.stack[-1] if self.stack else "")
        outputs = list(_tensors(result))
        if outputs:
            self.add(_node(name, self.stack[-1] if self.stack else "", args, kwargs), (args, kwargs), outputs)
        return result

    def add(self, node: Node, inputs: Any, outputs: list[Tensor]) -> None:
        """Enter a node between the tensors that it read and those that it made."""
        node.inputs = self.nodes_of(inputs)
        for source in node.inputs:
            source.readers.append(node)
        for tensor in outputs:
            self.made[id(tensor)] = node
            self.alive.append(tensor)

    def nodes_of(self, value: Any) -> tuple[Node, ...]:
        return tuple(dict.fromkeys(self.made[id(t)] for t in _tensors(value) if id(t) in self.made))

    def enter(self, module: nn.Module, name: str, args: Any) -> None:
        self.called.add(id(module))
        self.stack.append(name)
        if id(module) in self.names:
            first = next(_tensors(args), None)
            if first is not None:
                self.shapes[name] = (tuple(first.shape), str(first.dtype).removeprefix("torch."))
            self.open.append((name, self.nodes_of(args)))

    def leave(self, module: nn.Module, name: str, args: Any, output: Any) -> None:
        self.stack.pop()
        if id(module) not in self.names:
            return
        self.open.pop()
        if not self.open:
            node = Node("norm", name)
            self.add(node, args, list(_tensors(output)))
            self.layer_nodes.setdefault(name, []).append(node)


@contextmanager
def _hooked(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    handles = []
    known = {id(module): name for name, module in recorder.layers.items()}
    try:
        for name, module in model.named_modules():
            label = known.get(id(module), name)
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, label=label: recorder.enter(m, label, (args, kwargs)), with_kwargs=True
                )
            )
            handles.append(
                module.register_forward_hook(
                    lambda m, args, kwargs, output, label=label: recorder.leave(m, label, (args, kwargs), output),
                    with_kwargs=True,
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(name: str, nodes: list[Node], shape: tuple[tuple[int, ...], str], recorder: _Recorder) -> Place:
    source, sole, moved = _source(nodes[0])
    children = recorder.layers[name].named_modules()
    return Place(
        calls=len(nodes),
        fed_by=source.kind if source else "input",
        fed_by_module=source.module if source else "",
        bias_before=bool(source and source.bias),
        sole_consumer=sole and len(nodes) == 1,
        dropout_before=_largest_dropout(nodes[0]),
        feeds=tuple(dict.fromkeys(reader.kind for node in nodes for reader in _readers(node, ("view", "axes")))),
        added_to_a_shortcut=any(_reaches_addition(node) for node in nodes),
        pooled_next=any(reader.whole for reader in _readers(nodes[0], ("view", "axes"))),
        features_last=bool(source and source.kind in FEATURES_LAST and not moved),
        axes_moved=moved,
        unused_children=tuple(child for child, module in children if child and id(module) not in recorder.called),
        input_shape=shape[0],
        input_dtype=shape[1],
    )


def _source(node: Node) -> tuple[Node | None, bool, bool]:
    """(what made a node's input, behind views; nothing else reads it; axes moved in between)."""
    sole, moved = True, False
    while node.inputs:
        source = node.inputs[0]
        sole &= len(source.readers) == 1
        if source.kind not in ("view", "axes"):
            return source, sole, moved
        moved |= source.kind == "axes"
        node = source
    return None, sole, moved


def _readers(node: Node, through: tuple[str, ...]) -> Iterator[Node]:
    """The first readers of a node's output behind operations of certain kinds."""
    for reader in node.readers:
        if reader.kind in through:
            yield from _readers(reader, through)
        else:
            yield reader


def _largest_dropout(node: Node) -> float:
    """The largest p of a dropout upstream, up to the normalization before."""
    largest, seen, waiting = 0.0, {id(node)}, list(node.inputs)
    while waiting:
        source = waiting.pop()
        if id(source) in seen or source.kind == "norm":
            continue
        seen.add(id(source))
        largest = max(largest, source.p)
        waiting += source.inputs
    return largest


def _reaches_addition(node: Node) -> bool:
    """The output is added to another branch before it passes any weights."""
    seen, waiting = set(), list(node.readers)
    while waiting:
        reader = waiting.pop()
        if id(reader) in seen or reader.kind in WEIGHTED:
            continue
        seen.add(id(reader))
        if reader.kind == "add" and len(reader.inputs) > 1:
            return True
        waiting += reader.readers
    return False


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # an attribute such as x.T
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name.split(".")[0]  # an operator with an overload: convolution.default


def _node(name: str, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
    kind = KINDS.get(name, "other")
    node = Node(kind, module)
    if name == "addmm":
        node.bias = True
    elif kind in ("conv", "linear"):
        node.bias = (args[2] if len(args) > 2 else kwargs.get("bias")) is not None
    elif kind == "dropout":
        node.p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    elif kind == "mean" or name.startswith("adaptive_avg_pool"):
        node.kind, node.whole = "pool", _averages_all_positions(name, args, kwargs)
    return node


def _averages_all_positions(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if name == "mean":
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        rank = args[0].ndim
        return rank > 2 and isinstance(dims, tuple | list) and {d % rank for d in dims} == set(range(2, rank))
    size = args[1] if len(args) > 1 else kwargs.get("output_size")
    return size == 1 or (isinstance(size, tuple | list) and all(entry == 1 for entry in size))


def _batch_norm_trains(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """The `training` of F.batch_norm, torch.batch_norm and the operators below, wherever it stands."""
    if "training" in kwargs:
        return bool(kwargs["training"])
    return any(value is True for value in args[:6])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)
