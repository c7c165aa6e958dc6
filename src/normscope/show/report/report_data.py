"""The data of a report: runs of one or more studies, recordings, checks, and unreadable files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from normscope.errors import InputError, StorageError
from normscope.judge.check_report import CheckReport, from_json
from normscope.judge.comparison import Comparison, summarize
from normscope.judge.layer_measures import Measure, Series
from normscope.judge.recording_difference import RecordingDifference, difference_of
from normscope.records.recording import Recording
from normscope.records.recording_header import check_widths
from normscope.records.regular_files import read_bytes, read_json
from normscope.records.run import RECORD_NAME, RECORDING_NAME, RunRecord, load_run, run_folders
from normscope.show.figures.provenance import subject
from normscope.show.figures.style import at_setting, norm_styles
from normscope.show.report.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of one folder by norm (in the order asked for), learning rate and seed."""

    name: str
    runs: tuple[RunRecord, ...]

    @cached_property
    def layer(self) -> str | None:
        """The layer that was inspected in this folder, if any."""
        try:
            folder = self.runs[0].directory.parent.parent
            return str(read_json(folder / "inspection.json")["layers"][0])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    @cached_property
    def settings(self) -> Settings:
        """The settings in which the runs differ beside norm, learning rate and seed."""
        return Settings(self.runs)

    @cached_property
    def parts(self) -> dict[str, tuple[RunRecord, ...]]:
        """{setting in words: its runs}, the usual setting, "", first: runs of several are never
        summed up together.
        """
        parts: dict[str, list[RunRecord]] = {"": []}
        for run in self.runs:
            parts.setdefault(self.settings.label(run), []).append(run)
        return {label: tuple(runs) for label, runs in parts.items() if runs}

    @cached_property
    def summaries(self) -> dict[str, Comparison]:
        """{setting: summary of its runs}; the first norm of each sets its threshold."""
        return {
            label: summarize(runs, norms_of(runs), sorted({run.learning_rate for run in runs}))
            for label, runs in self.parts.items()
        }


def norms_of(runs: Sequence[RunRecord]) -> list[str]:
    """Return the norms in the order of the runs."""
    return list(dict.fromkeys(run.norm for run in runs))


