"""Signals that come while a watcher is at work: a write is brought to its end, and what a signal's
handler raises reaches the user's program.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2")
"""Those for which programs have handlers that raise."""


def to_its_end(work: Callable[[], object]) -> None:
    """Do it in a thread of its own, where no signal's handler can raise. What a handler raises
    meanwhile comes out of here when it is done.

    Raises:
        Exception: what the work raises.
        RuntimeError: in the place of a KeyboardInterrupt or SystemExit that the work itself raises.
    """
    failed: list[BaseException] = []
    interrupts: list[BaseException] = []
    gate, done = threading.Lock(), threading.Event()  # of the first that does it; of its end

    def run() -> None:
        if not gate.acquire(blocking=False):
            return
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    while not done.is_set():
        try:
            if not gate.locked():
                _begin(run)
            while not done.is_set():
                done.wait()
        except BaseException as interrupt:
            interrupts.append(interrupt)
    for error in (*interrupts, *failed):
        if isinstance(error, Exception) or error in interrupts:
            raise error
        raise RuntimeError(f"{type(error).__name__} inside a write") from error


def _begin(run: Callable[[], None]) -> None:
    # not threading.Thread: an interrupted join() takes a thread that runs for one that ended
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends, and starts no threads any more
        run()


@contextmanager
def noticing_signals() -> Iterator[list[int]]:
    """Yield a list of the signals that have come inside, and that Python handles."""
    came: list[int] = []
    numbers = [number for name in SIGNALS if (number := getattr(signal, name, None))]
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers if main}
    ours = {
        number: _noting(came, handler) for number, handler in handlers.items() if callable(handler)
    }
    for number, handler in ours.items():
        signal.signal(number, handler)
    try:
        yield came
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:  # else somebody has set another since
                with suppress(ValueError):
                    signal.signal(number, handlers[number])


def _noting(came: list[int], handler: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
    def note(number: int, frame: Any) -> Any:
        came.append(number)
        return handler(number, frame)

    return note
