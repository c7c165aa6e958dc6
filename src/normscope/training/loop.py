"""The training loop. It is closed: what is measured, stored and shown on the way arrives as callbacks.

Everything an epoch measures stays on the device until its end, where one transfer brings it to the host: on a GPU that
is the epoch's only synchronization.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.training.clock import Clock
from normscope.training.precision import autocast
from normscope.training.resume import ResumeState
from normscope.training.schedule import learning_rate


class Batches(Protocol):
    """Where images and labels come from: [N, C, H, W] in the network's floating type, int64 [N], on the device."""

    train_batches: int
    test_batches: int

    def train(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, which depend on (seed, epoch) alone."""
        ...

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images in their order, all batches or the first few."""
        ...


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know of a run."""

    epochs: int
    seed: int
    learning_rate: float
    schedule: str
    momentum: float
    weight_decay: float
    device: str
    precision: str


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its scalars (None where one is not finite) and the state to go on from."""

    number: int
    step: int  # optimizer steps since the start of the run
    scalars: dict[str, float | None]
    state: ResumeState


@dataclass(frozen=True)
class Outcome:
    """How training ended: "finished", or "diverged" with the step of the first loss that was not finite."""

    status: str
    diverged_step: int | None = None


class Callback:
    """What may be hung into the loop. Each method does nothing here; override what is needed."""

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Before the first epoch that is trained, when the network and its optimizer are as it will find them."""

    def on_epoch_start(self, epoch: int) -> None:
        """Before the first step of an epoch."""

    def on_backward(self, index: int) -> None:
        """Gradients of step `index` of the epoch (from 0) are there and not yet used. Must not synchronize."""

    def on_step(self, epoch: int, index: int) -> None:
        """Step `index` of the epoch is done. Must not synchronize."""

    def scalars(self) -> dict[str, Tensor]:
        """0-dim tensors on the device that belong to the epoch which ends; the loop brings them to the host."""
        return {}

    def on_epoch(self, epoch: Epoch) -> None:
        """The epoch is over, evaluated, and the network in eval mode."""


def optimizer_of(model: nn.Module, plan: Plan) -> torch.optim.SGD:
    """SGD over all parameters, in its fused form."""
    return torch.optim.SGD(
        model.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=True
    )


def train(
    model: nn.Module,
    batches: Batches,
    plan: Plan,
    *,
    callbacks: Sequence[Callback] = (),
    resume: ResumeState | None = None,
) -> Outcome:
    """Train the network, from its first epoch or from where a state left off.

    A loss that is not finite ends the run after its epoch with the outcome "diverged": that is a result.
    """
    optimizer = optimizer_of(model, plan)
    done, step = 0, 0
    if resume is not None:
        model.load_state_dict(resume.model)
        optimizer.load_state_dict(resume.optimizer)
        done, step = resume.epoch, resume.step
    for callback in callbacks:
        callback.on_start(model, optimizer)
    for number in range(done + 1, plan.epochs + 1):
        epoch = _one_epoch(model, optimizer, batches, plan, number, step, callbacks)
        step = epoch.step
        for callback in callbacks:
            callback.on_epoch(epoch)
        first_bad = epoch.scalars["first_non_finite_step"]
        if first_bad is not None:
            return Outcome("diverged", int(first_bad))
    return Outcome("finished")


def _one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    plan: Plan,
    number: int,
    steps_before: int,
    callbacks: Sequence[Callback],
) -> Epoch:
    rate = learning_rate(plan.schedule, plan.learning_rate, number, plan.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate
    for callback in callbacks:
        callback.on_epoch_start(number)
    clock = Clock(plan.device)
    train_totals, losses = _train_steps(model, optimizer, batches, plan, number, callbacks)
    clock.lap("train")
    test_totals = evaluate(model, batches, plan)
    clock.lap("test")

    measured = {
        **{f"train_{name}": value for name, value in train_totals.items()},
        **{f"test_{name}": value for name, value in test_totals.items()},
        "first_non_finite": _first_non_finite(torch.cat([losses, test_totals["loss"].reshape(1)])),
    }
    for callback in callbacks:
        measured |= callback.scalars()
    host = to_host(measured)  # the epoch's one synchronization

    steps, images = len(losses), host.pop("train_images")
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
        "first_non_finite_step": None if first_bad > steps else steps_before + min(first_bad + 1, steps),
    }
    state = ResumeState.of(number, steps_before + steps, model, optimizer)
    return Epoch(number, steps_before + steps, scalars, state)


def _train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    plan: Plan,
    number: int,
    callbacks: Sequence[Callback],
) -> tuple[dict[str, Tensor], Tensor]:
    """Totals of the epoch's training batches, and the loss of every step, all on the device."""
    model.train()
    totals = _Totals(plan.device)
    losses = torch.full((batches.train_batches,), math.nan, device=plan.device)
    for index, (images, labels) in enumerate(batches.train(plan.seed, number)):
        optimizer.zero_grad(set_to_none=True)
        with autocast(plan.precision, plan.device):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        for callback in callbacks:
            callback.on_backward(index)
        optimizer.step()
        totals.add(logits.detach(), labels, loss.detach())
        losses[index] = loss.detach()
        for callback in callbacks:
            callback.on_step(number, index)
    return totals.means(), losses


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, plan: Plan) -> dict[str, Tensor]:
    """{"loss", "accuracy", "images"} of the test images in eval mode, on the device. Leaves the model in eval mode."""
    model.eval()
    totals = _Totals(plan.device)
    for images, labels in batches.test():
        with autocast(plan.precision, plan.device):
            logits = model(images)
        totals.add(logits, labels, F.cross_entropy(logits.float(), labels))
    return totals.means()


class _Totals:
    """Sums over batches, weighted by their sizes, in float64 where the device has it."""

    def __init__(self, device: str):
        dtype = torch.float32 if device == "mps" else torch.float64
        self.loss = torch.zeros((), dtype=dtype, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.images += len(labels)

    def means(self) -> dict[str, Tensor]:
        images = torch.full_like(self.loss, self.images)
        return {"loss": self.loss / images, "accuracy": self.correct / images, "images": images}


def _first_non_finite(losses: Tensor) -> Tensor:
    """Index of the first loss that is not finite; the number of losses where all are."""
    indices = torch.arange(len(losses), device=losses.device)
    return torch.where(losses.isfinite(), len(losses), indices).min()


def to_host(values: dict[str, Tensor]) -> dict[str, float]:
    """The values of 0-dim device tensors as floats, brought over in one transfer."""
    dtype = torch.float32 if any(value.device.type == "mps" for value in values.values()) else torch.float64
    return dict(zip(values, torch.stack([value.to(dtype) for value in values.values()]).tolist(), strict=True))
