"""The calls of a model's layers in the forward that a step records, measured as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.user_models.wrappers import (
    is_mapped,
    is_transformed,
    local_values,
    outside_transforms,
)
from normscope.watching.active_regions import followers
from normscope.watching.gradient_hooks import GradientNorms
from normscope.watching.hooks import in_backward
from normscope.watching.intervals import Due
from normscope.watching.observe import Call, first_tensor, input_of
from normscope.watching.step_writer import WatchedLayer
from normscope.watching.stream_watch import StreamWatch
from normscope.watching.tensor_statistics import TELLS_OF_HOOKS

MAX_CALLS = 8  # of one layer in one forward: a network unrolled over time may make hundreds


class LayerCalls:
    """Measures the layers' calls of a step.

    Args:
        layers: the watched layers.
        gradients: is told of calls whose gradients the backward will bring.
        stream: is told of every call.
        note: says once per reason what is not recorded.

    Attributes:
        traced: whether it is known which activations consume the layers' outputs.
        light: whether calls need nothing but what autograd keeps until backward.
        swapped: whether layers are called with parameters that are not their own.
    """

    def __init__(
        self, layers: Sequence[WatchedLayer], gradients: GradientNorms, stream: StreamWatch,
        note: Callable[[str, str], None],
    ):  # fmt: skip
        self.traced = self.light = self.swapped = False
        self._layers, self._gradients, self._stream, self._note = layers, gradients, stream, note
        self._step, self._due = 0, Due(False, False, False)
        # (layer, node, values) of calls whose statistics are read when the forward is over
        self._postponed: list[tuple[WatchedLayer, Node | None, int]] = []

    def expect(self, step: int, due: Due) -> None:
        """Measure what is due at a step in the calls that come now."""
        self._step, self._due, self.light = step, due, False

    def begin_forward(self) -> None:
        """Forget the calls of the step's earlier forwards."""
        light = not (self._due.histograms or self._due.gradients)
        self.light = TELLS_OF_HOOKS and self.traced and light and not self.swapped
        self._postponed = []
        for layer in self._layers:
            layer.calls = []
        if self._due.gradients:
            self._gradients.clear()

    def postpone(self, layer: WatchedLayer, output: Tensor) -> None:
        """Keep what is needed of a light call until the forward is over.

        Read then, all layers at once, it takes a fifth of the time: here the caches are full of
        activations.
        """
        if not in_backward():
            self._postponed.append((layer, output.grad_fn, output.numel()))

    def read_postponed(self) -> None:
        """Measure the calls of which nothing but autograd's nodes was kept."""
        for layer, node, numel in self._postponed:
            call, module = self._next_call(layer), layer.module()
            if call is not None and module is not None:
                layer.observer.observe_node(call, module, node, numel, moments=self._due.moments)
                self._check_batch(layer, call, numel)
        self._postponed = []

    def measure(
        self, layer: WatchedLayer, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Measure a call of a layer's module."""
        y = first_tensor(output)
        if in_backward() or y is None or (call := self._next_call(layer)) is None:
            return
        x = input_of(args, kwargs, y)
        mapped = is_mapped(y)
        nodes = (None, None) if mapped else (None if x is None else x.grad_fn, y.grad_fn)
        call.node = None if self.traced else nodes[1]
        here, made = self._local(layer, x, y)
        if made is None:
            return
        step = self._step if self._due.histograms else None
        observer, moments = layer.observer, self._due.moments
        try:
            with outside_transforms() if is_transformed(y) else nullcontext():
                observer.observe(
                    call, module, here, made, nodes=nodes, moments=moments, histogram_step=step
                )
                self.swapped |= moments and layer.keep_used(call, module)
        except Exception as error:  # of one layer; the others are recorded on
            observer.give_up(call)
            self._note(
                f"failed: {layer.name}",
                f"{layer.name} cannot be measured, and only its parameters and "
                f"gradients are recorded from here on: {type(error).__name__}: {error}",
            )
        self._name_limits(layer, call, here, y)
        if not mapped:
            self._stream.called(call, x)
            if self._due.gradients:
                self._gradients.await_backward(call, module, x, y)

    def _name_limits(self, layer: WatchedLayer, call: Call, here: Tensor | None, y: Tensor) -> None:
        """Note what cannot be recorded of a call, of this input and output."""
        observer = layer.observer
        if not observer.is_understood and not observer.needs_input:
            self._note(f"not understood: {layer.name}", observer.limits(y))
        if here is not None and observer.is_another_layout(here):
            self._note(
                f"another layout: {layer.name}",
                f"{layer.name} is also called with inputs of {here.dim()} dimensions: of those "
                "calls only parameters and gradients are recorded.",
            )
        elif not is_mapped(y):
            self._check_batch(layer, call, y.numel())

    def _local(
        self, layer: WatchedLayer, x: Tensor | None, y: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what this process holds of a layer's input and output; None of what it cannot
        measure alone.
        """
        here, made = None if x is None else local_values(x), local_values(y)
        if is_mapped(y):
            self._note(
                "mapped",
                "Layers are called inside torch.func.vmap: recorded are all mapped calls together, "
                "moments at histogram steps only; not recorded are parameters that are mapped and "
                "gradients at inputs and outputs.",
            )
        elif x is not None and x.shape == y.shape and made is not None:
            here = None if here is None or here.shape != made.shape else here
        if made is None or (here is None and x is not None):
            self._note(
                "layout",
                f"{layer.name} has an input or output of which each process holds a summand or "
                "some of the channels: its distribution is not recorded.",
            )
        return here, made

    def _next_call(self, layer: WatchedLayer) -> Call | None:
        if len(layer.calls) < MAX_CALLS:
            return layer.next_call()
        self._note(
            "calls",
            f"{layer.name} is called more than {MAX_CALLS} times in a forward; the first are "
            "recorded.",
        )
        return None

    def _check_batch(self, layer: WatchedLayer, call: Call, numel: int) -> None:
        module, known = layer.module(), layer.observer.info.eps
        if isinstance(module, _BatchNorm) and known is not None and module.eps != known:
            self._note(
                f"eps: {layer.name}",
                f"From step {self._step} on {layer.name} has eps {module.eps:g} in the place of "
                f"{known:g}: its recorded variances count the difference as variance.",
            )
        if not numel:
            self._note(
                f"empty: {layer.name}",
                f"{layer.name} was given an empty batch, of which there is nothing to record.",
            )
        elif self._due.moments and layer.lacks_statistics(call):
            self._note(
                "statistics",
                f"{layer.name} has not kept the statistics of its batch (it ran without gradients, "
                "or under checkpointing or other saved-tensor hooks): they are computed again, at "
                "histogram steps only.",
            )

    def trace(self, output: Any) -> None:
        """Note, once, which activations consume the layers' outputs."""
        nodes = {layer.name: layer.calls[0].node for layer in self._layers if layer.calls}
        nodes = {name: node for name, node in nodes.items() if node is not None}
        if self.traced or (not nodes and torch.is_grad_enabled()):
            return
        self.traced = True
        activations = followers(output, nodes)
        for layer in self._layers:
            for call in layer.calls:
                call.node = None
            if layer.name in activations:
                layer.observer.info.activation, layer.observer.info.via = activations[layer.name]
