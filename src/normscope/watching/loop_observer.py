"""Count on the host what a training loop does to running statistics; no device is waited for."""

from __future__ import annotations

import functools
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from normscope.records.examination import History, LayerHistory
from normscope.user_models.state_guard import is_examined
from normscope.user_models.wrappers import stepping_optimizer, unwrapped_model
from normscope.watching.gain_holders import GainHolders
from normscope.watching.hooks import LayerHooks, before_forward, in_backward, run_uncompiled

if TYPE_CHECKING:
    from normscope.watching.watcher import Watcher


@dataclass
class _Counts:
    """The counts of one layer since the observer began.

    `frozen`: it was in eval mode inside a model in train mode, when observing began or at the first
    training forward.
    """

    module: weakref.ref[nn.Module]
    history: LayerHistory
    frozen: bool
    trained: bool = False  # called with gradients
    steps_in_eval: int = 0
    first_in_eval: int | None = None
    updates: int = 0
    calls: int = 1  # the most in one forward of the model
    calls_now: int = 0  # in the forward that runs
    in_backward: int = 0
    without_grad: int = 0
    first_without_grad: int | None = None
    drifted_at: int | None = None
    samples: int | None = None
    eval_in_step: bool = False
    train_in_step: bool = False


class LoopObserver:
    """Counts, per layer with running statistics and per optimizer step, the updates of these.

    Its hooks draw no random numbers, keep no tensor, read nothing from a device and cost about a
    microsecond per layer and forward. They stay behind when the model is copied or pickled. `close`
    takes them off.

    Args:
        model: the model that is trained, or its wrapper.
        optimizer: whose steps count; without it, those of the first optimizer that steps a
            parameter of the model.
        watcher: one whose steps number what is found, and whose account bears the cost.
        stepped: called behind every step, when it is counted. What it raises, the optimizer's
            step() raises, when all is done.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        *,
        watcher: Watcher | None = None,
        stepped: Callable[[], None] | None = None,
    ):
        self.steps = 0
        self.forwards = 0
        self.backwards = 0
        self.moved_between = False  # weights changed between two forwards of one step
        self._backwards_of_steps = Counter[int]()  # {backwards in a step: number of such steps}
        self._backwards_before = 0  # this step
        self._versions: int | None = None
        self.penalties = 0  # gradients with respect to an input that are differentiated once more
        self._input_handles: list[Any] = []
        self._watcher = watcher
        self._stepped = stepped
        model = unwrapped_model(model)
        self._model = weakref.ref(model)
        self._holders = GainHolders(model)
        self._hooks = LayerHooks()
        self._layers = [
            self._observed(name, module)
            for name, module in model.named_modules()
            if isinstance(module, _NormBase) and module.running_mean is not None
        ]
        self._handles: list[Any] = [before_forward(model, self._forward)]
        self._probe = next((p for p in model.parameters() if p.requires_grad), None)
        if self._probe is not None:
            self._handles.append(self._probe.register_post_accumulate_grad_hook(self._backward))
        self._parameters = {id(p) for p in model.parameters()}
        self._handles.append(register_optimizer_step_post_hook(self._any_step))
        self._optimizer: weakref.ref[Optimizer] | None = None
        if optimizer is None:
            self._handles.append(register_optimizer_step_post_hook(self._some_step))
        else:
            stepping = stepping_optimizer(optimizer, model)
            assert stepping is not None
            self._handles.append(stepping.register_step_post_hook(self._step))

    def history(self) -> History:
        """Return the counts so far."""
        accumulation = batches = None
        # Every forward but one that runs now has a backward; else some are extra ones.
        paired = self.forwards <= self.backwards + 1 and not self.moved_between
        if self.steps and self.backwards > self.steps and paired:
            # the usual number, as a scaler that skips a step adds to the next one
            usual = self._backwards_of_steps.most_common(1)[0][0]
            accumulation = usual if usual > 1 else None
            batches = self.backwards
        held = self._holders.facts()
        counted = {counts.history.name: self._history_of(counts) for counts in self._layers}
        layers = {name: LayerHistory(name=name, kind="", steps=self.steps) for name in held}
        return History(
            layers=tuple(
                replace(layer, **held.get(name, {})) for name, layer in (layers | counted).items()
            ),
            steps=self.steps,
            accumulation=accumulation,
            batches=batches,
            penalties=self.penalties,
        )

    def close(self) -> None:
        """Take off every hook."""
        for handle in (*self._handles, *self._input_handles):
            handle.remove()
        self._handles = []
        self._hooks.remove()

    @property
    def _model_trains(self) -> bool:
        model = self._model()
        return model is not None and model.training

    @property
    def _now(self) -> int:
        """The number of the step that is under way."""
        return (self.steps if self._watcher is None else self._watcher.step) + 1

    def _observed(self, name: str, module: _NormBase) -> _Counts:
        trains = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        history = LayerHistory(name=name, kind="batch", trainable=any(trains) if trains else None)
        frozen = self._model_trains and not module.training
        counts = _Counts(weakref.ref(module), history, frozen)
        self._hooks.add(module, functools.partial(self._called, counts), reads_statistics_only=True)
        return counts

    def _called(self, counts: _Counts, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        start = time.perf_counter()
        if not is_examined() and not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            self._count(counts, module, (*args, *kwargs.values()))
        self._spend(start)

    def _count(self, counts: _Counts, module: Any, args: tuple[Any, ...]) -> None:
        if not module.training:
            if not counts.trained and torch.is_grad_enabled():
                counts.frozen |= self._model_trains
            counts.trained |= torch.is_grad_enabled()
            left = not self._model_trains or self._holders.left_in_eval(counts.history.name)
            if torch.is_grad_enabled() and left:
                counts.eval_in_step = True
                counts.first_in_eval = counts.first_in_eval or self._now
            return
        if not module.track_running_stats or not module.momentum:
            return  # nothing moves (a momentum of 0, too), or somebody recalibrates (None)
        counts.trained |= torch.is_grad_enabled()
        counts.updates += 1
        counts.train_in_step = True
        counts.calls_now += not in_backward()
        if self.forwards:
            counts.calls = max(counts.calls, counts.calls_now)
        if in_backward():
            counts.in_backward += 1
        elif not torch.is_grad_enabled():
            counts.without_grad += 1
            if counts.first_without_grad is None:
                counts.first_without_grad = self._now
        if args and isinstance(args[0], Tensor):
            n = len(args[0])
            counts.samples = n if counts.samples is None else min(counts.samples, n)
        if counts.frozen and counts.drifted_at is None:
            counts.frozen = not _was_thawed(counts, module)
            counts.drifted_at = self._now if counts.frozen else None

    def _forward(self, model: nn.Module, args: Any) -> None:
        for counts in self._layers:
            counts.calls_now = 0
        if is_examined() or not model.training or not torch.is_grad_enabled() or in_backward():
            return
        if not self.forwards:
            self._holders.look_at_modes(model)
        self.forwards += 1
        self._await_penalty(args)
        if self._probe is not None:
            self.moved_between |= self._versions not in (None, self._probe._version)
            self._versions = self._probe._version

    def _await_penalty(self, inputs: Any) -> None:
        """Count gradients with respect to these inputs that are differentiated once more."""
        for handle in self._input_handles:
            handle.remove()
        leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad and x.is_leaf]
        self._input_handles = [x.register_hook(self._input_gradient) for x in leaves]

    def _input_gradient(self, gradient: Tensor) -> None:
        self.penalties += torch.is_grad_enabled()  # in a backward pass only with create_graph=True

    def _backward(self, parameter: Tensor) -> None:
        self.backwards += 1

    @run_uncompiled
    def _any_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._steps_the_model(optimizer):
            self._holders.saw(optimizer)

    def _steps_the_model(self, optimizer: Optimizer) -> bool:
        stepped = (p for group in optimizer.param_groups for p in group["params"])
        return any(id(parameter) in self._parameters for parameter in stepped)

    @run_uncompiled
    def _some_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Count a step if it is of the first optimizer that trains the model."""
        if self._optimizer is None and self._steps_the_model(optimizer):
            self._optimizer = weakref.ref(optimizer)
        if self._optimizer is not None and self._optimizer() is optimizer:
            self._step(optimizer, args, kwargs)

    @run_uncompiled
    def _step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        start = time.perf_counter()
        self.steps += 1
        self._versions = None
        self._backwards_of_steps[self.backwards - self._backwards_before] += 1
        self._backwards_before = self.backwards
        for counts in self._layers:
            counts.steps_in_eval += counts.eval_in_step and not counts.train_in_step
            counts.eval_in_step = counts.train_in_step = False
        try:
            if self._stepped is not None:
                self._stepped()
        finally:
            self._spend(start)

    def _spend(self, start: float) -> None:
        if self._watcher is not None:
            self._watcher.spend(start)

    def _history_of(self, counts: _Counts) -> LayerHistory:
        return replace(
            counts.history,
            declared_frozen=counts.frozen,
            steps=self.steps,
            updates=counts.updates - counts.without_grad,
            calls=counts.calls,
            updates_in_backward=counts.in_backward,
            updates_without_grad=counts.without_grad,
            first_without_grad=counts.first_without_grad,
            steps_in_eval=counts.steps_in_eval,
            first_in_eval=counts.first_in_eval,
            drifted_at=counts.drifted_at,
            samples=counts.samples,
        )


def _was_thawed(counts: _Counts, module: nn.Module) -> bool:
    """Tell whether a layer's parameters, once frozen with it, train again: gradual unfreezing."""
    trains = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    return trains and counts.history.trainable is False
