"""What a training loop does to the running statistics, counted on the host: no value on a device is read."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normscope.forwards.guard import is_examined
from normscope.records.examination import History, LayerHistory

graph_task = torch._C._current_graph_task_id  # type: ignore[attr-defined]  # -1 outside of backward


@dataclass
class _Counts:
    """One layer's, since the observer began."""

    module: weakref.ref[nn.Module]
    history: LayerHistory
    steps_in_eval: int = 0
    updates: int = 0
    in_backward: int = 0
    without_grad: int = 0
    first_without_grad: int | None = None
    drifted_at: int | None = None
    samples: int | None = None
    eval_in_step: bool = field(default=False)
    train_in_step: bool = field(default=False)


class LoopObserver:
    """Counts, per layer with running statistics and per optimizer step, what moved them.

    Its hooks draw no random numbers, keep no tensor, read nothing from a device and cost about a microsecond per layer
    and forward. `close` takes them off.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.steps = 0
        self.forwards = 0
        self.backwards = 0
        self.moved_between = False  # weights changed between two forwards of one step
        self._versions: int | None = None
        self._layers: list[_Counts] = []
        self._handles: list[Any] = []
        self._probe = next((p for p in model.parameters() if p.requires_grad), None)
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                self._attach(name, module, model.training)
        self._handles.append(model.register_forward_pre_hook(self._forward))
        self._handles.append(optimizer.register_step_post_hook(self._step))
        if self._probe is not None:
            self._handles.append(self._probe.register_post_accumulate_grad_hook(self._backward))

    def history(self) -> History:
        """What was counted so far."""
        accumulation = None
        own_backward = self.forwards <= self.backwards  # of every forward; otherwise forwards are extra
        if self.steps and self.backwards > self.steps and own_backward and not self.moved_between:
            accumulation = round(self.backwards / self.steps)
        layers = tuple(self._history_of(counts) for counts in self._layers)
        return History(layers=layers, steps=self.steps, accumulation=accumulation)

    def close(self) -> None:
        """Take off every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _attach(self, name: str, module: _NormBase, model_trains: bool) -> None:
        trainable = any(p.requires_grad for p in module.parameters(recurse=False)) or None
        frozen = model_trains and not module.training
        history = LayerHistory(name=name, kind="batch", declared_frozen=frozen, trainable=trainable)
        counts = _Counts(weakref.ref(module), history)
        self._layers.append(counts)
        self._handles.append(module.register_forward_hook(lambda m, args, output: self._called(counts, m, args)))

    def _called(self, counts: _Counts, module: Any, args: tuple[Any, ...]) -> None:
        if is_examined():
            return
        if not module.training:
            counts.eval_in_step |= torch.is_grad_enabled()
            return
        if not module.track_running_stats or module.momentum is None:
            return  # nothing moves, or somebody recalibrates
        counts.updates += 1
        counts.train_in_step = True
        if graph_task() != -1:
            counts.in_backward += 1
        elif not torch.is_grad_enabled():
            counts.without_grad += 1
            if counts.first_without_grad is None:
                counts.first_without_grad = self.steps + 1
        if args and isinstance(args[0], Tensor):
            n = len(args[0])
            counts.samples = n if counts.samples is None else min(counts.samples, n)
        if counts.history.declared_frozen and counts.drifted_at is None:
            counts.drifted_at = self.steps + 1

    def _forward(self, model: nn.Module, args: Any) -> None:
        if is_examined() or not model.training or not torch.is_grad_enabled() or graph_task() != -1:
            return
        self.forwards += 1
        if self._probe is not None:
            self.moved_between |= self._versions is not None and self._probe._version != self._versions
            self._versions = self._probe._version

    def _backward(self, parameter: Tensor) -> None:
        self.backwards += 1

    def _step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        self._versions = None
        for counts in self._layers:
            counts.steps_in_eval += counts.eval_in_step and not counts.train_in_step
            counts.eval_in_step = counts.train_in_step = False

    def _history_of(self, counts: _Counts) -> LayerHistory:
        return replace(
            counts.history,
            steps=self.steps,
            updates=counts.updates - counts.without_grad,
            updates_in_backward=counts.in_backward,
            updates_without_grad=counts.without_grad,
            first_without_grad=counts.first_without_grad,
            steps_in_eval=counts.steps_in_eval,
            drifted_at=counts.drifted_at,
            samples=counts.samples,
        )
