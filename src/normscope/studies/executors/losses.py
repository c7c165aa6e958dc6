"""Processes that died while they trained: how many a run has lost."""

from __future__ import annotations

from dataclasses import dataclass

from normscope.studies.progress_message import Progress
from normscope.words import plural


@dataclass
class Losses:
    """The workers that one run lost."""

    epochs: int = 0  # whole epochs that were heard of
    deaths: int = 0  # workers lost since
    total: int = 0

    def note(self, progress: Progress) -> None:
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
