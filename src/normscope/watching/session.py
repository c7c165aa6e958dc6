"""Steps and forwards as the hooks see them, and the measurements of each."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from normscope.user_models.state_guard import is_examined
from normscope.user_models.wrappers import is_flat
from normscope.watching.gradient_hooks import GradientNorms
from normscope.watching.hooks import (
    LayerHooks,
    after_any_forward,
    before_forward,
    in_backward,
    run_uncompiled,
)
from normscope.watching.layer_calls import LayerCalls
from normscope.watching.other_optimizers import OtherOptimizers
from normscope.watching.probe_forward import CompiledModel
from normscope.watching.recorder import Recorder
from normscope.watching.step_writer import Row, StepWriter, WatchedLayer, owned
from normscope.watching.stream_watch import StreamWatch
from normscope.watching.watched_layers import MatchedLayer

EVAL, TRAIN = 1, 2  # how good a forward is for the record of its step


def _out_of_forward() -> bool:
    """Tell whether a hook runs in backward, where checkpointing repeats forwards, or under a
    tracer.
    """
    return in_backward() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _inside(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method that runs inside somebody's training: timed, and unable to end it.

    Inside a probe forward it is a part of what is timed already.
    """

    @run_uncompiled
    @functools.wraps(method)
    def wrapper(self: Session, *args: Any) -> None:
        if not self.active:
            return
        start = time.perf_counter()
        try:
            method(self, *args)
        except Exception as error:  # the training must go on; a warning carries it
            self.fail(error)
        finally:
            if self._probed is None:
                self._recorder.clock(start)

    return wrapper


