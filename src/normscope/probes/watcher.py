"""The watcher: its hooks, the step it is in, and what becomes of it when the file, the model or the program ends."""

from __future__ import annotations

import functools
import os
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from normscope.errors import InputError
from normscope.probes.gradients import loss_scale, on_gradients
from normscope.probes.hooks import after_forward, before_forward
from normscope.probes.intervals import Intervals
from normscope.probes.layers import Found
from normscope.probes.notices import NormscopeWarning
from normscope.probes.observe import Call, first_tensor
from normscope.probes.recorder import Recorder
from normscope.probes.regions import followers
from normscope.probes.rows import PARAMETERS, Row, Rows, WatchedLayer
from normscope.probes.statistics import vector_norm
from normscope.records.recording import Recording
from normscope.records.recording_parts import WritablePart

MAX_CALLS = 8  # of one layer in one forward: a network unrolled over time may make hundreds
EVAL, TRAIN = 1, 2  # how good a forward is for the record of its step

_watchers: weakref.WeakKeyDictionary[nn.Module, Watcher] = weakref.WeakKeyDictionary()


def refuse_watched(found: list[Found]) -> None:
    """Raise an InputError if one of these layers is being watched already."""
    for layer in found:
        if layer.module in _watchers:
            raise InputError(f"{layer.name} is being watched already. Close that watcher first.")


def _in_child_process() -> None:
    """A forked data loader gets the model with its hooks. It must neither record nor close its parent's recording."""
    for watcher in set(_watchers.values()):
        watcher.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_process)

_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def _out_of_forward() -> bool:
    """Whether hooks see something else than a forward: backward repeats forwards under checkpointing."""
    return _graph_task() != -1 or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _inside(method: Callable[..., None]) -> Callable[..., None]:
    """A watcher's method that runs inside somebody's training: timed, and unable to end it."""

    @functools.wraps(method)
    def wrapper(self: Watcher, *args: Any) -> None:
        if not self.active:
            return
        start = time.perf_counter()
        try:
            method(self, *args)
        except Exception as error:  # whatever it is, the training must go on; the warning carries it
            self.stop(error)
        finally:
            self.recorder.clock(start)

    return wrapper


