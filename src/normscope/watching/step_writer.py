"""The rows that a step adds: measurements of its layers' calls, parameters and buffers."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normscope.user_models.norm_layers import affine_names
from normscope.user_models.wrappers import flat_pieces, is_mapped, local_part, local_values
from normscope.watching.gradient_hooks import loss_scale
from normscope.watching.intervals import Due
from normscope.watching.observe import Call, Observer
from normscope.watching.row_buffers import PROBE, Blocks, Column, column
from normscope.watching.watched_layers import MatchedLayer

Row = list[tuple[Column, Tensor]]
Getter = Callable[[], Tensor | None]

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
    def of(cls, layer: MatchedLayer) -> WatchedLayer:
        """Watch a module of a model."""
        return cls(weakref.ref(layer.module), Observer(layer.info, layer.norm))

    @property
    def name(self) -> str:
        """The layer's name in its model."""
        return self.observer.info.name

    def next_call(self) -> Call:
        """Begin a further call in this step's forward; the first has the layer's name."""
        number = len(self.calls) + 1
        name = self.name if number == 1 else f"{self.name}#{number}"
        call = Call(name, self.observer.info.channel_stride)
        self.calls.append(call)
        self.most_calls = max(self.most_calls, number)
        return call

    def lacks_statistics(self, call: Call) -> bool:
        """Tell whether a call should have kept its batch's statistics, and has not."""
        return call.probe is None and call.training and self.observer.expects_statistics

    def keep_used(self, call: Call, module: nn.Module) -> bool:
        """Keep the weight and bias of a call that are there for it alone, and no parameters: of
        torch.func.functional_call, of flat parameters. Tell whether there are such.
        """
        called = affine_names(module)
        for name in PARAMETERS:
            own = called.get(name, name)
            value = module._parameters.get(own, module.__dict__.get(own))
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                local = None if is_mapped(value) else local_values(value)
                if local is not None:
                    call.used[name] = local.detach().clone()
        return bool(call.used)

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[Column, int, Getter]]:
        """Yield (column, number of values, a function that reads it) of the layer's parameters or
        buffers of these names.
        """
        module, info = self.module(), self.observer.info
        if module is None or info.kind == "activation":
            return
        called = affine_names(module)
        for name in names:
            own = called.get(name, name)
            get = functools.partial(_attribute, self.module, own)  # also of a parametrized weight
            for table in (module._parameters, module._buffers):
                if isinstance(table.get(own), Tensor):
                    get = functools.partial(table.get, own)
            if isinstance(value := get(), Tensor):
                count = local_part(value).numel()
                shape = () if name in COUNTERS else (-(-count // info.channel_stride),)
                yield column(self.name, name, shape), count, get


def _readable(row: Row) -> Row:
    """Return the parameters or buffers that can be read: not those of an ensemble under vmap, nor
    those whose memory FSDP has freed, which to read would end the process.
    """
    return [(at, value) for at, value in row if not is_mapped(value) and _is_allocated(value)]


def owned(row: Row, optimizer: torch.optim.Optimizer) -> Row:
    """Return those of a row's parameters that an optimizer changes."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [(at, value) for at, value in row if id(value) in stepped]


def _is_allocated(value: Tensor) -> bool:
    value = local_part(value)
    return not value.numel() or value.untyped_storage().nbytes() > 0


def _size(value: Tensor | None) -> int:
    return -1 if value is None else local_part(value).numel()


def _attribute(module: weakref.ref[nn.Module], name: str) -> Tensor | None:
    return getattr(module(), name, None)


class TensorReader:
    """The parameters or buffers of all layers, looked up once and read at every record.

    Looking them up in the modules anew costs as much as copying them.
    """

    def __init__(self, layers: list[WatchedLayer], names: Iterable[str]):
        self._layers, self._names = layers, tuple(names)
        self._find()

    def _find(self) -> None:
        tensors = [item for layer in self._layers for item in layer.tensors(self._names)]
        self.columns = [at for at, _, _ in tensors]
        self._sizes = [count for _, count, _ in tensors]
        self._getters = [get for _, _, get in tensors]

    def row(self) -> Row:
        """Return (column, tensor) of each, as they are now."""
        values = [get() for get in self._getters]
        if [_size(value) for value in values] != self._sizes:
            self._find()  # a layer was changed: pruned, its affine parameters taken away, ...
            values = [get() for get in self._getters]
        row = zip(self.columns, values, strict=True)
        return [(at, value) for at, value in row if value is not None]


class StepWriter:
    """Writes the rows of a step into the blocks. Call under `torch.no_grad()`."""

    def __init__(self, layers: list[WatchedLayer], blocks: Blocks):
        self._layers = layers
        self._blocks = blocks
        self._parameters = TensorReader(layers, PARAMETERS)
        self._buffers = TensorReader(layers, BUFFERS)
        self._counters = TensorReader(layers, COUNTERS)
        strides = {layer.name: layer.observer.info.channel_stride for layer in layers}
        self._strides = {name: stride for name, stride in strides.items() if stride > 1}

    def parameters(self, used: Mapping[tuple[str, str], Tensor] | None = None) -> Row:
        """Return weight and bias of every layer that are in memory; in place of the layers' own,
        those `used` by its call, by (layer, statistic).
        """
        row = self._parameters.row()
        if used:
            row = [self._replaced(at, used.get((at.layer, at.statistic), own)) for at, own in row]
        return _readable(row)

    def _replaced(self, at: Column, value: Tensor) -> tuple[Column, Tensor]:
        count = local_part(value).numel()
        stride = self._strides.get(at.layer, 1)
        return column(at.layer, at.statistic, (-(-count // stride),)), value

    def forward(self, step: int, due: Due, parameters: Row) -> None:
        """Write what the step's forward measured, with the parameters it used."""
        calls = [call for layer in self._layers for call in layer.calls]
        if self._strides or not due.moments:  # else the moments show what is not finite
            probes = [(c.layer, c.probe) for c in calls if c.probe is not None]
            row = [(column(name, PROBE, (probe.numel(),)), probe) for name, probe in probes]
            self._append("probes", step, row)
        if due.moments:
            row = parameters + _readable(self._buffers.row()) + _parts(calls, "moments")
            self._append("moments", step, row)
            self._append("counters", step, _readable(self._counters.row()))
            self._append_facts(step, calls)
        for group in ("frames", "histograms", "stream"):
            self._append(group, step, _parts(calls, group))

    def gradients(
        self, step: int, calls: Iterable[Call], optimizer: torch.optim.Optimizer | None,
        kept: Mapping[tuple[str, str], Tensor],
    ) -> None:  # fmt: skip
        """Write the parameters' gradients as the optimizer is about to use them, or as they were
        `kept` of another one, and the calls' gradient norms, all without the factor of a
        GradScaler; without an optimizer what was kept and the norms.
        """
        row: Row = []
        # a fused optimizer gets scaled gradients, and this
        grad_scale = getattr(optimizer, "grad_scale", None)
        for at, value in self.parameters():
            name = column(at.layer, f"{at.statistic}_gradient", at.shape)
            if (early := kept.get((name.layer, name.statistic))) is not None:
                row.append((name, early))
            elif optimizer is not None and value.is_leaf and value.grad is not None:
                row.append((name, over(value.grad, grad_scale)))
        if optimizer is not None:
            for at, (_, gradient) in self._flat_parameters(optimizer):
                name = column(at.layer, f"{at.statistic}_gradient", at.shape)
                row.append(self._replaced(name, over(gradient, grad_scale)))
        scale = loss_scale(optimizer)
        for call in calls:
            for side, norm in call.gradient_norms.items():
                row.append((column(call.layer, f"{side}_gradient_norm", ()), over(norm, scale)))
        self._append("gradients", step, row)

    def _flat_parameters(
        self, optimizer: torch.optim.Optimizer
    ) -> list[tuple[Column, tuple[Tensor, Tensor]]]:
        """Return this process's pieces of FSDP's flat parameters and of their gradients."""
        pieces = flat_pieces(optimizer)
        layers = [(layer, module) for layer in self._layers if (module := layer.module())]
        return [
            (Column(layer.name, name, ()), pieces[key])
            for layer, module in (layers if pieces else ())
            for name in PARAMETERS
            if (key := (module, affine_names(module).get(name, name))) in pieces
        ]

    def gains(self, optimizer: torch.optim.Optimizer) -> Row:
        """Return the weights that an optimizer is about to change, of each what is here."""
        row = owned(self.parameters(), optimizer)
        row += [(at, own) for at, (own, _) in self._flat_parameters(optimizer)]
        weights = [(at, value) for at, value in row if at.statistic == "weight"]
        return [(at, value) for at, value in weights if local_part(value).numel()]

    def updates(self, step: int, row: Row) -> None:
        """Write what an optimizer's step has changed."""
        self._append("updates", step, row)

    def _append_facts(self, step: int, calls: Sequence[Call]) -> None:
        """Write the calls' values per channel and modes, which the host knows."""
        if not calls:
            return
        names = ("values_per_channel", "training")
        columns = [column(call.layer, name, ()) for call in calls for name in names]
        facts = [fact for call in calls for fact in (call.n, call.training)]
        self._blocks.append("facts", step, columns, [torch.tensor(facts, dtype=torch.int64)])

    def _append(self, group: str, step: int, row: Row) -> None:
        if row:
            columns = [at for at, _ in row]
            values = [self._spread(at, local_part(value)) for at, value in row]
            self._blocks.append(group, step, columns, values)

    def _spread(self, at: Column, value: Tensor) -> Tensor:
        """Return the channels of a parameter, buffer or gradient that are recorded."""
        if not self._strides or len(at.shape) != 1 or value.numel() == at.shape[0]:
            return value
        return value.reshape(-1)[:: self._strides[at.layer]]


def _parts(calls: Iterable[Call], group: str) -> Row:
    return [part for call in calls for part in call.parts.get(group, ())]


def over(value: Tensor, scale: Tensor | None) -> Tensor:
    """Return a value without a GradScaler's factor."""
    return value if scale is None else value / scale.to(value.device)
