"""Watching in Hugging Face's Trainer: `Trainer(..., callbacks=[WatchNormalization(path="recording.sqlite")])`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import InputError
from normscope.probes.intervals import Interval
from normscope.probes.layers import LayerSelector
from normscope.probes.watch import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY, watch
from normscope.probes.watcher import Watcher

if TYPE_CHECKING:
    TrainerCallback: Any = object
else:
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise InputError("The Trainer callback needs transformers: pip install 'normscope[transformers]'.") from None


class WatchNormalization(TrainerCallback):
    """Watches the model that a Trainer trains, from the start of training to its end, and marks the epochs.

    Many models of transformers have normalization classes of their own, such as LlamaRMSNorm: make them known with
    `normscope.probes.layers.register_normalization`, or name them in `layers`. The arguments are those of
    `normscope.watch`; `watcher` is the watcher, and its `recording` is there after training too.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        layers: LayerSelector | None = None,
        every: Interval = EVERY,
        histograms_every: Interval = HISTOGRAMS_EVERY,
        gradients_every: Interval = GRADIENTS_EVERY,
    ):
        super().__init__()
        self.watcher: Watcher | None = None
        self._settings: dict[str, Any] = {
            "path": path,
            "layers": layers,
            "every": every,
            "histograms_every": histograms_every,
            "gradients_every": gradients_every,
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Attach: the model is on its device, and the optimizer is there."""
        self.watcher = watch(now["model"], optimizer=now.get("optimizer"), **self._settings)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Mark the epoch, counted from 1."""
        if self.watcher is not None and self.watcher.active:
            self.watcher.mark(epoch=int(state.epoch or 0) + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Close the watcher."""
        if self.watcher is not None:
            self.watcher.close()
