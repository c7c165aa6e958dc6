"""Access to what is served: with a secret, by a name of this machine, not for another site."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normscope.errors import StorageError
from normscope.records.files import cache_folder

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest is the page's own
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """The conditions on a request.

    Attributes:
        token: the secret in the printed address.
        names: host names by which this machine may be asked. Addresses in numbers and localhost
            always may: a foreign site can make its own name point here (DNS rebinding), but not a
            number.
    """

    token: str
    names: Collection[str] = ()

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return (status, one line) for a request that is not served; None for one that is."""
        headers = Headers(scope=scope)
        if scope["method"] != "GET":
            return 405, "This server is for reading: GET only."
        host = headers.get("host", "")
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if not self._is_ours(host):
            problem = "The host in the address is not a name of this server"
        elif _is_foreign(headers, host):
            problem = "Another site asked for this page"
        elif len(tokens) != 1 or not hmac.compare_digest(tokens[0].encode(), self.token.encode()):
            problem = "The token is missing or wrong"
        else:
            return None
        return 403, f"{problem}; open the whole address that the server printed."

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if not name:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in {"localhost", *(each.lower() for each in self.names)}
        return True


def _is_foreign(headers: Headers, host: str) -> bool:
    """Return whether a page of another origin makes the request; a followed link reads nothing."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return True
    followed = (
        headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
    return headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not followed


class Guard:
    """Lets through what `access` allows, before any look-up, and adds HEADERS to all answers."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW]
            await send(message)

        if scope["type"] != "http":
            return  # a web socket: closed without an answer
        refusal = self.access.refusal(scope)
        if refusal is not None:
            status, text = refusal
            await PlainTextResponse(f"{text}\n", status)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


KEY_NAME = "serve.key"


def token_for(path: Path) -> str:
    """Return the token of a path: a checksum of it with a key that only this user can read, so that
    it outlives the server.

    Where the key cannot be kept, the token is a new one each time.
    """
    try:
        key = _key()
    except StorageError as error:
        print(f"normscope: the address changes with the next start: {error}", file=sys.stderr)
        return secrets.token_urlsafe(24)
    return hmac.new(
        key, str(path.resolve()).encode("utf-8", "surrogateescape"), hashlib.sha256
    ).hexdigest()[:32]


def _key() -> bytes:
    """Return 32 random bytes, kept in the cache folder for this user alone.

    Raises:
        StorageError: if they can be neither read nor written.
    """
    path = cache_folder() / KEY_NAME
    try:
        if path.stat().st_mode & 0o077 == 0 and len(key := path.read_bytes()) == 32:
            return key
    except OSError:
        pass  # there is none yet
    key = secrets.token_bytes(32)
    aside = path.with_name(f".{KEY_NAME}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        aside.replace(path)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return key
