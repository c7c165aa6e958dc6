"""Reaching a Ray cluster, or finding out soon and in one line that it cannot be reached."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from typing import Any

from normscope.errors import InputError
from normscope.studies.environment import usable_cores

SECONDS_TO_ANSWER = 5.0
"""For a machine to take a connection."""

SECONDS_TO_CONNECT = 30.0
"""For Ray to let a driver in: by itself it tries for more than five minutes."""

OBJECT_STORE_BYTES = 256 << 20
"""Shared memory for a Ray started here. It holds messages and, at most, runs' records."""

DEFAULT_PORT = 6379

_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


def connect(address: str) -> tuple[Any, bool]:
    """The module `ray`, connected, and whether it was not before. A process that is stays with its
    cluster.

    Args:
        address: HOST[:PORT]; "auto": the one that RAY_ADDRESS names, or that runs on this machine;
            "local": one that is started here and ends with this process.

    Raises:
        InputError: if Ray is not installed, or nobody answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f'Ray cannot be imported ({error}); install it with: pip install "normscope[ray]".'
        ) from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        _start(ray)
    else:
        where = _resolved(address)
        _check_that_ray_answers(where)
        ray.init(address=where, **_QUIET)
    _silence_its_daemons()
    return ray, True


def _silence_its_daemons() -> None:
    """Keep what Ray's daemons report off the terminal, for one a paragraph on each worker that
    died: normscope says so itself. Ray has no setting for it; where the private function is gone,
    the paragraphs are back and nothing else.
    """
    private = vars(sys.modules.get("ray._private.worker", sys))
    if "print_to_stdstream" in private:
        private["print_to_stdstream"] = lambda *_, **__: None


def _start(ray: Any) -> None:
    ray.init(
        address="local",
        num_cpus=usable_cores(),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        **_QUIET,
    )


def _resolved(address: str) -> str:
    """The address with its port, or "auto" where Ray itself has to find one on this machine."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        return address
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?::(\d{1,5}))?", address)
    if match is None:
        raise InputError(
            f"--address {address!r} cannot be used; expected auto, local or HOST:PORT."
        )
    host, port = match[1], int(match[2] or DEFAULT_PORT)
    _check_that_somebody_answers(host, port)
    return f"{host}:{port}"


def _check_that_somebody_answers(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"Nobody answers at {host}:{port} ({reason}); expected the address of a Ray cluster, "
            "as `ray start --head` prints it."
        ) from error


def _check_that_ray_answers(address: str) -> None:
    """Connect in a process of its own first, which can be ended when it takes too long.

    Raises:
        InputError: with Ray's own last line, if it does not let us in.
    """
    code = f"import ray; ray.init(address={address!r}, **{_QUIET})"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_CONNECT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"No Ray answers at {address} within {SECONDS_TO_CONNECT:.0f} seconds."
        ) from None
    if tried.returncode == 0:
        return
    if address == "auto":
        raise InputError(
            "No Ray runs on this machine; start one with `ray start --head`, name one with "
            "--address HOST:PORT, or give --address local to have one for this command alone."
        )
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    raise InputError(f"The Ray at {address} cannot be used: {lines[-1][:300]}")
