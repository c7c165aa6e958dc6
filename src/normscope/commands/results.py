"""The part of their results that commands share: a folder and its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normscope.records.run import RunRecord


@dataclass(frozen=True, eq=False)
class RunsResult:
    """A folder and the runs of it that a command used; notebooks show them as a report."""

    directory: Path
    runs: tuple[RunRecord, ...]

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs that ended with an error."""
        return tuple(run for run in self.runs if run.status == "failed")

    def _repr_html_(self) -> str:
        from normscope.show.report.pages import runs_html

        return runs_html(self.runs, self.directory)
