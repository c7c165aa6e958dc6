"""Learning rates as a pure function of the epoch, so that going on needs no scheduler state."""

from __future__ import annotations

import math

from normscope.errors import lookup


def _cosine(epoch: int, epochs: int) -> float:
    return (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def _constant(epoch: int, epochs: int) -> float:
    return 1.0


SCHEDULES = {"cosine": _cosine, "constant": _constant}


def warmed_up(rate: float, step: int, warmup: int) -> float:
    """The learning rate of a step, counted from 1, that rises over `warmup` steps to `rate`."""
    return rate * min(1.0, step / warmup) if warmup else rate


def learning_rate(schedule: str, initial: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 1.

    "cosine" is Loshchilov & Hutter (2017), eq. 5, without restarts and down to zero, as
    `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)` stepped once per epoch
    sets it.
    """
    return initial * lookup("schedule", schedule, SCHEDULES)(epoch, epochs)
