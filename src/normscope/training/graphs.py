"""Repeated work on a GPU, captured in a CUDA graph and from then on replayed without Python.

A step of a small network is some hundred kernels of a few microseconds each, and launching them
from Python takes longer than they do. One graph launches all of them.

Capturing changes no bit of the results, so the choice is no part of a run's identity: the same
kernels are launched in another way.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from normscope.errors import NormscopeError, first_line

WARM_UP = 3
"""Times that work is done from Python before it is captured: libraries choose and allocate at
first, and the optimizer makes its buffers. They count like all others, so nothing has to be put
back.
"""

GRAPHS = ("auto", "on", "off")

_abandoned: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed. PyTorch's allocator may still refer to them, so they are kept."""


class GraphReplay:
    """Work on batches of one size, done over and over; batches of another size are done from Python
    every time.

    Args:
        work: launches the work for a batch of a size. Must be the same kernels on the same memory
            every time.
        size: the size of nearly all batches.
        obstacle: why it is not to be captured, in one phrase; None has it captured.

    Attributes:
        obstacle: as given, or what was found on the way.
        captured: whether it is replayed by now.
    """

    def __init__(self, work: Callable[[int], None], size: int, obstacle: str | None):
        self.obstacle = obstacle
        self._work, self._size, self._times = work, size, 0
        self._replay: Callable[[], None] | None = None

    @property
    def captured(self) -> bool:
        return self._replay is not None

    def __call__(self, size: int) -> None:
        """Do the work once.

        Raises:
            NormscopeError: if it cannot be captured, for a reason that a rehearsal does not show.
        """
        if size != self._size or self.obstacle is not None:
            self._work(size)
        elif self._replay is not None:
            self._replay()
        else:
            self._warm_up_or_capture()

    def _warm_up_or_capture(self) -> None:
        self._times += 1
        if self._times < WARM_UP:
            self._work(self._size)
        elif self._times == WARM_UP:
            if waits_for_device(lambda: self._work(self._size)):
                self.obstacle = "something in a step waits for the device"
        else:
            self._replay = capture(lambda: self._work(self._size))
            self._replay()


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """Record the work without doing it, and return what replays it. The current stream must not be
    the default one.

    Its memory is a pool of its own, which lives as long as what is returned.

    Raises:
        NormscopeError: if it cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
    except torch.OutOfMemoryError:
        _abandoned.append(graph)
        raise  # without a graph it would need the memory too
    except RuntimeError as error:
        _abandoned.append(graph)
        raise NormscopeError(
            f"A step cannot be captured in a CUDA graph ({first_line(error)}); train with --graph "
            "off."
        ) from error
    return graph.replay


SYNCHRONIZES = ("called a synchronizing CUDA operation", "break CUDA graph capture")
"""In PyTorch's warnings about work that waits for the device."""

DEBUG_MODE = "Synchronization debug mode is a prototype"
"""In the warning that asking for those warnings gives."""


def waits_for_device(work: Callable[[], None]) -> bool:
    """Do the work, and return whether the host waited for the device in it, which a graph cannot
    hold.

    Nothing is known of PyTorch's state after a capture that failed, so it is better not to try.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for each in caught:
        if not any(text in str(each.message) for text in (*SYNCHRONIZES, DEBUG_MODE)):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return any(text in str(each.message) for each in caught for text in SYNCHRONIZES)


@functools.cache
def _side_stream() -> torch.cuda.Stream:
    """Return one stream for all runs of a process: libraries keep workspace for every stream."""
    return torch.cuda.Stream()


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """On CUDA, a stream of its own for everything inside: the default one cannot be captured.

    Work before it is waited for, and work after it waits, on the device.
    """
    if device != "cuda":
        yield
        return
    outside, inside = torch.cuda.current_stream(), _side_stream()
    inside.wait_stream(outside)
    try:
        with torch.cuda.stream(inside):
            yield
    finally:
        outside.wait_stream(inside)
