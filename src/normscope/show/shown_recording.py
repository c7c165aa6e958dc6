"""A recording that can show itself: in the terminal, as a page, in a notebook."""

from __future__ import annotations

from pathlib import Path

from normscope.records import recording
from normscope.show.report.pages import recording_html, recording_report


class Recording(recording.Recording):
    """The record of the processes that trained one model. Reading it needs no torch.

    `Recording.load(path)` reads a file and, beside it, those of the other ranks;
    `watcher.recording` is what a watcher has so far.
    """

    def summary(self, *, every_layer: bool = False) -> str:
        """What stands out, and a table of the layers, for the terminal.

        Args:
            every_layer: show all layers of a network of many, not those alone that stand out.
        """
        from normscope.show.recording_summary import summary  # rich takes time to import

        return summary(self, every_layer=every_layer)

    def report(self, path: str | Path) -> Path:
        """Write everything that was recorded on one page: an HTML file that works offline.

        Raises:
            InputError: if the path is a file that is not a report, or has no folder.
            StorageError: if it cannot be written.
        """
        return recording_report(self, path)

    def _repr_html_(self) -> str:
        return recording_html(self)
