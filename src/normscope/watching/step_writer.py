"""The rows that a step adds: what its layers' calls measured, and what the layers' parameters and buffers hold."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normscope.watching.device_to_host import PROBE
from normscope.watching.gradient_hooks import loss_scale
from normscope.watching.intervals import Due
from normscope.watching.observe import Call, Observer
from normscope.watching.row_buffers import Blocks, Column, column
from normscope.watching.watched_layers import Found

Row = list[tuple[Column, Tensor]]

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
        return cls(weakref.ref(found.module), Observer(found.info, found.norm))

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
        return call.probe is None and call.training and self.observer.expects_statistics

    def held(self, names: Iterable[str]) -> Iterator[tuple[Column, Callable[[], Tensor | None]]]:
        """The layer's parameters or buffers of these names, and where to get what each is at any
        later time.
        """
        module = self.module()
        if module is None or self.observer.info.kind == "activation":
            return
        for name in names:
            for table in (module._parameters, module._buffers):
                if isinstance(value := table.get(name), Tensor):
                    yield (
                        column(self.name, name, _shape(name, value)),
                        functools.partial(table.get, name),
                    )
                    break
            else:  # a parametrized weight, or an attribute of a registered class
                if isinstance(value := getattr(module, name, None), Tensor):
                    yield (
                        column(self.name, name, _shape(name, value)),
                        functools.partial(_attribute, self.module, name),
                    )


def _shape(name: str, value: Tensor) -> tuple[int, ...]:
    return () if name in COUNTERS else (value.numel(),)


def _attribute(module: weakref.ref[nn.Module], name: str) -> Tensor | None:
    return getattr(module(), name, None)


class Held:
    """The parameters or buffers of all layers, found once and read at every record.

    Looking them up in the modules anew costs as much as copying them.
    """

    def __init__(self, layers: list[WatchedLayer], names: Iterable[str]):
        self._layers, self._names = layers, tuple(names)
        self._find()

    def _find(self) -> None:
        found = [item for layer in self._layers for item in layer.held(self._names)]
        self.columns = [at for at, _ in found]
        self._sizes = [math.prod(at.shape) for at in self.columns]
        self._getters = [get for _, get in found]

    def row(self) -> Row:
        """(column, tensor) of each, as they are now."""
        values = [get() for get in self._getters]
        if [-1 if value is None else value.numel() for value in values] != self._sizes:
            self._find()  # a layer was changed: pruned, its affine parameters taken away, ...
            values = [get() for get in self._getters]
        return [
            (at, value) for at, value in zip(self.columns, values, strict=True) if value is not None
        ]


class Rows:
    """Writes the rows of a step into the blocks. Call under `torch.no_grad()`."""

    def __init__(self, layers: list[WatchedLayer], blocks: Blocks):
        self._layers = layers
        self._blocks = blocks
        self._parameters = Held(layers, PARAMETERS)
        self._buffers = Held(layers, BUFFERS)
        self._counters = Held(layers, COUNTERS)

    def parameters(self) -> Row:
        """Weight and bias of every layer."""
        return self._parameters.row()

    def forward(self, step: int, due: Due, parameters: Row) -> None:
        """What the step's forward measured, with the parameters it used."""
        calls = [call for layer in self._layers for call in layer.calls]
        if not due.moments:  # else the moments show what is not finite
            probes = [
                (column(c.layer, PROBE, (c.probe.numel(),)), c.probe)
                for c in calls
                if c.probe is not None
            ]
            self._append("probes", step, probes)
        else:
            self._append(
                "moments", step, parameters + self._buffers.row() + _parts(calls, "moments")
            )
            self._append("counters", step, self._counters.row())
            self._append_facts(step, calls)
        for group in ("frames", "histograms"):
            self._append(group, step, _parts(calls, group))

    def gradients(
        self, step: int, calls: Iterable[Call], optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Gradients of the parameters as the optimizer is about to use them, and the gradient norms
        of the calls.

        Both without the factor of a GradScaler. Without an optimizer, the norms alone.
        """
        row: Row = []
        if optimizer is not None:
            told = getattr(
                optimizer, "grad_scale", None
            )  # a fused optimizer gets scaled gradients, and this
            for at, value in self.parameters():
                if value.is_leaf and value.grad is not None:
                    row.append(
                        (
                            column(at.layer, f"{at.statistic}_gradient", at.shape),
                            _over(value.grad, told),
                        )
                    )
        scale = loss_scale(optimizer)
        for call in calls:
            for side, norm in call.gradient_norms.items():
                row.append((column(call.layer, f"{side}_gradient_norm", ()), _over(norm, scale)))
        self._append("gradients", step, row)

    def _append_facts(self, step: int, calls: Sequence[Call]) -> None:
        """What the host knows of the calls: values per channel, and whether the layer is in train
        mode.
        """
        if not calls:
            return
        columns = [
            column(call.layer, fact, ())
            for call in calls
            for fact in ("values_per_channel", "training")
        ]
        facts = torch.tensor(
            [fact for call in calls for fact in (call.n, call.training)], dtype=torch.int64
        )
        self._blocks.append("facts", step, columns, [facts])

    def _append(self, group: str, step: int, row: Row) -> None:
        if row:
            columns, values = zip(*row, strict=True)
            self._blocks.append(group, step, list(columns), list(values))


def _parts(calls: Iterable[Call], group: str) -> Row:
    return [part for call in calls for part in call.parts.get(group, ())]


def _over(value: Tensor, scale: Tensor | None) -> Tensor:
    return value if scale is None else value / scale.to(value.device)
