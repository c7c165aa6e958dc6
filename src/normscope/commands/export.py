"""`normscope export`: a study or a recording as tidy tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from normscope.arguments import given_path, judged
from normscope.errors import InputError, RecordError, lookup
from normscope.escapes import for_line
from normscope.studies.options import Folder

if TYPE_CHECKING:
    from normscope.records.export.recording_tables import RecordingSource
    from normscope.records.run import RunRecord

Format = Literal["parquet", "csv"]


@dataclass(frozen=True)
class ExportOptions:
    """Write a study or a recording as tables: runs, epochs, distributions, statistics per layer,
    step and channel.

    Parquet files say of each column what it means, and its unit.
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR|FILE")]
    """Folder of a study, or a recording: its file or its folder."""

    to: Annotated[
        Literal["parquet", "csv", "tensorboard", "wandb"], tyro.conf.arg(metavar="FORMAT")
    ] = "parquet"
    """parquet or csv: tables. tensorboard or wandb: a dashboard, with the numbers that
    --tensorboard and --wandb of a study give it.
    """

    out: Folder = None
    """Folder of the tables, of TensorBoard, or of W&B's files (default: export/ in the study's
    folder, or beside the recording).
    """

    project: str = "normscope"
    """Project of Weights & Biases, for --to wandb."""


@dataclass(frozen=True)
class Exported:
    """The result of `export`: the files, and what could not be read."""

    files: tuple[Path, ...]
    problems: tuple[str, ...]


@judged
def export(path: str | Path, to: Format = "parquet", out: str | Path | None = None) -> Exported:
    """Write a study or a recording as tables.

    A damaged record is named in `problems`, and the others are exported.

    Args:
        path: the folder of a study, or a recording.
        to: "parquet" or "csv".
        out: the folder; by default `export` in the study's folder, or `<recording>.export` beside a
            recording.

    Raises:
        InputError: if nothing is there to export, or a file in the folder is not normscope's.
        RecordError: if the only record is damaged.
        StorageError: if the tables cannot be written.
    """
    from normscope.records.export.folder import write_tables

    lookup("format of an export", to, dict.fromkeys(("parquet", "csv")))
    data = _read(given_path(path))
    if not data.runs and not data.recordings:
        raise (
            RecordError(data.problems[0])
            if data.problems
            else InputError(f"There is no run in {path}.")
        )
    folder = given_path(out, "out") if out is not None else data.folder
    return Exported(tuple(write_tables(folder, to, data.batches())), tuple(data.problems))


def run_export(options: ExportOptions) -> int:
    """Run `normscope export` and return its exit status: 1 if something could not be read."""
    if options.to in ("tensorboard", "wandb"):
        return _pass_on(options)
    exported = export(options.path, options.to, options.out)
    for problem in exported.problems:
        print(f"normscope: not exported: {for_line(problem)}", file=sys.stderr)
    print(
        f"Written to {exported.files[0].parent}: {', '.join(file.name for file in exported.files)}"
    )
    return 1 if exported.problems else 0


def _pass_on(options: ExportOptions) -> int:
    """Give a dashboard what it lacks; return 1 if something could not be read or given."""
    from normscope.show.report.pages import sorted_paths
    from normscope.show.sinks.runs import chosen_sinks, pass_on_recording, pass_on_study

    studies, recordings = sorted_paths([options.path])
    default = (
        studies[0] / "export"
        if studies
        else recordings[0].with_name(f"{recordings[0].stem}.export")
    )
    folder = options.out if options.out is not None else default / options.to
    to_tensorboard = options.to == "tensorboard"
    (sink,) = chosen_sinks(
        folder if to_tensorboard else None, None if to_tensorboard else options.project, folder
    )
    problems: list[str] = []
    if studies and not pass_on_study(studies[0], sink, problems.append):
        raise InputError(f"There is no run in {options.path}.")
    for path in recordings:
        pass_on_recording(path, sink, problems.append)
    for problem in problems:
        print(f"normscope: {for_line(problem)}", file=sys.stderr)
    print(
        f"Written to {folder}."
        if to_tensorboard
        else f"Written to W&B's project {options.project} by {folder}."
    )
    return 1 if problems else 0


@dataclass
class _ExportData:
    """Runs and recordings of a path, read and checked."""

    folder: Path
    runs: list[RunRecord] = field(default_factory=list)
    recordings: list[RecordingSource] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """(table, rows) of everything."""
        from normscope.records.export.recording_tables import recording_batches
        from normscope.records.export.run_tables import run_batches

        yield from run_batches(self.runs)
        for source in self.recordings:
            yield from recording_batches(source)

    def add_run(self, folder: Path) -> None:
        """Add a run, or the reason why it cannot be."""
        from normscope.records.export.run_tables import read_run
        from normscope.records.run import RECORD_NAME

        try:
            self.runs.append(read_run(folder))
        except RecordError as error:
            problem = str(error)
            if str(folder) not in problem:
                problem = f"{folder / RECORD_NAME} is damaged: {problem}"
            self.problems.append(problem)

    def add_recording(self, path: Path, name: str) -> None:
        """Add a recording, or the reason why it cannot be."""
        from normscope.records.export.recording_tables import read_recording

        try:
            self.recordings.append(read_recording(path, name))
        except RecordError as error:
            self.problems.append(str(error))


def _read(path: Path) -> _ExportData:
    """Read everything at a path, once, so that damage is found before anything is written."""
    from normscope.records.run import RECORDING_NAME, run_folders
    from normscope.show.report.pages import sorted_paths

    studies, recordings = sorted_paths([path])
    if recordings:
        file = recordings[0]
        data = _ExportData(file.with_name(f"{file.stem}.export"))
        data.add_recording(file, file.name)
        return data
    data = _ExportData(studies[0] / "export")
    for folder in run_folders(path):
        data.add_run(folder)
        if (folder / RECORDING_NAME).is_file():
            data.add_recording(folder / RECORDING_NAME, folder.name)
    return data
