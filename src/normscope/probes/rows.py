"""The rows that a step adds: what its layers' calls measured, and what the layers' parameters and buffers hold."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normscope.probes.blocks import Blocks, Column
from normscope.probes.harvest import PROBE
from normscope.probes.intervals import Due
from normscope.probes.layers import Found
from normscope.probes.observe import Call, Observer, parameter

PARAMETERS = ("weight", "bias")
BUFFERS = ("running_mean", "running_var")
COUNTERS = ("num_batches_tracked",)


@dataclass
class WatchedLayer:
    """A layer and its calls in the step that is in progress."""

    module: weakref.ref[nn.Module]
    observer: Observer
    calls: list[Call] = field(default_factory=list)
    most_calls: int = 0

    @classmethod
    def of(cls, found: Found) -> WatchedLayer:
        """Watch a module that was found in a model."""
        return cls(weakref.ref(found.module), Observer(found.info))

    @property
    def name(self) -> str:
        """The layer's name in its model."""
        return self.observer.info.name

    def next_call(self) -> Call:
        """A further call in this step's forward; the first has the layer's name."""
        number = len(self.calls) + 1
        call = Call(self.name if number == 1 else f"{self.name}#{number}")
        self.calls.append(call)
        self.most_calls = max(self.most_calls, number)
        return call

    def lacks_statistics(self, call: Call) -> bool:
        """Whether a call should have kept its batch's statistics, and has not."""
        return call.probe is None and call.training and self.observer.info.kind in ("batch", "group", "layer")

    def held(self, names: Iterable[str]) -> Iterable[tuple[Column, Tensor]]:
        """The parameters or buffers of these names that the layer has now."""
        module = self.module()
        if module is None or self.observer.info.kind == "activation":
            return
        for name in names:
            if (value := parameter(module, name)) is not None:
                yield Column(self.name, name, (value.numel(),)), value


Row = list[tuple[Column, Tensor]]


class Rows:
    """Writes the rows of a step into the blocks. Call under `torch.no_grad()`."""

    def __init__(self, layers: list[WatchedLayer], blocks: Blocks):
        self.layers = layers
        self.blocks = blocks

    def parameters(self) -> Row:
        """Weight and bias of every layer."""
        return [item for layer in self.layers for item in layer.held(PARAMETERS)]

    def forward(self, step: int, due: Due, parameters: Row) -> None:
        """What the step's forward measured, with the parameters it used."""
        calls = [call for layer in self.layers for call in layer.calls]
        probes = [(Column(c.layer, PROBE, (c.probe.numel(),)), c.probe) for c in calls if c.probe is not None]
        self._append("probes", step, probes)
        if due.moments:
            buffers = [item for layer in self.layers for item in layer.held(BUFFERS)]
            self._append("moments", step, parameters + buffers + _parts(calls, "moments"))
            self._append("counters", step, self._counters())
            self._append("calls", step, _host_facts(calls))
        for group in ("frames", "histograms"):
            self._append(group, step, _parts(calls, group))

    def gradients(self, step: int, calls: Iterable[Call], loss_scale: Tensor | None, held_scale: Tensor | None) -> None:
        """Gradients of the parameters, and gradient norms of the calls.

        Args:
            step: the step that they belong to.
            calls: those whose gradient norms go with it.
            loss_scale: the factor that is still in the norms.
            held_scale: the factor that is still in the parameters' gradients.
        """
        row: Row = []
        for column, value in self.parameters():
            if value.is_leaf and value.grad is not None:
                gradient = column._replace(statistic=f"{column.statistic}_gradient")
                row.append((gradient, _over(value.grad, held_scale)))
        self._append("gradients", step, row + _norms(calls, loss_scale))

    def gradient_norms(self, step: int, calls: Iterable[Call]) -> None:
        """The gradient norms alone, for a step that no optimizer took."""
        self._append("gradients", step, _norms(calls, None))

    def _counters(self) -> Row:
        found = [item for layer in self.layers for item in layer.held(COUNTERS)]
        return [(column._replace(shape=()), value) for column, value in found]

    def _append(self, group: str, step: int, row: Row) -> None:
        if row:
            columns, values = zip(*row, strict=True)
            self.blocks.append(group, step, list(columns), list(values))


def _parts(calls: Iterable[Call], group: str) -> Row:
    return [part for call in calls for part in call.parts.get(group, ())]


def _norms(calls: Iterable[Call], scale: Tensor | None) -> Row:
    return [
        (Column(call.layer, f"{side}_gradient_norm", ()), _over(norm, scale))
        for call in calls
        for side, norm in call.gradient_norms.items()
    ]


def _over(value: Tensor, scale: Tensor | None) -> Tensor:
    return value if scale is None else value / scale.to(value.device)


def _host_facts(calls: Iterable[Call]) -> Row:
    facts: list[tuple[Any, int]] = []
    for call in calls:
        facts += [(Column(call.layer, "values_per_channel", ()), call.n)]
        facts += [(Column(call.layer, "training", ()), int(call.training))]
    numbers = torch.tensor([number for _, number in facts], dtype=torch.int64).unbind()
    return [(column, number) for (column, _), number in zip(facts, numbers, strict=True)]