class Session:
    """Turns hooks into rows.

    A step's forward is the first one in train mode; where steps are an optimizer's, a forward in
    eval mode with gradients stands in for it. Parameters are recorded as that forward used them,
    buffers as they are after it.

    Args:
        model: the module whose calls are forwards.
        matched: the layers to watch.
        recorder: where the rows go, and which steps are recorded.
        optimizer: whose steps count, or None to count forwards in train mode.
        fail: called with an error, which must not reach the training.
        stream: whether the residual stream is looked at, too.
    """

    def __init__(
        self,
        model: nn.Module,
        matched: list[MatchedLayer],
        recorder: Recorder,
        optimizer: Optimizer | None,
        fail: Callable[[Exception], None],
        *,
        stream: bool = False,
    ):
        self.active = True
        self.steps = 0  # that are done
        self.layers = recorder.layers
        self.fail = fail
        self._model = weakref.ref(model)
        self._recorder = recorder
        self._rows = StepWriter(self.layers, recorder.blocks)
        self._by_optimizer = optimizer is not None
        self._stepping = False  # whether the optimizer is at it
        self._due = recorder.planned.due(1)
        self._rooted = False  # whether the model itself was called, and not its parts alone
        self._depth = 0  # of forwards of the model, which may call itself
        self._taken = 0  # EVAL or TRAIN once the step has a forward
        self._listening = False
        self._collected = False
        # parameters before their update, where the forward comes inside the optimizer's step
        self._used: Row = []
        self._others = OtherOptimizers(self._rows)
        self._counted = None if optimizer is None else weakref.ref(optimizer)
        self._updates: list[tuple[int, Row]] = []  # by step, not written yet
        self._awaits_updates: int | None = None  # the step whose updates come behind its end
        # the step whose gradients the next optimizer step has
        self._awaits_gradients: int | None = None
        self._gradients = GradientNorms(self._timed_norm)
        self._probed: set[str] | None = None  # the layers that a probe forward measures, inside it
        self._compiled = CompiledModel(model, self.layers, self._note, self._block_begins)
        self._stream = StreamWatch(stream, self.layers, self._spend_in_forward, self._note)
        self._calls = LayerCalls(self.layers, self._gradients, self._stream, self._note)
        self._calls.expect(1, self._due)
        self._layer_hooks = LayerHooks()
        self._handles = self._attach(model, matched, optimizer)

    def _attach(
        self, model: nn.Module, matched: list[MatchedLayer], optimizer: Optimizer | None
    ) -> list[RemovableHandle]:
        handles = [*self._compiled.handles, before_forward(model, self._forward_begins)]
        for layer, watched in zip(matched, self.layers, strict=True):
            called = functools.partial(self._layer_called, watched)
            light = watched.observer.plain and watched.observer.info.kind == "batch"
            self._layer_hooks.add(layer.module, called, reads_statistics_only=light)
        handles.append(after_any_forward(model, self._forward_ends))
        handles.append(register_optimizer_step_pre_hook(self._any_optimizer_begins))
        if self._stream.wanted:
            handles.append(register_optimizer_step_post_hook(self._any_optimizer_ends))
        if optimizer is not None:
            handles.append(optimizer.register_step_pre_hook(self._step_begins))
            handles.append(optimizer.register_step_post_hook(self._step_ends))
        return handles

    def resume(self, step: int) -> None:
        """Count on after this step."""
        self.steps = step
        self._begin_step()

    def finish(self) -> None:
        """Record what still waits for an optimizer, and say what was never seen."""
        if self._awaits_gradients is not None:
            self._collect_gradients(self._awaits_gradients, None)
        self.name_the_uncalled()

    def detach(self) -> None:
        """Take off every hook, those on graphs that somebody may have kept among them."""
        self.active = False
        for handle in self._handles:
            handle.remove()
        self._layer_hooks.remove()
        self._gradients.clear()
        self._stream.end()
        self._compiled.detach()

    # -- forwards

    @_inside
    def _forward_begins(self, model: nn.Module, args: Any) -> None:
        if self._is_out_of_forward():
            return
        self._depth += 1
        self._rooted = True
        if self._depth > 1:
            return
        if self._by_optimizer:
            quality = TRAIN if model.training else EVAL if torch.is_grad_enabled() else 0
            if quality > self._taken:
                self._take(quality)
        elif model.training:
            self._begin_step()
            self._take(TRAIN)
        if not model.training and not self._listening:
            # In eval mode nn.TransformerEncoderLayer has a faster path, with other bits, for
            # modules without hooks.
            self._layer_hooks.set_aside()

    def _take(self, quality: int) -> None:
        """Make the forward that begins the one that is recorded of its step."""
        self._taken = quality
        self._listening = True
        self._calls.begin_forward()
        if self._sees_stream() and self._compiled.shows_operations():
            self._stream.begin()

    def _sees_stream(self) -> bool:
        return self._stream.wanted and self._due.histograms

    def _spend_in_forward(self, start: float) -> None:
        if self._probed is None:
            self._recorder.clock(start)

    @_inside
    def _forward_ends(self, model: nn.Module, args: Any, output: Any) -> None:
        if self._is_out_of_forward():
            return
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return
        if not self._listening:
            self._layer_hooks.put_back()
            return
        self._listening = False
        self._stream.end(model if output is not None else None)
        if output is None:  # it raised: another forward may be this step's
            self._taken = 0
            return
        self._calls.read_postponed()
        self._calls.trace(output)
        if not self._by_optimizer and not self._compiled.hides_layers():
            self._collect(self._parameters())
            if self._due.gradients:
                self._awaits_gradients = self.steps + 1
            self._end_step()

    def _layer_called(
        self, layer: WatchedLayer, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        if self._is_measured_by_others() or (self._probed and layer.name not in self._probed):
            return
        if self._listening:
            if self._calls.light and type(output) is Tensor and not layer.observer.needs_input:
                start = time.perf_counter()
                self._calls.postpone(layer, output)
                self._recorder.seconds += time.perf_counter() - start
            else:
                self._measure(layer, module, args, kwargs, output)
        elif (self._by_optimizer or not self._rooted) and self._is_called_alone(layer):
            self._measure(layer, module, args, kwargs, output)

    def _is_out_of_forward(self) -> bool:
        return _out_of_forward() or self._is_measured_by_others()

    def _is_measured_by_others(self) -> bool:
        """Tell whether a forward that runs now is a measurement, and not one of this watcher's."""
        return is_examined() and self._probed is None

    def _is_called_alone(self, layer: WatchedLayer) -> bool:
        """Tell if this is a layer's first call, by a loop that does not call the model itself."""
        if self._depth or self._taken or layer.calls or not torch.is_grad_enabled():
            return False
        model = self._model()
        return model is not None and model.training

    @_inside
    def _measure(self, *call: Any) -> None:
        self._calls.measure(*call)

    @_inside
    def _timed_norm(self, measure: Callable[[], None]) -> None:
        measure()

    # -- compiled models

    def _probe(self) -> None:
        """Measure the layers that a compiled graph has hidden by a forward of the uncompiled model,
        at the end of a step's backward: the parameters are as the step's forward used them.
        """
        if not self._compiled.may_probe(within_time=self._recorder.planned.spaced):
            return
        with self._probing():
            output = self._compiled.repeat()
            self._stream.end(self._model())
            self._calls.trace(output)
            self._compiled.give_up_uncalled()

    @_inside
    def _block_begins(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        """Measure the layers of a compiled block by a forward of the uncompiled one right before
        it: its parameters are gathered then, and no other process is waited for.
        """
        due = self._due.moments or self._due.histograms
        if not (due and self._listening) or self._is_out_of_forward():
            return
        if self._compiled.may_probe_block(block, within_time=self._recorder.planned.spaced):
            with self._probing():
                self._compiled.repeat_block(block, args, kwargs)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Measure what is called inside, of the layers that are hidden."""
        listening = self._listening
        self._calls.expect(self.steps + 1, self._due._replace(gradients=False))
        self._probed, self._listening = self._compiled.hidden(), True
        self._depth += 1
        try:
            if self._sees_stream():
                self._stream.begin()
            yield
        except Exception as error:
            self._note(
                "probe failed",
                "The uncompiled model cannot be called once more for a measurement: "
                f"{type(error).__name__}: {error}",
            )
        finally:
            self._stream.end()
            self._depth -= 1
            self._probed, self._listening = None, listening
            self._calls.expect(self.steps + 1, self._due)

    # -- steps

    def _begin_step(self) -> None:
        self._due = self._recorder.planned.due(self.steps + 1)
        self._calls.expect(self.steps + 1, self._due)
        self._taken = 0
        self._collected = False
        # no optimizer step has come, or each in the backward
        over = self._due.gradients or self._others.kept
        if self._awaits_gradients is not None and over:
            self._collect_gradients(self._awaits_gradients, None)
        self._others.forget()
        if not self._by_optimizer and self._stream.has_updates_of(self._awaits_updates):
            self._awaits_updates = None

    def _end_step(self) -> None:
        self.steps += 1
        if self._sees_stream():
            self._awaits_updates = self.steps
        elif self._by_optimizer:
            self._awaits_updates = None
        self._compiled.end_step(moments=self._due.moments)
        for layer in self.layers:
            layer.calls = []
        self._recorder.step_done(self.steps)
        if self.steps == 2 and not any(layer.most_calls for layer in self.layers):
            self.name_the_uncalled()

    @_inside
    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._stepping:
            return
        self._stepping = True
        if self._is_to_probe():
            self._probe()
        self._collected = any(layer.calls for layer in self.layers)
        if self._sees_stream():
            self._stream.step_begins(optimizer, self.steps + 1, self._rows.gains(optimizer))
        if self._collected:
            self._collect(self._parameters())
            self._collect_step_gradients(optimizer)
        else:  # a closure runs the forward inside the step, and the update follows at once
            self._used = [(column, value.detach().clone()) for column, value in self._parameters()]

    @_inside
    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepping = False
        if not self._collected:
            self._collect(self._used)
            self._collect_step_gradients(optimizer)
        self._collect_updates(optimizer)
        self._end_step()
        self._begin_step()

    @_inside
    def _any_optimizer_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Keep what is about to change of the layers, by an optimizer whose steps do not count."""
        if self._stepping:
            return
        if not self._by_optimizer:
            self._some_optimizer_steps(optimizer)
        if self._counts(optimizer):
            return
        if not self._by_optimizer:
            if self._awaits_gradients is not None and in_backward():
                self._others.keep(optimizer)
        elif self._has_begun():
            if self._is_to_probe() and self._trains(optimizer):
                self._probe()
            if self._due.moments or self._due.gradients:
                self._others.keep(optimizer)
        elif in_backward() and owned(self._rows.parameters(), optimizer):
            self._note(
                "late gradients",
                "An optimizer steps inside the backward behind the one whose steps count: of its "
                "parameters no gradients are recorded. Give the optimizer of the model's first "
                "layer, whose gradient is the last.",
            )
        step = self.steps + 1 if self._sees_stream() else None
        if not (self._by_optimizer and self._has_begun()):
            step = self._awaits_updates
        if step is not None:
            self._stream.step_begins(optimizer, step, self._rows.gains(optimizer))

    @_inside
    def _any_optimizer_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._counts(optimizer):
            self._collect_updates(optimizer)

    def _counts(self, optimizer: Optimizer) -> bool:
        return self._counted is not None and self._counted() is optimizer

    def _has_begun(self) -> bool:
        """Tell whether a forward of the step that is under way has been called."""
        called = self._taken or any(layer.calls for layer in self.layers)
        return bool(called) or self._compiled.kept.is_there

    def _is_to_probe(self) -> bool:
        due = self._due.moments or self._due.histograms
        return due and self._compiled.hides_layers()

    def _trains(self, optimizer: Optimizer) -> bool:
        """Tell whether an optimizer has a parameter of the model."""
        model = self._model()
        own = {id(p) for p in model.parameters()} if model is not None else set()
        return any(id(p) in own for group in optimizer.param_groups for p in group["params"])

    def _some_optimizer_steps(self, optimizer: Optimizer) -> None:
        unseen = self._compiled.hides_layers() or (
            not self._rooted and any(layer.calls for layer in self.layers)
        )
        if unseen:
            if self._trains(optimizer):
                self._count_steps_of(optimizer)
        elif self._awaits_gradients is None or in_backward():
            return
        elif owned(self._rows.parameters(), optimizer):
            self._collect_gradients(self._awaits_gradients, optimizer)

    def _count_steps_of(self, optimizer: Optimizer) -> None:
        """Count the steps of the optimizer from now on, the one that begins among them: forwards of
        a compiled model, or of one whose parts are called one by one, are not seen.
        """
        self._by_optimizer, self._counted = True, weakref.ref(optimizer)
        self._handles.append(optimizer.register_step_pre_hook(self._step_begins))
        self._handles.append(optimizer.register_step_post_hook(self._step_ends))
        self._recorder.count_optimizer_steps()
        self._step_begins(optimizer, (), {})  # once: torch may call the new hook yet, or not

    def _parameters(self) -> Row:
        if not self._due.moments:
            return []
        calls = (layer.calls[0] for layer in self.layers if layer.calls)
        used = {(call.layer, name): value for call in calls for name, value in call.used.items()}
        return self._rows.parameters(self._others.kept | used)

    def _collect(self, parameters: Row) -> None:
        with torch.no_grad():
            self._rows.forward(self.steps + 1, self._due, parameters)

    def _collect_step_gradients(self, optimizer: Optimizer) -> None:
        if self._due.gradients:
            self._collect_gradients(self.steps + 1, optimizer)

    def _collect_gradients(self, step: int, optimizer: Optimizer | None) -> None:
        """Write the gradients that an optimizer is about to use, or the norms alone without one."""
        if optimizer is not None and self._calls.swapped and not is_flat(self._model()):
            self._note(
                "swapped",
                "Layers are called with parameters that are not their own, as by functional_call: "
                "these are recorded as they were given, without their gradients and updates.",
            )
        with torch.no_grad():
            self._rows.gradients(step, self._gradients.calls, optimizer, self._others.kept)
        self._awaits_gradients = None
        self._gradients.clear()

    def _collect_updates(self, optimizer: Optimizer) -> None:
        self._updates += self._stream.step_ends(optimizer)
        done = self.steps + self._counts(optimizer)  # a step may never come to its end
        with torch.no_grad():
            while self._updates and self._updates[0][0] <= done:
                self._rows.updates(*self._updates.pop(0))

    # -- what cannot be recorded

    def _note(self, reason: str, text: str) -> None:
        self._recorder.note(reason, text, step=self.steps + 1)

    def name_the_uncalled(self) -> None:
        """Warn, once, of layers that have not been called in a training forward."""
        uncalled = [layer.name for layer in self.layers if not layer.most_calls]
        if self.steps and uncalled:
            self._note(
                "uncalled",
                f"{len(uncalled)} of {len(self.layers)} layers were not called in any training "
                f"forward (unused, compiled, or run as replicas), {uncalled[0]} for one: of them "
                "only weight, bias, buffers and parameter gradients are recorded.",
            )
