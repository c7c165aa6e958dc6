"""A progress bar for what takes seconds before a training starts: downloading and decoding."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """The result of `progress`: a bar on a terminal, or nothing at all."""

    def advance(self, amount: int) -> None:
        """So many more items are done; negative takes some back."""

    def expect(self, total: int) -> None:
        """It turned out how many items it will be."""


class _NoBar:
    def advance(self, amount: int) -> None:
        pass

    def expect(self, total: int) -> None:
        pass


@contextmanager
def progress(label: str, total: int | None = None, *, is_bytes: bool = False) -> Iterator[Bar]:
    """A bar on standard error while the body runs; one that does nothing where that is no terminal.

    Args:
        label: what is going on.
        total: how many items (or bytes) it will be; None if that is not known yet.
        is_bytes: show megabytes instead of a count.
    """
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    count = DownloadColumn() if is_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(label, total=total)

        class RichBar:
            def advance(self, amount: int) -> None:
                display.advance(task, amount)

            def expect(self, total: int) -> None:
                display.update(task, total=total)

        yield RichBar()
