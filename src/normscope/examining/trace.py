"""Trace one real forward: what feeds and what follows each normalization layer.

Every torch function that the forward calls becomes a node that knows which nodes made its inputs; a
normalization layer is one node whatever it does inside. Nothing is compiled or exported, so any
model that runs can be traced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.examining.operations import (
    BATCH_NORMS,
    CONVOLUTIONS,
    FEATURES_LAST,
    WEIGHTED,
    BareHead,
    Node,
    bare_head,
    batch_norm_trains,
    comes_from_input,
    name_of,
    node_of,
    readers_of,
    source_of,
)  # fmt: skip
from normscope.examining.outputs import main_tensor
from normscope.records.examination import Place
from normscope.user_models.batch_reader import tensors_in
from normscope.user_models.functional_norms import NAMES


@dataclass
class Trace:
    """What one forward showed.

    Attributes:
        places: where each layer stands.
        batch_norm_calls: modules in which F.batch_norm(training=True) ran outside of the layers.
        functional: (module, function) of normalizations outside of the layers. Those of weights
            count neither here nor there.
        head: that reads a residual stream without a normalization.
    """

    places: dict[str, Place]
    batch_norm_calls: tuple[str, ...]
    functional: tuple[tuple[str, str], ...]
    head: BareHead | None = None


@torch.no_grad()
def trace(
    forward: Callable[[], Any], model: nn.Module, layers: dict[str, nn.Module], inputs: list[Tensor]
) -> Trace:
    """Run one forward and return where each layer stands; `inputs` are the model's tensors."""
    recorder = _Recorder(layers, inputs)
    with _hooked(model, recorder), recorder:
        output = main_tensor(forward())
    shapes = recorder.shapes
    places = {
        name: _place(name, nodes, shapes[name], recorder)
        for name, nodes in recorder.layer_nodes.items()
    }
    calls = [call for call in recorder.norm_calls if comes_from_input(call[0])]
    trained = (node.module for node, _, trains in calls if trains)
    functional = ((node.module, f"F.{name}") for node, name, _ in calls)
    head = bare_head(recorder.made.get(id(output)), recorder.layer_nodes)
    return Trace(places, tuple(dict.fromkeys(trained)), tuple(dict.fromkeys(functional)), head)


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
        self.norm_calls: list[tuple[Node, str, bool]] = []  # outside of layers; if it trains
        self.called: set[int] = set()
        self.features = Features()
        self.scattered: dict[str, bool] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = name_of(func)
        if self.open:
            return result
        module = self.stack[-1] if self.stack else ""
        outputs = list(tensors_in(result))
        if outputs:
            node = node_of(name, module, args, kwargs)
            self.add(node, (args, kwargs), outputs)
            if name in BATCH_NORMS or name in NAMES:
                trains = name in BATCH_NORMS and batch_norm_trains(args, kwargs)
                self.norm_calls.append((node, name, trains))
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
        made = (self.made.get(id(tensor)) for tensor in tensors_in(value))
        return tuple(dict.fromkeys(node for node in made if node is not None))

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
    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.enter(module, name, (args, kwargs))

    def leave(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        recorder.leave(module, name, (args, kwargs), output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            label = recorder.names.get(id(module), name)
            before, after = functools.partial(enter, label), functools.partial(leave, label)
            hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(after, with_kwargs=True))
        yield


def _place(
    name: str, nodes: list[Node], shape: tuple[tuple[int, ...], str], recorder: _Recorder
) -> Place:
    source, sole, moved = source_of(nodes[0])
    children = recorder.layers[name].named_modules()
    return Place(
        calls=len(nodes),
        fed_by=source.kind if source else "input",
        fed_by_module=source.module if source else "",
        bias_before=bool(source and source.bias),
        sole_consumer=sole and len(nodes) == 1,
        dropout_before=_largest_dropout(nodes[0]),
        added_to_a_shortcut=any(_reaches_addition(node) for node in nodes),
        pooled_next=any(reader.whole for reader in readers_of(nodes[0])),
        features_last=bool(source and source.kind in FEATURES_LAST and not moved),
        axes_moved=moved,
        features_scattered=recorder.scattered.get(name, False),
        unused_children=tuple(
            child for child, module in children if child and id(module) not in recorder.called
        ),
        input_shape=shape[0],
        input_dtype=shape[1],
    )


def _largest_dropout(node: Node) -> float:
    """Return the largest p of a dropout upstream, up to the normalization before."""
    largest, visited, waiting = 0.0, {id(node)}, list(node.inputs)
    while waiting:
        source = waiting.pop()
        if id(source) in visited or source.kind == "norm":
            continue
        visited.add(id(source))
        largest = max(largest, source.p)
        waiting += source.inputs
    return largest


def _reaches_addition(node: Node) -> bool:
    """Tell whether the output is added to another branch before it passes any weights."""
    visited, waiting = set(), list(node.readers)
    while waiting:
        reader = waiting.pop()
        if id(reader) in visited or reader.kind in WEIGHTED:
            continue
        visited.add(id(reader))
        if reader.kind == "add" and len(reader.inputs) > 1:
            return True
        waiting += reader.readers
    return False


KEEPS = ("activation", "dropout", "view")
"""Kinds of operations that leave every value where it is."""


class Features:
    """The feature of its source that each value of a forward's tensors belongs to.

    A source is a convolution or something that puts its features last; the numbers of its features
    go through the same views, permutations and reshapes as the values do.
    """

    def __init__(self):
        # {id of a tensor: the feature of each of its values, features of its source}
        self._numbers: dict[int, tuple[Tensor, int]] = {}

    def follow(
        self, func: Callable[..., Any], name: str, kind: str, inputs: Any, outputs: list[Tensor]
    ) -> None:
        """Follow `func(*args, **kwargs)`, where inputs are (args, kwargs)."""
        if name in CONVOLUTIONS:
            digits = [character for character in name if character.isdigit()]
            if digits:
                self._begin(outputs[0], -1 - int(digits[0]))
        elif kind in FEATURES_LAST:
            self._begin(outputs[0], -1)
        elif kind in KEEPS:
            self.keep(inputs, outputs)
        elif kind == "axes":
            self._move(func, inputs[0], inputs[1], outputs)

    def keep(self, inputs: Any, outputs: list[Tensor]) -> None:
        """Note that the outputs hold the values of the first input, each where it was."""
        first = next(tensors_in(inputs), None)
        for made in outputs:
            if first is not None and id(first) in self._numbers and made.shape == first.shape:
                self._numbers[id(made)] = self._numbers[id(first)]

    def scattered(self, x: Tensor) -> bool:
        """Tell whether axis 1 has as many entries as the source features, and not these."""
        numbers, size = self._numbers.get(id(x), (None, 0))
        if numbers is None or x.ndim < 2 or x.shape[1] != size or size < 2:
            return False
        rows = numbers.transpose(0, 1).reshape(x.shape[1], -1)
        return not bool((rows == rows[:, :1]).all())

    def _begin(self, made: Tensor, axis: int) -> None:
        if made.ndim < -axis or made.numel() == 0:
            return
        size = made.shape[axis]
        shape = [1] * made.ndim
        shape[axis] = size
        numbers = torch.arange(size, dtype=torch.int16 if size < 2**15 else torch.int32)
        numbers = numbers.reshape(shape).expand(made.shape).contiguous()
        self._numbers[id(made)] = numbers, size

    def _move(
        self, func: Callable[..., Any], args: Any, kwargs: Any, outputs: list[Tensor]
    ) -> None:
        if not args or not isinstance(args[0], Tensor) or id(args[0]) not in self._numbers:
            return
        numbers, size = self._numbers[id(args[0])]
        try:
            moved = list(tensors_in(func(numbers, *args[1:], **kwargs)))
        except (RuntimeError, TypeError, IndexError):
            return  # not made for whole numbers on the CPU: no longer followed
        for made, at in zip(outputs, moved, strict=False):
            if made.shape == at.shape:
                self._numbers[id(made)] = at, size
