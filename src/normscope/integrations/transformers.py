"""Watch in Hugging Face's Trainer: `Trainer(..., callbacks=[WatchNormalization(path=...)])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normscope.errors import InputError
from normscope.integrations.callback import Watching

if TYPE_CHECKING:
    TrainerCallback: Any = object
else:
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise InputError(
            "The Trainer callback needs transformers: pip install 'normscope[transformers]'."
        ) from None


class WatchNormalization(Watching, TrainerCallback):
    """Watches the model that a Trainer trains, from the start of training to its end, and marks the
    epochs.

    Norm classes of transformers' own, such as LlamaRMSNorm, are watched too. The arguments are
    those of `normscope.watch`; `watcher` is the watcher, and its `recording` is there after
    training too.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Attach: the model is on its device, and the optimizer is there."""
        self._attach(now["model"], now.get("optimizer"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Mark the epoch, counted from 1."""
        self._mark(int(state.epoch or 0) + 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Close the watcher."""
        self._close()
