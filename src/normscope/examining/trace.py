"""What feeds and what follows each normalization layer, read off one real forward.

Every torch function that the forward calls becomes a node that knows which nodes made its inputs; a normalization
layer is one node whatever it does inside. Nothing is compiled or exported, so any model that runs can be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.examining.features import Features
from normscope.examining.operations import (
    FEATURES_LAST,
    WEIGHTED,
    Node,
    batch_norm_trains,
    name_of,
    node_of,
)
from normscope.records.examination import Place
from normscope.user_models.batch_reader import tensors_in


@dataclass
class Trace:
    """What one forward showed."""

    places: dict[str, Place]
    batch_norm_calls: tuple[
        str, ...
    ]  # where F.batch_norm(training=True) ran outside the known layers


@torch.no_grad()
def trace(
    forward: Callable[[], Any], model: nn.Module, layers: dict[str, nn.Module], inputs: list[Tensor]
) -> Trace:
    """Run one forward and say where each layer stands. `inputs` are the tensors that the model is
    called with.
    """
    recorder = _Recorder(layers, inputs)
    with _hooked(model, recorder), recorder:
        forward()
    shapes = recorder.shapes
    places = {
        name: _place(name, nodes, shapes[name], recorder)
        for name, nodes in recorder.layer_nodes.items()
    }
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
        self.features = Features()
        self.scattered: dict[str, bool] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = name_of(func)
        if self.open:
            return result
        if name in (
            "batch_norm",
            "_native_batch_norm_legit",
            "native_batch_norm",
        ) and batch_norm_trains(args, kwargs):
            self.batch_norm_calls.append(self.stack[-1] if self.stack else "")
        outputs = list(tensors_in(result))
        if outputs:
            node = node_of(name, self.stack[-1] if self.stack else "", args, kwargs)
            self.add(node, (args, kwargs), outputs)
            self.features.follow(func, name, node.kind, (args, kwargs), outputs)
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
        return tuple(
            dict.fromkeys(self.made[id(t)] for t in tensors_in(value) if id(t) in self.made)
        )

    def enter(self, module: nn.Module, name: str, args: Any) -> None:
        self.called.add(id(module))
        self.stack.append(name)
        if id(module) in self.names:
            first = next(tensors_in(args), None)
            if first is not None:
                self.shapes[name] = (tuple(first.shape), str(first.dtype).removeprefix("torch."))
                self.scattered.setdefault(name, self.features.scattered(first))
            self.open.append((name, self.nodes_of(args)))

    def leave(self, module: nn.Module, name: str, args: Any, output: Any) -> None:
        self.stack.pop()
        if id(module) not in self.names:
            return
        self.open.pop()
        if not self.open:
            node = Node("norm", name)
            outputs = list(tensors_in(output))
            self.add(node, args, outputs)
            self.features.keep(args, outputs)
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
                    lambda m, args, kwargs, label=label: recorder.enter(m, label, (args, kwargs)),
                    with_kwargs=True,
                )
            )
            handles.append(
                module.register_forward_hook(
                    lambda m, args, kwargs, output, label=label: recorder.leave(
                        m, label, (args, kwargs), output
                    ),
                    with_kwargs=True,
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(
    name: str, nodes: list[Node], shape: tuple[tuple[int, ...], str], recorder: _Recorder
) -> Place:
    source, sole, moved = _source(nodes[0])
    children = recorder.layers[name].named_modules()
    return Place(
        calls=len(nodes),
        fed_by=source.kind if source else "input",
        fed_by_module=source.module if source else "",
        bias_before=bool(source and source.bias),
        sole_consumer=sole and len(nodes) == 1,
        dropout_before=_largest_dropout(nodes[0]),
        feeds=tuple(
            dict.fromkeys(
                reader.kind for node in nodes for reader in _readers(node, ("view", "axes"))
            )
        ),
        added_to_a_shortcut=any(_reaches_addition(node) for node in nodes),
        pooled_next=any(reader.whole for reader in _readers(nodes[0], ("view", "axes"))),
        features_last=bool(source and source.kind in FEATURES_LAST and not moved),
        axes_moved=moved,
        features_scattered=recorder.scattered.get(name, False),
        unused_children=tuple(
            child for child, module in children if child and id(module) not in recorder.called
        ),
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
