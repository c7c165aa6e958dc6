"""A layout that was recognized in a directory, before anything large is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from normscope.data.dataset import Splits


@dataclass(frozen=True)
class Layout:
    """Images that were found and are not read yet.

    Attributes:
        phrase: the layout, for people.
        directory: what was searched; names the data in errors.
        files: everything that the splits are read from.
        classes: the class names that the caller knows, in their order; empty leaves them to the
            files.
        read: reads and decodes the files, which takes seconds.
        by_content: tell a change by a checksum of the content; otherwise, for folders of many small
            files where reading is the cost that the cache exists to save, by the sizes and times of
            the files.
    """

    phrase: str
    directory: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    read: Callable[[], Splits]
    by_content: bool = True
