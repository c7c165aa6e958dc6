"""Watching in Lightning: `Trainer(callbacks=[WatchNormalization(path="recording.sqlite")])`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import InputError
from normscope.probes.intervals import Interval
from normscope.probes.layers import LayerSelector
from normscope.probes.watch import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY, watch
from normscope.probes.watcher import Watcher

if TYPE_CHECKING:
    Callback: Any = object
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback
        except ImportError:
            raise InputError("The Lightning callback needs Lightning: pip install 'normscope[lightning]'.") from None


class WatchNormalization(Callback):
    """Watches the module that a Trainer fits, from the start of training to its end, and marks the epochs.

    Steps are those of the first optimizer. The arguments are those of `normscope.watch`; `watcher` is the watcher, and
    its `recording` is there after training too.
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

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: the module is on its device, and the optimizers are there."""
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        self.watcher = watch(pl_module, optimizer=optimizer, **self._settings)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Mark the epoch, counted from 1."""
        if self.watcher is not None and self.watcher.active:
            self.watcher.mark(epoch=trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the watcher."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the watcher: what it has is written."""
        self._close()

    def _close(self) -> None:
        if self.watcher is not None:
            self.watcher.close()
