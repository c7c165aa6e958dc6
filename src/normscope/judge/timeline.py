"""The time axis of a recording, epochs or else steps, and which of many steps are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normscope.errors import InputError
from normscope.records.recording import Recording


@dataclass(frozen=True)
class Timeline:
    """Converter from steps to positions on a figure's time axis."""

    starts: np.ndarray  # steps done before each epoch; may be empty
    steps: int

    @classmethod
    def of(cls, recording: Recording) -> Timeline:
        """Return that of a recording."""
        starts = sorted(recording.epochs.values())
        return cls(np.array(starts, np.float64), max(1, recording.cost.steps))

    @property
    def epochs(self) -> int:
        """The number of epochs; a recording without marks is one."""
        return max(1, len(self.starts))

    @property
    def label(self) -> str:
        """The axis label."""
        return "epoch" if len(self.starts) else "step"

    @property
    def end(self) -> float:
        """The end of the axis, which begins at 0."""
        return float(len(self.starts) or self.steps)

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Return the positions of steps, counted from 1; an epoch's last is at a whole number."""
        if not len(self.starts):
            return steps.astype(np.float64)
        return np.interp(steps, [*self.starts, self.steps], np.arange(len(self.starts) + 1.0))

    def span(self, epoch: int) -> tuple[int, int]:
        """Return the first and last step of an epoch, counted from 1; of the whole recording where
        epochs were not marked.

        Raises:
            InputError: if there is no such epoch.
        """
        if not len(self.starts):
            return 1, self.steps
        if not 1 <= epoch <= len(self.starts):
            last = len(self.starts)
            raise InputError(f"The recording has no epoch {epoch}; expected 1 to {last}.")
        ends = [*self.starts[1:], self.steps]
        return int(self.starts[epoch - 1]) + 1, int(ends[epoch - 1])


def evenly_spread(available: int, wanted: int) -> list[int]:
    """Return at most that many indices of steps or channels, the first and the last among them."""
    spread = np.linspace(0, available - 1, min(available, wanted))
    return np.unique(spread.round().astype(int)).tolist()
