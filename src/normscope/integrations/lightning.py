"""Watching in Lightning: `Trainer(callbacks=[WatchNormalization(path="recording.sqlite")])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normscope.errors import InputError
from normscope.integrations.callback import Watching

if TYPE_CHECKING:
    Callback: Any = object
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        try:
            from pytorch_lightning.callbacks import Callback
        except ImportError:
            raise InputError(
                "The Lightning callback needs Lightning: pip install 'normscope[lightning]'."
            ) from None


class WatchNormalization(Watching, Callback):
    """Watches the module that a Trainer fits, from the start of training to its end, and marks the
    epochs.

    Steps are those of the first optimizer. The arguments are those of `normscope.watch`; `watcher`
    is the watcher, and its `recording` is there after training too.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: the module is on its device, and the optimizers are there."""
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        self._attach(pl_module, optimizer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Mark the epoch, counted from 1."""
        self._mark(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the watcher."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the watcher: what it has is written."""
        self._close(exception)
