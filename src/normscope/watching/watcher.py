"""The watcher that `watch` returns, and its end with the file, the model or the program."""

from __future__ import annotations

import math
import os
import sys
import warnings
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from normscope.errors import CheckError, InputError, NormscopeWarning
from normscope.records.recording import Recording
from normscope.records.recording_parts import FilePart, Part
from normscope.watching.intervals import Intervals
from normscope.watching.listeners import Listener
from normscope.watching.recorder import Recorder
from normscope.watching.session import Session
from normscope.watching.step_writer import WatchedLayer
from normscope.watching.watched_layers import MatchedLayer

_watchers: weakref.WeakKeyDictionary[nn.Module, Watcher] = weakref.WeakKeyDictionary()


def refuse_watched(layers: list[MatchedLayer]) -> None:
    """Raise an InputError if one of these layers is being watched already."""
    for layer in layers:
        if layer.module in _watchers:
            raise InputError(f"{layer.name} is being watched already. Close that watcher first.")


def is_being_written(file: Path) -> bool:
    """Tell whether a watcher of this process writes the file."""
    return any(watcher.path == file.absolute() for watcher in set(_watchers.values()))


def _in_child_process() -> None:
    """Silence the watchers that a forked data loader inherits: they are its parent's."""
    for watcher in set(_watchers.values()):
        watcher.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_process)


class Watcher:
    """Records a model's layers until it is closed. `watch` makes one; close it, or use it as a
    context manager.

    It also closes when the model dies or the program ends, so nobody has to keep it.

    Attributes:
        findings: those of `watch(check=...)` so far, as `normscope.check` reports them.
    """

    def __init__(
        self,
        model: nn.Module,
        matched: list[MatchedLayer],
        part: Part,
        intervals: Intervals,
        optimizer: Optimizer | None,
        recording_type: type[Recording] = Recording,
        *,
        stream: bool = False,
    ):
        layers = [WatchedLayer.of(layer) for layer in matched]
        self._recorder = Recorder(part, layers, intervals, recording_type)
        self._session = Session(
            model, matched, self._recorder, optimizer, self._stop, stream=stream
        )
        _watchers.update({layer.module: self for layer in matched})
        self._finalizer = weakref.finalize(model, self._end)
        self.findings: list[Any] = []
        self._stopped = False  # by an error, which was said: the training must not see more of it

    def __enter__(self) -> Watcher:
        if not self.active:
            raise InputError("This watcher is closed; watch() makes a new one.")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:  # the body's own error is what the user must see
            self._end()

    @property
    def active(self) -> bool:
        """Tell whether it records: not closed, not stopped by an error."""
        return self._session.active

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return self._session.steps

    @property
    def recording(self) -> Recording:
        """What is recorded so far. On a GPU this waits for it."""
        self.flush()
        return self._recorder.recording

    @property
    def path(self) -> Path | None:
        """The absolute path of the file, None where the record is kept in memory."""
        part = self._recorder.part
        return part.path.absolute() if isinstance(part, FilePart) else None

    def flush(self) -> None:
        """Write what is recorded so far. Where that fails, recording stops with one warning."""
        if self.active:
            try:
                self._recorder.flush(self.step)
            except Exception as error:  # the training must go on
                self._stop(error)

    def mark(self, **labels: str | int | float | bool | None) -> None:
        """Label the steps from here on, for example `mark(epoch=3)`. NaN and infinities are kept as
        text.

        Raises:
            InputError: if the watcher is closed, or a label is neither a number nor a string.
        """
        if not (self.active or self._stopped):
            raise InputError("This watcher is closed; it cannot mark anything.")
        for name, value in labels.items():
            if not isinstance(value, str | int | float | bool | None):
                raise InputError(
                    f"mark() takes numbers and strings, not {name}={type(value).__name__}."
                )
        kept = {name: _as_json_has_it(value) for name, value in labels.items()}
        self._recorder.event("mark", self.step, kept)

    def listen(self, *listeners: Listener) -> None:
        """Call these, too, at each flush and at close."""
        self._recorder.listeners.add(listeners)

    def note(self, reason: str, text: str) -> None:
        """Say once per reason what cannot be recorded: as a warning, and in the record."""
        self._recorder.note(reason, text, step=self.step)

    def spend(self, start: float) -> None:
        """Count the time since `start`, from `time.perf_counter`, as time that watching took."""
        self._recorder.clock(start)

    def resume(self, step: int) -> None:
        """Count on after this step, behind which the recording was truncated."""
        self._recorder.resume()
        self._session.resume(step)

    def close(self, *, quiet: bool = False) -> None:
        """Take off every hook, write what is left and print what watching cost. A second call does
        nothing.

        Raises:
            CheckError: at the very end, with `check="raise"`, for a fault that only now shows in
                the record.
        """
        verdict = self._close(quiet=quiet) if self.active else None
        if verdict is not None:
            raise verdict

    def _end(self) -> None:
        """Close where nobody catches an error."""
        verdict = self._close() if self.active else None
        if verdict is not None:
            warnings.warn(str(verdict), NormscopeWarning, stacklevel=2)

    def _close(self, *, quiet: bool = False) -> CheckError | None:
        try:
            self._session.finish()
            self._detach()
            self._recorder.flush(self.step, complete=True)
        except Exception as error:  # closing may happen at the end of somebody's program
            self._stop(error)
            return None
        if self._recorder.header.rank == 0 and not quiet:
            with suppress(OSError, ValueError):  # stderr may be closed, full or gone
                print(self._recorder.report(), file=sys.stderr)
        return self._recorder.listeners.close()

    def leave_to_parent(self) -> None:
        """In a forked process: do nothing from now on, and nothing at its end."""
        self._session.active = False
        self._finalizer.detach()

    def _stop(self, error: Exception) -> None:
        """Give up recording, with one warning, which the record keeps where it can be written."""
        self._stopped = True
        self._detach()
        self._recorder.listeners.close()
        cause = f"{type(error).__name__}: {error}"
        at = f"The recording stopped at step {self.step + 1}"
        unwritten = self._recorder.stop(self.step, f"{at}. {cause}")
        text = f"{at}; the training goes on. {cause}{unwritten}"
        warnings.warn(text, NormscopeWarning, stacklevel=2)

    def _detach(self) -> None:
        self._session.detach()
        for layer in self._recorder.layers:
            if (module := layer.module()) is not None:
                _watchers.pop(module, None)
        self._finalizer.detach()


def _as_json_has_it(value: str | int | float | bool | None) -> str | int | float | bool | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >> 63:  # beyond what readers' integers hold
        return hex(value)
    return value
