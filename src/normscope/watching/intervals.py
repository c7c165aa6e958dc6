"""The steps that are recorded: numbers, functions of the step, schedules that start dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from normscope.errors import InputError, shown

Interval = int | Callable[[int], bool] | None


@dataclass(frozen=True)
class LogSpacedInterval:
    """Every step at first, then ever more rarely, until every `interval` steps.

    The distance between two records doubles whenever the step does, so that early training, where
    most happens, has `first` to `2 * first` records, and as many for each doubling after it.
    """

    interval: int
    first: int

    def __call__(self, step: int) -> bool:
        """Tell whether this step, counted from 1, is recorded."""
        doublings = max(0, (step // self.first).bit_length() - 1)
        return (step - 1) % min(self.interval, 1 << doublings) == 0


class Due(NamedTuple):
    """What one step records."""

    moments: bool
    gradients: bool
    histograms: bool


@dataclass(frozen=True)
class Intervals:
    """The three intervals of a watcher: a number n (steps 1, n + 1, 2n + 1, ...), a function of the
    step, or None.

    Raises:
        InputError: for anything else, or a function that does not take step 1.
    """

    moments: Interval
    gradients: Interval
    histograms: Interval

    def __post_init__(self):
        for parameter, interval in (
            ("every", self.moments),
            ("gradients_every", self.gradients),
            ("histograms_every", self.histograms),
        ):
            _check(parameter, interval)

    def due(self, step: int) -> Due:
        """Return what this step, counted from 1, records."""
        return Due(*(_due(interval, step) for interval in vars(self).values()))

    def described(self) -> dict[str, str]:
        """Return the intervals in words, for the record."""
        return {name: _words(interval) for name, interval in vars(self).items()}


def _check(parameter: str, interval: Interval) -> None:
    if callable(interval):
        try:
            interval(1)
        except Exception as error:
            message = f"{parameter}= is a function that fails at step 1: {error!r}."
            raise InputError(message) from error
    elif interval is not None and (type(interval) is not int or interval < 1):
        raise InputError(
            f"{parameter}={shown(interval)} is no interval: give a number of steps from 1, a "
            "function of the step, or None."
        )


def _due(interval: Interval, step: int) -> bool:
    if interval is None:
        return False
    return bool(interval(step)) if callable(interval) else (step - 1) % interval == 0


def _words(interval: Interval) -> str:
    if isinstance(interval, int):
        return f"every {interval} steps"
    if interval is None:
        return "never"
    if isinstance(interval, LogSpacedInterval):  # its name in older recordings, so that they resume
        return f"Gradually(interval={interval.interval}, first={interval.first})"
    return getattr(interval, "__name__", repr(interval))