class Watcher:
    """Records a model's layers until it is closed. `watch` makes one.

    A step's forward is the first one in train mode; where steps are an optimizer's, a forward in eval mode with
    gradients stands in for it. Parameters are recorded as that forward used them, buffers as they are after it.
    """

    def __init__(
        self,
        model: nn.Module,
        found: list[Found],
        part: WritablePart,
        intervals: Intervals,
        optimizer: Optimizer | None,
    ):
        self.active = True
        self._model = weakref.ref(model)
        self._layers = [WatchedLayer.of(layer) for layer in found]
        self.recorder = Recorder(part, self._layers)
        self._rows = Rows(self._layers, self.recorder.blocks)
        self._intervals = intervals
        self._by_optimizer = optimizer is not None
        self._steps = 0  # that are done
        self._due = intervals.due(1)
        self._turn = 0  # of the histograms' sample
        self._depth = 0  # of forwards of the model, which may call itself
        self._taken = 0  # EVAL or TRAIN once the step has a forward
        self._listening = False
        self._collected = False
        self._used: Row = []  # parameters before their update, where the forward comes inside the optimizer's step
        self._awaits_gradients: int | None = None  # the step whose gradients the next optimizer step has
        self._gradient_calls: list[Call] = []
        self._gradient_hooks: list[RemovableHandle] = []
        self._traced = False
        self._handles = self._attach(model, found, optimizer)
        _watchers.update({layer.module: self for layer in found})
        self._finalizer = weakref.finalize(model, self.close)

    # -- life

    def __enter__(self) -> Watcher:
        if not self.active:
            raise InputError("This watcher is closed; watch() makes a new one.")
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take off every hook and write what is left. Closing twice does nothing."""
        if not self.active:
            return
        self._name_the_uncalled()
        self._detach()
        try:
            self.recorder.flush(self._steps, complete=True)
        except Exception as error:  # closing may happen at the end of somebody's program
            self.stop(error)
            return
        if self.recorder.part.header.rank == 0:
            print(self.recorder.report(), file=sys.stderr)

    def stop(self, error: Exception) -> None:
        """Give up recording, with one warning. What has been written stays."""
        self._detach()
        warnings.warn(
            f"The recording stopped at step {self._steps + 1}; the training goes on. {type(error).__name__}: {error}",
            NormscopeWarning,
            stacklevel=2,
        )

    def leave_to_parent(self) -> None:
        """In a forked process: do nothing from now on, and nothing at its end."""
        self.active = False
        self._finalizer.detach()

    def _attach(self, model: nn.Module, found: list[Found], optimizer: Optimizer | None) -> list[RemovableHandle]:
        handles = [before_forward(model, self._forward_begins)]
        for layer, watched in zip(found, self._layers, strict=True):
            handles.append(after_forward(layer.module, functools.partial(self._layer_called, watched)))
        handles.append(after_forward(model, self._forward_ends, always=True))
        if optimizer is None:
            handles.append(register_optimizer_step_pre_hook(self._some_optimizer_steps))
        else:
            handles.append(optimizer.register_step_pre_hook(self._step_begins))
            handles.append(optimizer.register_step_post_hook(self._step_ends))
        return handles

    def _detach(self) -> None:
        self.active = False
        for handle in self._handles:
            handle.remove()
        self._drop_gradient_hooks()
        for layer in self._layers:
            if (module := layer.module()) is not None:
                _watchers.pop(module, None)
        self._finalizer.detach()

    # -- what is asked of it

    @property
    def recording(self) -> Recording:
        """What is recorded so far. On a GPU this waits for it."""
        self.flush()
        return self.recorder.recording

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return self._steps

    def flush(self) -> None:
        """Write what is recorded so far."""
        if self.active:
            self.recorder.flush(self._steps)

    def mark(self, **labels: str | int | float | bool | None) -> None:
        """Label the steps from here on, for example `mark(epoch=3)`.

        Raises:
            InputError: if the watcher is closed, or a label is neither a number nor a string.
        """
        if not self.active:
            raise InputError("This watcher is closed; it cannot mark anything.")
        for name, value in labels.items():
            if not isinstance(value, str | int | float | bool | None):
                raise InputError(f"mark() takes numbers and strings, not {name}={type(value).__name__}.")
        self.recorder.event("mark", self._steps, labels)

    # -- forwards

    @_inside
    def _forward_begins(self, model: nn.Module, args: Any) -> None:
        if _out_of_forward():
            return
        self._depth += 1
        if self._depth > 1:
            return
        if self._by_optimizer:
            quality = TRAIN if model.training else EVAL if torch.is_grad_enabled() else 0
            if quality > self._taken:
                self._take(quality)
        elif model.training:
            self._begin_step()
            self._take(TRAIN)

    def _take(self, quality: int) -> None:
        """Make the forward that begins the one that is recorded of its step."""
        self._taken = quality
        self._listening = True
        for layer in self._layers:
            layer.calls = []
        if self._due.gradients:
            self._drop_gradient_hooks()

    @_inside
    def _forward_ends(self, model: nn.Module, args: Any, output: Any) -> None:
        if _out_of_forward():
            return
        self._depth = max(0, self._depth - 1)
        if self._depth or not self._listening:
            return
        self._listening = False
        self._trace(output)
        if not self._by_optimizer:
            self._collect(self._parameters())
            if self._due.gradients:
                self._awaits_gradients = self._steps + 1
            self._end_step()

    @_inside
    def _layer_called(self, layer: WatchedLayer, module: nn.Module, args: Any, output: Any) -> None:
        if not (self._listening or self._is_called_alone(layer)) or _graph_task() != -1:
            return
        made = first_tensor(output)
        if made is None:
            return
        if len(layer.calls) == MAX_CALLS:
            self._note("calls", f"{layer.name} is called more than {MAX_CALLS} times in a forward; the first are kept.")
            return
        call = layer.next_call()
        given = first_tensor(args)
        call.node = None if self._traced else made.grad_fn
        turn = self._turn if self._due.histograms else None
        layer.observer.observe(call, module, given, made, moments=self._due.moments, turn=turn)
        if self._due.moments and layer.lacks_statistics(call):
            self._note(
                "statistics",
                f"{layer.name} has not kept the statistics of its batch (it ran without gradients, or under "
                "checkpointing or other saved-tensor hooks): they are computed again, at histogram steps only.",
            )
        if self._due.gradients:
            self._gradient_calls.append(call)
            self._gradient_hooks += on_gradients(given, made, functools.partial(self._gradient_arrives, call))

    def _is_called_alone(self, layer: WatchedLayer) -> bool:
        """Whether a loop that counts optimizer steps runs the layer without calling the model: then its first call."""
        if not self._by_optimizer or self._depth or self._taken or layer.calls or not torch.is_grad_enabled():
            return False
        model = self._model()
        return model is not None and model.training

    @_inside
    def _gradient_arrives(self, call: Call, side: str, gradient: Tensor) -> None:
        with torch.no_grad():
            call.gradient_norms[side] = vector_norm(gradient)

    def _trace(self, output: Any) -> None:
        """Find out, once, which activations consume the layers' outputs."""
        nodes = {layer.name: layer.calls[0].node for layer in self._layers if layer.calls}
        nodes = {name: node for name, node in nodes.items() if node is not None}
        if self._traced or not nodes:
            return
        self._traced = True
        found = followers(output, nodes)
        for layer in self._layers:
            for call in layer.calls:
                call.node = None
            if layer.name in found:
                layer.observer.info.activation, layer.observer.info.via = found[layer.name]

    # -- steps

    def _begin_step(self) -> None:
        self._due = self._intervals.due(self._steps + 1)
        self._turn += self._due.histograms
        self._taken = 0
        self._collected = False
        if self._due.gradients and self._awaits_gradients is not None:  # no optimizer step has come
            self._collect_gradients(self._awaits_gradients, None, parameters=False)

    def _end_step(self) -> None:
        self._steps += 1
        for layer in self._layers:
            layer.calls = []
        self.recorder.step_done(self._steps)
        if self._steps == 2 and not any(layer.most_calls for layer in self._layers):
            self._name_the_uncalled()

    @_inside
    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._collected = any(layer.calls for layer in self._layers)
        if self._collected:
            self._collect(self._parameters())
            self._collect_step_gradients(optimizer)
        else:  # a closure runs the forward inside the optimizer's step, and the update follows at once
            self._used = [(column, value.detach().clone()) for column, value in self._parameters()]

    @_inside
    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._collected:
            self._collect(self._used)
            self._collect_step_gradients(optimizer)
        self._end_step()
        self._begin_step()

    @_inside
    def _some_optimizer_steps(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._awaits_gradients is None:
            return
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(id(value) in stepped for layer in self._layers for _, value in layer.held(PARAMETERS)):
            self._collect_gradients(self._awaits_gradients, optimizer)

    def _parameters(self) -> Row:
        return self._rows.parameters() if self._due.moments else []

    def _collect(self, parameters: Row) -> None:
        with torch.no_grad():
            self._rows.forward(self._steps + 1, self._due, parameters)

    def _collect_step_gradients(self, optimizer: Optimizer) -> None:
        if self._due.gradients:
            self._collect_gradients(self._steps + 1, optimizer)

    def _collect_gradients(self, step: int, optimizer: Optimizer | None, *, parameters: bool = True) -> None:
        held_scale = getattr(optimizer, "grad_scale", None)  # still in the gradients that a fused optimizer gets
        with torch.no_grad():
            if parameters:
                self._rows.gradients(step, self._gradient_calls, loss_scale(optimizer), held_scale)
            else:
                self._rows.gradient_norms(step, self._gradient_calls)
        self._awaits_gradients = None
        self._drop_gradient_hooks()

    def _drop_gradient_hooks(self) -> None:
        for handle in self._gradient_hooks:
            handle.remove()
        self._gradient_hooks, self._gradient_calls = [], []

    # -- what cannot be recorded

    def _note(self, reason: str, text: str) -> None:
        self.recorder.note(reason, text, step=self._steps + 1)

    def _name_the_uncalled(self) -> None:
        uncalled = [layer.name for layer in self._layers if not layer.most_calls]
        if self._steps and uncalled:
            self._note(
                "uncalled",
                f"{len(uncalled)} of {len(self._layers)} layers were not called in any training forward (unused, "
                f"compiled, or run as replicas), {uncalled[0]} for one: of them only weight, bias, buffers and "
                "parameter gradients are recorded.",
            )
