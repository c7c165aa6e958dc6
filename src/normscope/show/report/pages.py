"""Reports as files and in notebooks: studies, recordings and findings in one HTML page."""

from __future__ import annotations

import base64
import html
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from normscope.arguments import given_path, judged
from normscope.errors import InputError, NormscopeError
from normscope.escapes import for_html
from normscope.records.command_line import command_line
from normscope.records.progress import missing_runs
from normscope.records.regular_files import is_database, read_json
from normscope.records.run import RECORD_NAME, RECORDING_NAME

if TYPE_CHECKING:
    from normscope.judge.check_report import CheckReport
    from normscope.records.recording import Recording
    from normscope.records.run import RunRecord
    from normscope.show.report.report_data import ReportData

REPORT_NAME = "report.html"
FRAME_HEIGHT = 720  # pixels, in a notebook; the frame's lower edge can be dragged
_STILLS = ("comparison.png", "overview.png")


@judged
def report(*paths: str | Path, out: str | Path | None = None, command: str | None = None) -> Path:
    """Write a report of studies and recordings.

    A record that cannot be read is named on the page, and the others are shown.

    Args:
        paths: folders of studies, recordings' files, and checks' results as JSON.
        out: the file to write; by default report.html in the first folder, or beside the first
            recording.
        command: how the studies were made, for the page; by default the normscope command that
            is running, none where another program calls.

    Raises:
        InputError: if a path is nothing that a report shows, nothing can be read of all of them, or
            `out` is a file that is not a report.
        StorageError: if the file cannot be written.
    """
    return write_report(*paths, out=out, command=command)[0]


def write_report(
    *paths: str | Path, out: str | Path | None = None, command: str | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Do what `report` does, and return the file with a sentence for each thing it leaves out."""
    from normscope.show.report.build import build
    from normscope.show.report.report_data import load_report_data

    if not paths:
        raise InputError("Nothing to show. Give a study folder or a recording.")
    given = [given_path(path) for path in paths]
    checks = [path for path in given if path.suffix == ".json" and path.is_file()]
    studies, recordings = sorted_paths([path for path in given if path not in checks])
    target = _checked(
        given_path(out, "out") if out is not None else _default(studies, [*recordings, *checks])
    )
    data = load_report_data(
        studies, recordings, command_line() if command is None else command, checks=checks
    )
    if data.problems and not (data.studies or data.watched or data.checks):
        raise InputError(data.problems[0])
    left_out = (*data.problems, *filter(None, map(missing_runs, studies)))
    return build(replace(data, problems=left_out), target), left_out


def report_after(directory: Path) -> Path | None:
    """Write a study's report at the end of another command, whose result does not depend on it.

    Where it cannot be written, one line on stderr says why.
    """
    try:
        return report(directory)
    except NormscopeError as error:
        print(f"normscope: no report: {error}", file=sys.stderr)
        return None


def check_page(check: CheckReport, model: str, path: Path | None = None) -> str:
    """Return the page of a check's findings, without figures, and write it to `path` if given.

    Args:
        check: the result.
        model: a name for the model where the check does not know it.
        path: a new file, or an earlier report.

    Raises:
        InputError: if the file is not a report, or there is no folder for it.
        StorageError: if it cannot be written.
    """
    from normscope.show.report.build import build, page
    from normscope.show.report.report_data import ReportData

    data = ReportData(command=command_line(), checks=(replace(check, model=check.model or model),))
    if path is not None:
        build(data, _checked(path))
    return page(data)


def recording_report(recording: Recording, path: str | Path) -> Path:
    """Write the report of one recording, also of a training that is still running.

    Raises:
        InputError: if the file is not a report, or there is no folder for it.
        StorageError: if it cannot be written.
    """
    from normscope.show.report.build import build
    from normscope.show.report.report_data import of_recording

    return build(of_recording(recording), _checked(given_path(path)))


def recording_html(recording: Recording) -> str:
    """Return a recording for a notebook: its report in a frame, and the overview of its layers as a
    still figure.
    """
    from normscope.show.figures import recording_overview
    from normscope.show.report.report_data import of_recording

    model = recording.header.model
    return _framed(
        of_recording(recording), lambda path: recording_overview.draw({model: recording}, path)
    )


def runs_html(runs: Sequence[RunRecord], directory: Path) -> str:
    """Return a study's runs for a notebook: their report in a frame, and a still figure.

    The figure is the one that the command wrote into the folder, or else the comparison's.
    """
    from normscope.show.figures import comparison_figure as comparison
    from normscope.show.report.report_data import of_runs

    data = of_runs(directory.resolve().name, runs)
    written = next((directory / name for name in _STILLS if (directory / name).is_file()), None)

    def draw(path: Path) -> object:
        if written is not None:
            return path.write_bytes(written.read_bytes())
        study = data.studies[0]
        setting, part = next(iter(study.parts.items()))
        return comparison.draw(study.summaries[setting], part, path)

    return _framed(data, draw)


def _framed(data: ReportData, draw: Callable[[Path], object]) -> str:
    """HTML for a notebook: the page in a frame, and what `draw` draws for where scripts are off.

    The frame is sandboxed: its script can reach neither the notebook nor its server, and only
    offers CSV files to download. Viewers that drop frames, as code hosts do, are left with the
    figure, whose text says what it shows.
    """
    from normscope.show.report.build import page

    title = for_html(data.title)
    frame = (
        f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" style="width:100%;'
        f'height:{FRAME_HEIGHT}px;border:1px solid #8885;resize:vertical" '
        f'srcdoc="{html.escape(page(data))}"></iframe>'
    )
    if not (data.runs or data.watched):
        return frame
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "still.png"
        draw(path)
        still = base64.b64encode(path.read_bytes()).decode("ascii")
    figure = f'<img alt="{title}" style="max-width:100%" src="data:image/png;base64,{still}">'
    summary = "<summary>The same as a still figure, for where scripts are off</summary>"
    return f"{frame}<details>{summary}{figure}</details>"


def sorted_paths(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the study folders and the recordings' files among the paths.

    Raises:
        InputError: for a path that is neither.
    """
    studies, recordings = [], []
    for path in paths:
        if path.is_file() and (path.suffix == ".sqlite" or is_database(path)):
            recordings.append(path)
        elif is_study(path):
            studies.append(path)
        elif (path / RECORDING_NAME).is_file():
            recordings.append(path / RECORDING_NAME)
        elif (path / RECORD_NAME).is_file():
            raise InputError(f"The run in {path} was not watched: `compare --watch` records it.")
        elif not path.exists():
            raise InputError(f"There is nothing at {path}. {_EXPECTED}")
        elif path.is_file():
            raise InputError(f"{path} is not a recording. {_EXPECTED}")
        else:
            raise InputError(f"{path} is not a study folder (no normscope.json). {_EXPECTED}")
    return studies, recordings


_EXPECTED = "Give a study folder or a recording."


def is_study(path: Path) -> bool:
    """Return whether a folder is a study's: it holds a marker that says so."""
    try:
        marker = read_json(path / "normscope.json")
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("format") == "normscope study"


def _checked(target: Path) -> Path:
    if not target.parent.is_dir():
        raise InputError(f"There is no folder {target.parent} for the report.")
    return target


def _default(studies: Sequence[Path], recordings: Sequence[Path]) -> Path:
    if studies:
        return studies[0] / REPORT_NAME
    return recordings[0].with_name(f"{recordings[0].stem}.{REPORT_NAME}")
