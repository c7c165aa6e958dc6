"""`normscope serve`: the report in a browser, also while runs are trained."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import tyro

from normscope.errors import InputError, RecordError

if TYPE_CHECKING:
    from normscope.show.live.source import Source

DEPTH = 4
"""Levels below a folder on which studies are looked for."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeOptions:
    """Show a study in the browser while it trains: new epochs appear by themselves. Ctrl-C ends the
    server alone.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR|FILE")]
    """The folder of a study, a folder with several somewhere below it, or a recording."""

    port: int = 8642
    """Port to listen on; 0 takes a free one."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is seen from this machine only; 0.0.0.0 from the network,
    unencrypted.
    """

    token: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="STR", help_behavior_hint="(default: from a key in the cache folder)"
        ),
    ] = None
    """Secret in the address. The default is the same at every start."""


def run_serve(options: ServeOptions) -> int:
    """Serve until Ctrl-C, and return the exit status of `normscope serve`.

    Raises:
        InputError: if there is nothing to serve, or the address cannot be listened on.
    """
    if options.token is not None and len(options.token) < 8:
        raise InputError(
            f"The token has {len(options.token)} characters; expected at least 8, hard to guess."
        )
    if not list(find_sources(options.path)):
        raise InputError(f"There is no study in {options.path} or below it, and no recording.")
    listening = _listen(options.host, options.port)

    from normscope.show.live.access import Access, token_for
    from normscope.show.live.app import App

    token = options.token or token_for(options.path)
    names = (
        () if options.host in LOOPBACK else (options.host, socket.gethostname(), socket.getfqdn())
    )
    access = Access(token, names)
    app = App(lambda: find_sources(options.path), access)
    for line in _addresses(options.host, listening.getsockname()[1], token):
        print(line)
    print("Ctrl-C ends the server; what is being trained goes on.", flush=True)
    app.follower.start()
    _run(app, listening)
    return 0


def find_sources(path: Path) -> Iterator[Source]:
    """The study or recording at a path, or all below a folder, named by where they are.

    Raises:
        InputError: if there is nothing at the path, or it is a file that is no recording.
    """
    from normscope.show.live.source import Source
    from normscope.show.report.pages import is_study

    if not path.exists():
        raise InputError(
            f"There is nothing at {path}; expected a study, a folder with studies, or a recording."
        )
    if path.is_file():
        _check_recording(path)
        yield Source(path.name, recordings=(path,))
    elif is_study(path):
        yield Source(path.resolve().name, directories=(path,))
    else:
        yield from _below(path, path, DEPTH)


def _below(folder: Path, root: Path, depth: int) -> Iterator[Source]:
    from normscope.show.live.source import Source
    from normscope.show.report.pages import is_study

    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return  # not ours to read
    for entry in entries:
        name = str(entry.relative_to(root))
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            if is_study(entry):
                yield Source(name, directories=(entry,))
            elif depth > 0:
                yield from _below(entry, root, depth - 1)
        elif entry.suffix == ".sqlite" and ".rank" not in entry.stem and _is_recording(entry):
            yield Source(name, recordings=(entry,))


def _is_recording(path: Path) -> bool:
    try:
        _check_recording(path)
    except RecordError:
        return False
    return True


def _check_recording(path: Path) -> None:
    from normscope.records.store import reader

    reader(path, "recording").close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, bound here so that what is wrong with it is one line."""
    if not 0 <= port <= 65535:
        raise InputError(f"Port {port} is none; expected 1 to 65535, or 0 for a free one.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"Port {port} on {host} is in use, perhaps by another `normscope serve`; give "
                "another one with --port."
            ) from error
        reason = error.strerror or error
        raise InputError(
            f"Cannot listen on {host}, port {port} (--host, --port): {reason}."
        ) from error


def _addresses(host: str, port: int, token: str) -> list[str]:
    """The lines with the addresses to open."""
    query = urlencode({"token": token})
    everywhere = host in ("0.0.0.0", "::", "")
    shown = "127.0.0.1" if everywhere else f"[{host}]" if ":" in host else host
    lines = [f"Open http://{shown}:{port}/?{query}"]
    if everywhere:
        lines.append(f"From other machines: http://{socket.gethostname()}:{port}/?{query}")
    if host not in LOOPBACK:
        lines.append("It is plain HTTP: whoever can read this network's traffic can read the page.")
    return lines


def _run(app: Any, listening: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """End the open streams before it waits for connections to close."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            app.stop()
            super().handle_exit(sig, frame)

    # no access log: it would hold the token
    config = uvicorn.Config(
        app.asgi, log_level="warning", access_log=False, timeout_graceful_shutdown=2, ws="none"
    )
    try:
        Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print("Stopped.")  # uvicorn has closed everything, and passes the signal on
    finally:
        app.stop()
