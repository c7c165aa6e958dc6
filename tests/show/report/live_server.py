"""A server of studies in a thread of the test, and clients of its streams."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from normscope.commands.serve import find_sources
from normscope.records.run import RECORD_NAME
from normscope.records.store import writer
from normscope.show.live.access import Access
from normscope.show.live.app import App

TOKEN = "a-token-of-the-tests"


@contextmanager
def serving(path: Path, port: int = 0) -> Iterator[tuple[App, str]]:
    """(the application, its address with the token) of a server that runs in a thread, and looks
    ten times as often as others.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normscope.show.live.followed.LOOK_SECONDS", 0.1)
        yield from _served(path, port)


def _served(path: Path, port: int) -> Iterator[tuple[App, str]]:
    app = App(lambda: find_sources(path), Access(TOKEN))
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(
        uvicorn.Config(app.asgi, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    app.follower.start()
    thread.start()
    try:
        yield app, f"http://127.0.0.1:{listening.getsockname()[1]}/?token={TOKEN}"
    finally:
        app.stop()
        server.should_exit = True
        thread.join(10)
        app.follower.join(10)
        assert not thread.is_alive()


def ask(address: str, name: str, **query: str) -> str:
    """The address of another answer of the same server."""
    return str(httpx.URL(address).copy_with(path=f"/{name}").copy_merge_params(query))


def versions(address: str, client: httpx.Client) -> Iterator[str]:
    """What a stream tells."""
    with client.stream("GET", ask(address, "events"), timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def add_epoch(folder: Path, epoch: int, loss: float = 0.5, **meta: str) -> None:
    """Write another epoch into a run's record, as training does."""
    values = {"train_loss": loss, "test_accuracy": 0.9, "learning_rate": 0.1, "seconds": 1.0}
    with writer(folder / RECORD_NAME, "run") as store, store.transaction():
        store.add_epoch(epoch, values)
        spec = store.meta("spec")["spec"]
        store.set_meta(spec=spec | {"epochs": max(epoch, spec["epochs"])}, **meta)


def until(condition, seconds: float = 15.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
