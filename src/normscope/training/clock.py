"""Durations of an epoch's parts, without making a GPU wait for the host."""

from __future__ import annotations

import time

import torch


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
