"""Messages about a run's progress, small enough to be sent between processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from normscope.records.progress import RunProgress
from normscope.training.loop import Callback, Epoch
from normscope.words import plural


@dataclass
class Losses:
    """The workers that one run lost."""

    epochs: int = 0  # whole epochs that were heard of
    deaths: int = 0  # workers lost since
    total: int = 0

    def note(self, progress: RunProgress) -> None:
        """Forget the deaths when the run has got on."""
        if int(progress.epochs_done) > self.epochs:
            self.epochs, self.deaths = int(progress.epochs_done), 0

    def count(self) -> None:
        """Count one more."""
        self.deaths += 1
        self.total += 1

    def sentence(self) -> str:
        """Return a sentence about the workers that died; empty if none did."""
        if not self.total:
            return ""
        return f"{plural(self.total, 'worker')} died on the way, others went on"


Report = Callable[[RunProgress], None]

SECONDS_BETWEEN_REPORTS = 0.5


class ProgressCallback(Callback):
    """Report a run's progress after every epoch, and twice a second within one."""

    def __init__(
        self,
        run: str,
        steps_per_epoch: int,
        report: Report,
        epochs_done: int = 0,
        unit: str = "image",
    ):
        self._run, self._steps, self._report = run, steps_per_epoch, report
        self._last = RunProgress(run, epochs_done, unit=unit)
        self._reported = time.monotonic()
        report(self._last)

    def on_step(self, epoch: int, index: int) -> None:
        now = time.monotonic()
        if now - self._reported < SECONDS_BETWEEN_REPORTS:
            return
        self._reported = now
        done = epoch - 1 + (index + 1) / self._steps
        self._report(replace(self._last, epochs_done=done))

    def on_epoch(self, epoch: Epoch) -> None:
        scalars = epoch.scalars
        self._last = replace(
            self._last,
            epochs_done=epoch.number,
            train_loss=scalars["train_loss"],
            test_accuracy=scalars["test_accuracy"],
            images_per_second=scalars["images_per_second"],
        )
        self._report(self._last)
