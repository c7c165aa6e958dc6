"""The training loop. It is closed: what is measured, stored and shown on the way is in callbacks.

Everything an epoch measures stays on the device until its end, where one transfer brings it to the
host: on a GPU that is the epoch's only synchronization.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.training.graphs import GraphReplay, own_stream
from normscope.training.optimizers import learning_rate, optimizer_of, warmed_up
from normscope.training.passes import TestPass, TrainingPass
from normscope.training.plan import Batches, Plan, ResumeState
from normscope.training.precision import repeatable


class Clock:
    """Laps since the clock was made; on CUDA they are events: synchronize before reading."""

    def __init__(self, device: str):
        self._device = device
        self._marks = [("start", self._mark())]

    def lap(self, name: str) -> None:
        """End the current lap under this name."""
        self._marks.append((name, self._mark()))

    def seconds(self) -> dict[str, float]:
        """{lap: seconds}."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {name: self._between(before, after) for (_, before), (name, after) in pairs}

    def _mark(self) -> float | torch.cuda.Event:
        if self._device != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
        if isinstance(before, float) and isinstance(after, float):
            return after - before
        assert isinstance(before, torch.cuda.Event)
        assert isinstance(after, torch.cuda.Event)
        after.synchronize()  # at the end of an epoch, where the host has waited already
        return before.elapsed_time(after) / 1000


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its scalars (None where not finite) and the state to resume from."""

    number: int
    step: int  # optimizer steps since the start of the run
    scalars: dict[str, float | None]
    state: ResumeState


@dataclass(frozen=True)
class Outcome:
    """The end of a training: "finished", or "diverged" with the first non-finite step."""

    status: str
    diverged_step: int | None = None
    # why its steps were not replayed from a CUDA graph; None where they were
    not_captured: str | None = None


class Callback:
    """Base of callbacks of the loop. Each method does nothing here; override what is needed.

    Attributes:
        not_captured: why steps cannot be replayed from a CUDA graph while this callback is there,
            in one phrase: it runs Python inside of them, in hooks. None if it does not.
    """

    not_captured: str | None = None

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Before the first epoch that is trained; network and optimizer are ready for it."""

    def on_epoch_start(self, epoch: int) -> None:
        """Before the first step of an epoch."""

    def on_backward(self, index: Tensor) -> None:
        """Gradients of a step are there and not yet used. `index` is its number in the epoch from
        0, int64 [1].

        Part of the step, and captured with it: must do nothing but launch work on the device, the
        same every time.
        """

    def on_step(self, epoch: int, index: int) -> None:
        """Step `index` of the epoch is done, or on its way to a GPU. Must not synchronize."""

    def scalars(self) -> dict[str, Tensor]:
        """0-dim tensors on the device for the ending epoch; the loop brings them to the host."""
        return {}

    def on_epoch(self, epoch: Epoch) -> None:
        """The epoch is over, evaluated, and the network in eval mode."""


def train(
    model: nn.Module,
    batches: Batches,
    plan: Plan,
    *,
    callbacks: Sequence[Callback] = (),
    resume: ResumeState | None = None,
    not_captured: str | None = "not asked for",
) -> Outcome:
    """Train the network, from its first epoch or from where a state left off.

    A loss that is not finite ends the run after its epoch with the outcome "diverged": that is a
    result.

    Args:
        not_captured: why steps are not to be captured in a CUDA graph; None has them captured if
            the callbacks allow.

    Raises:
        NormscopeError: if steps are to be captured and cannot be.
    """
    with own_stream(plan.device), repeatable(plan.device):
        optimizer = optimizer_of(model, plan)
        done, step = 0, 0
        if resume is not None:
            model.load_state_dict(resume.model)
            optimizer.load_state_dict(resume.optimizer)
            done, step = resume.epoch, resume.step
        for callback in callbacks:
            callback.on_start(model, optimizer)
            not_captured = not_captured or callback.not_captured
        epochs = _Epochs(model, optimizer, batches, plan, callbacks, not_captured)
        for number in range(done + 1, plan.epochs + 1):
            epoch = epochs.train(number, step)
            step = epoch.step
            for callback in callbacks:
                callback.on_epoch(epoch)
            first_bad = epoch.scalars["first_non_finite_step"]
            if first_bad is not None:
                return Outcome("diverged", int(first_bad), epochs.not_captured)
        return Outcome("finished", not_captured=epochs.not_captured)


