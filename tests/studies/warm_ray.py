"""A stand-in for the module `ray`, as far as RayExecutor uses it, whose workers are warm processes.

Ray's own start with Python, Ray and torch, some five seconds of CPU each; and a test in which a
worker dies takes several. What Ray itself does is in the tests of test_ray_runs that ask for
`cluster`.
"""

from __future__ import annotations

import os
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace

from ray import exceptions

from warm_processes import WarmProcess


class WarmRay:
    """Two machines with room for any number of workers; a worker has one task and then ends."""

    exceptions = exceptions

    def nodes(self) -> list[dict]:
        return 2 * [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, function):
        start = SimpleNamespace(remote=lambda argument: _Stream(function, argument))
        return SimpleNamespace(options=lambda **_: start)

    def wait(self, streams, num_returns: int, timeout: float):
        found = wait([stream.connection for stream in streams], timeout)
        ready = [stream for stream in streams if stream.connection in found]
        return ready, [stream for stream in streams if stream not in ready]

    def get(self, message):
        return message()

    def cancel(self, stream, force: bool) -> None:
        assert force, "a run does not end by being asked"
        stream.process.kill()
        stream.process.join()


class _Stream:
    """What a worker yields, one message after the other."""

    def __init__(self, function, argument):
        self.connection, theirs = Pipe()
        self.process = WarmProcess(_work, (theirs, function, argument))
        self.process.start()
        theirs.close()

    def __next__(self):
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # its process is gone
            return self._raise_that_it_died
        return lambda: message

    def _raise_that_it_died(self):
        raise exceptions.WorkerCrashedError


def _work(connection: Connection, function, argument) -> None:
    threading.Thread(target=_end_with_the_driver, args=(connection,), daemon=True).start()
    for message in function(argument):
        connection.send(message)


def _end_with_the_driver(connection: Connection) -> None:
    """Ray ends the workers of a driver that is gone."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
