"""The state from which a run resumes, as bytes: tensors and numbers, read without running code."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch

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
