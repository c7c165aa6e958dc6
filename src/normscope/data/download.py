"""One archive from the network into the cache, with a progress bar and a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from normscope.data.cache import cache_directory, locked, storing
from normscope.data.layouts.binary import Archive
from normscope.data.progress_bars import Bar, progress
from normscope.errors import InputError

CHUNK_BYTES = 1 << 16


class PoochBar:
    """A `Bar` as pooch expects one: its total is set, and `reset` comes before the end fills it."""

    def __init__(self, bar: Bar):
        self._bar = bar
        self._total = self._shown = 0

    @property
    def total(self) -> int:
        """Bytes to come, from the server's headers."""
        return self._total

    @total.setter
    def total(self, total: int) -> None:
        self._total = total
        self._bar.expect(total)

    def update(self, amount: int) -> None:
        """So many more bytes have arrived."""
        self._bar.advance(amount)
        self._shown += amount

    def reset(self) -> None:
        """Back to zero."""
        self.update(-self._shown)

    def close(self) -> None:
        """Nothing is left to do: `progress` closes its bar."""


def fetch(archive: Archive, cache_dir: Path | None = None) -> Path:
    """The path of `archive` in the cache, downloaded if it is not there yet or no longer whole.

    Raises:
        InputError: if it cannot be downloaded, or what arrives does not have the checksum.
        StorageError: if the cache folder cannot be written.
    """
    import pooch
    import requests

    folder = cache_directory(cache_dir) / "downloads"
    by_hand = "Or fetch it yourself and name its folder with --data-dir."
    label = f"Downloading {archive.file_name}"
    with locked(folder / archive.file_name), progress(label, is_bytes=True) as bar, storing(folder):
        downloader: Any = pooch.HTTPDownloader(
            progressbar=cast(Any, PoochBar(bar)), chunk_size=CHUNK_BYTES
        )
        try:
            path = pooch.retrieve(
                archive.url, archive.checksum, archive.file_name, str(folder), downloader=downloader
            )
        except requests.RequestException as error:
            raise InputError(
                f"Cannot download {archive.url}: {type(error).__name__}. {by_hand}"
            ) from error
        except ValueError as error:
            # pooch's word for a checksum that does not match; it has removed the file
            raise InputError(
                f"What arrived from {archive.url} does not have the checksum {archive.checksum}; "
                "nothing was kept. "
                f"Try again. {by_hand}"
            ) from error
    return Path(path)
