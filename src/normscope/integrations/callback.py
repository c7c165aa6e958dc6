"""The common base of callbacks: their arguments, and the life of the watcher."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from normscope.arguments import given_path
from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning, NothingToWatchError
from normscope.watching.attach import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY
from normscope.watching.intervals import BUDGET, Interval
from normscope.watching.listeners import Listener
from normscope.watching.watched_layers import LayerSelector
from normscope.watching.watcher import Watcher


class Watching:
    """A watcher from the start of a training to its end. The arguments are those of
    `normscope.watch`.

    With `check="raise"` a fault ends the training behind the step in which it shows; what is
    recorded is written. A model without a layer to watch is one warning, and trains on. A second
    fit with the same callback is recorded beside the first: `run.sqlite`, then `run-2.sqlite`.

    To be the first base of a callback, before the trainer's own.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        layers: LayerSelector | None = None,
        every: Interval = EVERY,
        histograms_every: Interval = HISTOGRAMS_EVERY,
        gradients_every: Interval = GRADIENTS_EVERY,
        budget: float | None = BUDGET,
        check: bool | Literal["raise"] = False,
        sinks: Iterable[Listener] = (),
    ):
        super().__init__()
        self.watcher: Watcher | None = None
        self._fits = 0
        self._settings: dict[str, Any] = {
            "path": path,
            "layers": layers,
            "every": every,
            "histograms_every": histograms_every,
            "gradients_every": gradients_every,
            "budget": budget,
            "check": check,
            "sinks": tuple(sinks),
        }

    def _attach(self, model: Any, optimizer: Any) -> None:
        """Attach the watcher; where there is nothing to watch, say so in one warning."""
        try:
            self.watcher = watch(model, optimizer=optimizer, **self._settings | self._path())
        except NothingToWatchError as error:
            text = f"Nothing is recorded; the training goes on. {error}"
            warnings.warn(text, NormscopeWarning, stacklevel=3)

    def _path(self) -> dict[str, Any]:
        """Return the path of this fit's recording: with a number from the second fit on."""
        path, self._fits = self._settings["path"], self._fits + 1
        if path is None or self._fits == 1:
            return {}
        path = given_path(path, "path")
        return {"path": path.with_name(f"{path.stem}-{self._fits}{path.suffix}")}

    def _mark(self, epoch: int) -> None:
        """Label what follows with an epoch, counted from 1."""
        if self.watcher is not None and self.watcher.active:
            self.watcher.mark(epoch=epoch)

    def _close(self, error: BaseException | None = None) -> None:
        """Close the watcher; its recording stays. An error that ended the training is not hidden by
        a fault.
        """
        if self.watcher is not None:
            self.watcher.__exit__(None if error is None else type(error), error, None)
