"""The interface of sinks: a log per run that takes scalars, histograms and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from normscope.records.histogram import Histogram


class Log(Protocol):
    """Where the numbers of one run go."""

    @property
    def last(self) -> int:
        """The last step that it holds, of this or an earlier process; 0 if it is new."""
        ...

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """Take what belongs to one step (an epoch, for runs of a study). All of it, or nothing, is
        kept.
        """
        ...

    def figure(self, step: int, name: str, png: Path) -> None:
        """Take a picture."""
        ...

    def flush(self) -> None:
        """Let readers see what was written."""
        ...

    def close(self) -> None:
        """The last call."""
        ...


class Sink(Protocol):
    """A dashboard: `TensorBoard`, `WandB`, or for a study anything with this method."""

    def open(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        axis: str = "step",
        resume: bool = True,
    ) -> Log:
        """The log of this name.

        Args:
            name: of the run.
            config: the run's settings, as plain values.
            group: what the run belongs to: the study.
            axis: what `Log.write` counts: "epoch", "epochs" (of all runs together) or "step".
            resume: take up the log of this name that is there; otherwise a new one is wanted.
        """
        ...