class _Epochs:
    """Train and evaluate one epoch after the other."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        plan: Plan,
        callbacks: Sequence[Callback],
        not_captured: str | None,
    ):
        self._model, self._optimizer, self._batches, self._plan = model, optimizer, batches, plan
        self._callbacks = callbacks
        self._training = TrainingPass(
            model, optimizer, batches, plan, [each.on_backward for each in callbacks]
        )
        self._testing = TestPass(model, batches, plan)
        self._steps = plan.iterations or plan.epochs * batches.train_batches
        self._train_step = GraphReplay(self._training.step, batches.train_size(0), not_captured)
        self._test_step = GraphReplay(self._testing.step, batches.test_size(0), not_captured)

    @property
    def not_captured(self) -> str | None:
        """The reason why training steps were not replayed; None where they were."""
        if self._train_step.captured:
            return None
        return self._train_step.obstacle or "it ended within the steps that come before a capture"

    def train(self, number: int, steps_before: int) -> Epoch:
        """Train epoch `number`, counted from 1, and evaluate it."""
        rate = self._rate(number, steps_before + 1)
        steps = min(self._batches.train_batches, self._steps - steps_before)
        for callback in self._callbacks:
            callback.on_epoch_start(number)
        clock = Clock(self._plan.device)
        self._train_steps(number, steps, steps_before)
        clock.lap("train")
        self._evaluate()
        clock.lap("test")
        host = to_host(self._measured(steps))  # the epoch's one synchronization

        images = host.pop("train_images")
        host.pop("test_images")
        seconds = clock.seconds()
        first_bad = int(host.pop("first_non_finite"))
        scalars = {
            **{name: value if math.isfinite(value) else None for name, value in host.items()},
            "learning_rate": rate,
            "step": steps_before + steps,
            "train_seconds": seconds["train"],
            "seconds": seconds["train"] + seconds["test"],
            "images_per_second": images / seconds["train"],
            # the test loss comes after the last step and counts as that step's
            "first_non_finite_step": None
            if first_bad > steps
            else steps_before + min(first_bad + 1, steps),
        }
        state = ResumeState.of(number, steps_before + steps, self._model, self._optimizer)
        return Epoch(number, steps_before + steps, scalars, state)

    def _rate(self, number: int, step: int) -> float:
        """The learning rate of a step of an epoch, both counted from 1, without warm-up."""
        plan, done = self._plan, (step - 1) / self._steps
        return learning_rate(plan.schedule, plan.learning_rate, number, plan.epochs, done)

    def _train_steps(self, number: int, steps: int, steps_before: int) -> None:
        rate = set_to = self._rate(number, steps_before + 1)
        self._training.begin(number, rate)
        for index in range(steps):
            step = steps_before + index + 1
            now = warmed_up(self._rate(number, step), step, self._plan.warmup)
            if now != set_to:
                self._training.set_rate(now)
                set_to = now
            self._train_step(self._batches.train_size(index))
            for callback in self._callbacks:
                callback.on_step(number, index)
        self._training.end(rate)

    def _evaluate(self) -> None:
        """Leaves the model in eval mode."""
        self._testing.begin()
        for index in range(self._batches.test_batches):
            self._test_step(self._batches.test_size(index))

    def _measured(self, steps: int) -> dict[str, Tensor]:
        """All that the epoch measured in so many steps, on the device."""
        train, test = self._training.totals.means(), self._testing.totals.means()
        losses = torch.cat([self._training.losses[:steps], test["loss"].reshape(1)])
        indices = torch.arange(len(losses), device=losses.device)
        measured = {
            **{f"train_{name}": value for name, value in train.items()},
            **{f"test_{name}": value for name, value in test.items()},
            "first_non_finite": torch.where(losses.isfinite(), len(losses), indices).min(),
        }
        for callback in self._callbacks:
            measured |= callback.scalars()
        return measured


def to_host(values: dict[str, Tensor]) -> dict[str, float]:
    """The values of 0-dim device tensors as floats, brought over in one transfer."""
    on_mps = any(value.device.type == "mps" for value in values.values())
    dtype = torch.float32 if on_mps else torch.float64
    numbers = torch.stack([value.to(dtype) for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
