"""The steps of an epoch as work on the device that is the same every time.

Whatever changes from step to step is in tensors that keep their memory: the number of steps done,
the learning rate, the epoch's order and draws. Nothing in a step is decided or remembered by
Python, so a step can be captured in a CUDA graph and replayed, with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.training.plan import Batches, Plan
from normscope.training.precision import autocast


class TrainingPass:
    """The training steps of one epoch after the other.

    Args:
        on_backward: called in every step when its gradients are there, with the number of the step
            in its epoch, int64 [1] on the device. Must do nothing but launch work there.

    Attributes:
        losses: float32 [steps], the loss of every step of the epoch so far, NaN for the others.
        totals: of the epoch so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        plan: Plan,
        on_backward: Sequence[Callable[[Tensor], None]] = (),
    ):
        self._model, self._optimizer, self._batches, self._plan = model, optimizer, batches, plan
        self._on_backward = on_backward
        self._index = torch.zeros(1, dtype=torch.int64, device=plan.device)
        self._rate = rate_on_device(plan.device)
        self.losses = torch.full((batches.train_batches,), math.nan, device=plan.device)
        self.totals = Totals(plan.device)

    def begin(self, epoch: int, rate: float) -> None:
        """Prepare for the first step of an epoch with this learning rate."""
        self._model.train()
        self._batches.begin(self._plan.seed, epoch)
        self._index.zero_()
        self.losses.fill_(math.nan)
        self.totals.zero()
        self.set_rate(rate)

    def end(self, rate: float) -> None:
        """Leave the learning rate as a number in the optimizer, whose state is stored next."""
        self._put_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Take the next steps at this learning rate."""
        self._put_rate(rate if self._rate is None else self._rate.fill_(rate))

    def step(self, size: int) -> None:
        """The epoch's next step, on a batch of this size."""
        self._optimizer.zero_grad(set_to_none=True)
        images, labels = self._batches.train_at(self._index, size)
        with autocast(self._plan.precision, self._plan.device):
            logits = self._model(images)
        loss = mean_loss(logits, labels)
        loss.backward()
        for measure in self._on_backward:
            measure(self._index)
        if self._plan.clip:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._plan.clip)
        self._optimizer.step()
        self.totals.add(logits.detach(), labels, loss.detach())
        self.losses[self._index] = loss.detach()
        self._index += 1

    def _put_rate(self, rate: float | Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate


def rate_on_device(device: str) -> Tensor | None:
    """Return the learning rate's tensor on CUDA, which the optimizer's kernel reads as float32;
    None where it is a number.

    A number would be captured with the step.
    """
    return torch.zeros((), device=device) if device == "cuda" else None


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of logits [..., classes] and labels [...]."""
    return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten())


class TestPass:
    """The evaluation of the test images, in eval mode."""

    __test__ = False  # for pytest: it is no test

    def __init__(self, model: nn.Module, batches: Batches, plan: Plan):
        self._model, self._batches, self._plan = model, batches, plan
        self._index = torch.zeros(1, dtype=torch.int64, device=plan.device)
        self.totals = Totals(plan.device)

    def begin(self) -> None:
        """Prepare for the first batch. Leaves the model in eval mode."""
        self._model.eval()
        self._index.zero_()
        self.totals.zero()

    @torch.no_grad()
    def step(self, size: int) -> None:
        """The next batch, of this size."""
        images, labels = self._batches.test_at(self._index, size)
        with autocast(self._plan.precision, self._plan.device):
            logits = self._model(images)
        self.totals.add(logits, labels, mean_loss(logits, labels))
        self._index += 1


class Totals:
    """Sums over batches, weighted by their sizes, in float64 where the device has it."""

    def __init__(self, device: str):
        dtype = torch.float32 if device == "mps" else torch.float64
        self._loss = torch.zeros((), dtype=dtype, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._images = torch.zeros((), dtype=dtype, device=device)

    def zero(self) -> None:
        """Begin anew, in the same memory."""
        for total in (self._loss, self._correct, self._images):
            total.zero_()

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: logits [..., classes], labels int64 [...], and its mean loss."""
        self._loss += loss * labels.numel()
        self._correct += (logits.argmax(-1) == labels).sum()
        self._images += labels.numel()

    def means(self) -> dict[str, Tensor]:
        """{"loss", "accuracy", "images"}, 0-dim, on the device."""
        images = self._images.clone()
        return {"loss": self._loss / images, "accuracy": self._correct / images, "images": images}
