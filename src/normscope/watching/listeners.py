"""Listeners to what a watcher writes: sinks, a check that judges as it goes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Protocol

from normscope.errors import CheckError, NormscopeWarning, one_line
from normscope.records.recording import Recording
from normscope.watching.interrupts import noticing_signals


class Listener(Protocol):
    """Anything that wants to know what a watcher records.

    It is called in the process that trains, between two steps; its time counts as time that
    watching took. An error of its own ends it with one warning, a SystemExit or KeyboardInterrupt
    too: neither the training nor the recording stops. A real Ctrl-C reaches the program.
    """

    def flushed(self, recording: Recording) -> None:
        """Take new data: about every half minute, at a full block, when somebody asks for the
        recording, and at close. Nothing may have changed since the last call.
        """
        ...

    def close(self) -> None:
        """The last call: the recording is complete, or was given up."""
        ...


class Listeners:
    """A watcher's listeners, called one after the other."""

    def __init__(self):
        self._listeners: list[Listener] = []
        self._calling = False

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listeners: Iterable[Listener]) -> None:
        """Call these, too."""
        self._listeners += listeners

    def flushed(self, recording: Recording) -> None:
        """Call all with the recording, but for a listener that asks for a flush itself."""
        if self._calling:
            return
        self._calling = True
        try:
            for listener in tuple(self._listeners):
                self._flushed(listener, recording)
        finally:
            self._calling = False

    def close(self) -> CheckError | None:
        """Close all, and return the faults that a check is to raise and has not yet."""
        verdicts = []
        while self._listeners:
            verdicts.append(self._close(self._listeners[0]))
        return next(filter(None, verdicts), None)

    def _flushed(self, listener: Listener, recording: Recording) -> None:
        with noticing_signals() as came:
            try:
                listener.flushed(recording)
            except BaseException as error:  # somebody else's code; the training must go on
                if came and not isinstance(error, Exception):
                    raise
                _warn(listener, error)
                self._close(listener, told=True)

    def _close(self, listener: Listener, *, told: bool = False) -> CheckError | None:
        """Close a listener and return the faults that a check is to raise; `told` is one of which
        it was said already that it fails.
        """
        self._listeners.remove(listener)
        with noticing_signals() as came:
            try:
                listener.close()
            except CheckError as error:
                return error
            except BaseException as error:  # somebody else's code, at the end of their program
                if came and not isinstance(error, Exception):
                    raise
                if not told:
                    _warn(listener, error)
        return None


def _warn(listener: Listener, error: BaseException) -> None:
    text = f"Listener {type(listener).__name__} failed and was disabled; recording continues."
    warnings.warn(f"{text} {one_line(error)}", NormscopeWarning, stacklevel=2)
