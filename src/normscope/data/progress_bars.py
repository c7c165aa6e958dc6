"""A progress bar for what takes seconds before a training starts: downloading and decoding."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class Bar:
    """A bar on a terminal, or nothing at all."""

    display: Progress
    task: TaskID

    def advance(self, amount: int) -> None:
        """So many more items are done; negative takes some back."""
        self.display.advance(self.task, amount)

    def expect(self, total: int) -> None:
        """It turned out how many items it will be."""
        self.display.update(self.task, total=total)


@contextmanager
def progress(label: str, total: int | None = None, *, is_bytes: bool = False) -> Iterator[Bar]:
    """A bar on standard error while the body runs; one that does nothing where that is no terminal.

    Args:
        label: what is going on.
        total: how many items (or bytes) it will be; None if that is not known yet.
        is_bytes: show megabytes instead of a count.
    """
    from rich import progress as bars
    from rich.console import Console

    count = bars.DownloadColumn() if is_bytes else bars.MofNCompleteColumn()
    columns = ("{task.description}", bars.BarColumn(), count, bars.TimeRemainingColumn())
    console, disable = Console(stderr=True), not sys.stderr.isatty()
    with bars.Progress(*columns, console=console, transient=True, disable=disable) as display:
        yield Bar(display, display.add_task(label, total=total))
