"""Arguments of the loop: a run's settings, and where its images come from."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from normscope.errors import RecordError, first_line


@dataclass(frozen=True)
class ResumeState:
    """All that training after `epoch` depends on, beside the seed and the epoch."""

    epoch: int
    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]

    @staticmethod
    def of(
        epoch: int, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> ResumeState:
        """Return a run's state. It shares memory with the model: write it at once."""
        return ResumeState(epoch, step, model.state_dict(), optimizer.state_dict())

    def to_bytes(self) -> bytes:
        """The state in torch's file format."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> ResumeState:
        """The state behind `to_bytes`, on the CPU.

        Raises:
            RecordError: if the bytes are no such state. They are never executed.
        """
        try:
            fields = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return ResumeState(**fields)
        except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise RecordError(f"The record's resume state cannot be read: {reason}.") from error


class Batches(Protocol):
    """Source of images and labels: [N, C, H, W] in the network's floating type, int64 [N], on
    the device.

    A batch is asked for by its number on the device, so that a step is the same work every time and
    can be replayed without the host.
    """

    unit: ClassVar[str]
    """What speed counts: image or byte."""

    train_batches: int
    test_batches: int

    def begin(self, seed: int, epoch: int) -> None:
        """Lay out one epoch for `train_at`, from (seed, epoch) alone, in memory that stays."""
        ...

    def train_size(self, index: int) -> int:
        """Images in a training batch: as many as in batch 0, but for the last."""
        ...

    def train_at(self, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return a batch of the epoch, by its number int64 [1] on the device, and its size."""
        ...

    def test_size(self, index: int) -> int:
        """Images in a test batch: as many as in batch 0, but for the last."""
        ...

    def test_at(self, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A batch of the test images in their order, asked for like one of `train_at`."""
        ...

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images in their order, all batches or the first few."""
        ...


class Plan(Protocol):
    """The settings of a run that the loop reads; a `RunSpec` has them, among others."""

    @property
    def epochs(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def decay_spares(self) -> str: ...
    @property
    def iterations(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def clip(self) -> float: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
