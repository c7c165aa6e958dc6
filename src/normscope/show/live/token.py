"""The secret in the address of a server: the same at every start, known to this user alone."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
from pathlib import Path

from normscope.errors import StorageError
from normscope.records.files import cache_folder

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
