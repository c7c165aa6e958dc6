"""`normscope report`: studies and recordings in one HTML file that works offline."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from normscope.escapes import for_line


@dataclass(frozen=True)
class ReportOptions:
    """Show studies, runs and recordings on one page: one HTML file that works offline."""

    paths: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR|FILE ...", help_behavior_hint="(required)"),
    ]
    """Folders of studies, files or folders of recordings, and what `normscope check --format json`
    wrote. Several are set side by side.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file to write (default: report.html in the study's folder, or beside the recording)."""


def run_report(options: ReportOptions) -> int:
    """Run `normscope report` and return its exit status."""
    from normscope.show.report.pages import write_report

    path, left_out = write_report(*options.paths, out=options.out)
    for text in left_out:
        print(for_line(f"Not shown: {text}"), file=sys.stderr)
    print(f"Open {path}")
    return 0