@dataclass(frozen=True, eq=False)
class Watched:
    """A recording, and the index of the run it belongs to if it is a study's."""

    name: str
    recording: Recording
    run: int | None = None
    _measured: dict[tuple[Measure, str], Series] = field(default_factory=dict)

    def measure(self, measure: Measure, layer: str) -> Series:
        """Return a measure of a layer, which is taken once for all that the page shows of it."""
        if (key := (measure, layer)) not in self._measured:
            self._measured[key] = measure(self.recording, layer)
        return self._measured[key]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that a report shows."""

    studies: tuple[Study, ...] = ()
    watched: tuple[Watched, ...] = ()
    problems: tuple[str, ...] = ()
    command: str = ""
    checks: tuple[CheckReport, ...] = ()

    @cached_property
    def runs(self) -> tuple[RunRecord, ...]:
        """All runs; the page refers to them by their index here."""
        return tuple(run for study in self.studies for run in study.runs)

    def arm(self, study: Study, norm: str, setting: str = "") -> str:
        """Label a norm's runs at a setting, with the study's name if there are several studies."""
        label = f"{norm}, {setting}" if setting else norm
        return f"{study.name}: {label}" if len(self.studies) > 1 else label

    @cached_property
    def arms(self) -> dict[str, tuple[str, str, str]]:
        """{label: (colour, SVG dashes, marker)}, in the order of the runs within each part of each
        study. Colour and marker are the norm's; settings differ in their dashes.
        """
        parts = [
            (study, setting, norms_of(runs))
            for study in self.studies
            for setting, runs in study.parts.items()
        ]
        styles = norm_styles(norm for _, _, norms in parts for norm in norms)
        arms = {}
        for number, (study, setting, norms) in enumerate(parts):
            for norm in norms:
                style = at_setting(styles[norm], number)
                dashes = " ".join(f"{dash:g}" for dash in style.dashes)
                arms[self.arm(study, norm, setting)] = (style.colour, dashes, style.marker)
        return arms

    @cached_property
    def difference(self) -> RecordingDifference | None:
        """Where two recordings part; None where the page shows more or other than these two."""
        if len(self.watched) != 2 or self.runs:
            return None
        one, other = self.watched
        return difference_of(one.recording, other.recording, names=(one.name, other.name))

    @property
    def usual_arms(self) -> set[str]:
        """The arms at the usual setting of their study."""
        return {
            self.arm(study, run.norm) for study in self.studies for run in study.parts.get("", ())
        }

    @property
    def title(self) -> str:
        """The norms that were compared, and on what, in a line."""
        if self.studies:
            subjects = dict.fromkeys(
                subject(next(iter(study.parts.values()))) for study in self.studies
            )
            norms = dict.fromkeys(norm for study in self.studies for norm in norms_of(study.runs))
            return f"{' and '.join(norms)}: {' / '.join(subjects)}"
        models = dict.fromkeys(item.recording.header.model for item in self.watched)
        models |= dict.fromkeys(f"Check of {check.model or 'a model'}" for check in self.checks)
        return ", ".join(models) or "Nothing to show yet"


def read_recording(path: Path) -> Recording:
    """Read all of a recording at once: every view asks for its arrays, and damage shows here."""
    return _whole(Recording.load(path))


@dataclass(frozen=True)
class RecordReaders:
    """Functions that read records; a server replaces them by ones that keep unchanged records."""

    run: Callable[[Path], RunRecord] = load_run
    recording: Callable[[Path], Recording] = read_recording


def load_report_data(
    directories: Sequence[Path],
    recordings: Sequence[Path] = (),
    command: str = "",
    read: RecordReaders | None = None,
    checks: Sequence[Path] = (),
) -> ReportData:
    """Read studies' folders (those with runs/), recordings, and results of checks as JSON.

    A damaged record is named and the others are shown.
    Records without content belong to runs that are about to begin, and are left out.
    """
    reading = _Reading(read or RecordReaders())
    studies = []
    for directory, name in zip(directories, _distinct(directories), strict=True):
        folders = [folder for folder in run_folders(directory) if _begun(folder / RECORD_NAME)]
        read_runs = (reading.tried(reading.read.run, folder) for folder in folders)
        runs = [run for run in read_runs if run is not None]
        order = _asked_for(directory)
        runs.sort(
            key=lambda run: (order.get(run.norm, len(order)), run.norm, run.learning_rate, run.seed)
        )
        if runs:
            studies.append(Study(name, tuple(runs)))
    reading.add_recordings_of(studies)
    for path, name in zip(recordings, _distinct(recordings), strict=True):
        reading.add(path, name)
    judged = [reading.tried(_read_check, path) for path in checks]
    return ReportData(
        tuple(studies), tuple(reading.watched), tuple(reading.problems), command,
        tuple(check for check in judged if check is not None),
    )  # fmt: skip


def of_runs(name: str, runs: Sequence[RunRecord]) -> ReportData:
    """Return the data of runs that were read already, with their recordings."""
    studies = (Study(name, tuple(runs)),) if runs else ()
    reading = _Reading(RecordReaders())
    reading.add_recordings_of(studies)
    return ReportData(studies, tuple(reading.watched), tuple(reading.problems))


def of_recording(recording: Recording) -> ReportData:
    """Return the data of one recording, also of a training that is still running."""
    return ReportData(watched=(Watched(recording.header.model, _whole(recording)),))


@dataclass
class _Reading:
    """Recordings as they are read, and a sentence for everything that cannot be read."""

    read: RecordReaders
    watched: list[Watched] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tried(self, read: Callable[[Path], T], path: Path) -> T | None:
        try:
            return read(path)
        except (InputError, StorageError) as error:
            self.problems.append(str(error))
            return None

    def add(self, path: Path, name: str, run: int | None = None) -> None:
        recording = self.tried(self.read.recording, path)
        if recording is not None:
            self.problems += recording.damage
            self.watched.append(Watched(name, recording, run))

    def add_recordings_of(self, studies: Sequence[Study]) -> None:
        data = ReportData(tuple(studies))
        runs = ((study, run) for study in studies for run in study.runs)
        for number, (study, run) in enumerate(runs):
            path = run.directory / RECORDING_NAME
            if _begun(path):
                arm = data.arm(study, run.norm, study.settings.label(run))
                self.add(
                    path, f"{arm}, learning rate {run.learning_rate:g}, seed {run.seed}", number
                )


def _read_check(path: Path) -> CheckReport:
    try:
        return from_json(read_bytes(path).decode(errors="replace"), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _asked_for(directory: Path) -> dict[str, int]:
    """{norm: index} as in the study's summary; batch norm first where that cannot be read."""
    try:
        groups = read_json(directory / "summary.json")["groups"]
        norms = dict.fromkeys(str(group["norm"]) for group in groups)
        return {norm: index for index, norm in enumerate(norms)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {"batch": 0}


def _begun(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _whole(recording: Recording) -> Recording:
    """All of a recording that is not damaged, read once; its notes say what is.

    Raises:
        RecordError: if histograms and what belongs to them are of different channels.
    """
    whole = recording.snapshot()
    whole.leave_out_damaged()
    for held in whole.parts:
        for layer in held.header.layers:
            for name in ("histogram", "output_histogram"):
                counts, frames = (held.blocks(layer.name, n) for n in (name, f"{name}_frame"))
                check_widths(held.source, layer, counts, frames)
    return whole


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Names that tell the paths apart: the last part, or the whole path where last parts repeat."""
    last = [path.resolve().name for path in paths]
    return [
        name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)
    ]
