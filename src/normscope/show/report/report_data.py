"""What a report is about: the runs of one or more studies, their arms, the recordings, and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from normscope.errors import InputError
from normscope.judge.check_report import CheckReport, from_json
from normscope.judge.comparison import Comparison, summarize
from normscope.records.recording import Recording
from normscope.records.recording_shapes import check_widths
from normscope.records.run import RECORD_NAME, RECORDING_NAME, RunRecord, load_run, run_folders
from normscope.show.figures.provenance import subject
from normscope.show.figures.style import norm_styles
from normscope.show.report.settings import Settings


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of one folder, in the order norm (as the study was asked for), learning rate, seed."""

    name: str
    runs: tuple[RunRecord, ...]

    @cached_property
    def layer(self) -> str | None:
        """The layer that was inspected in this folder, if any."""
        try:
            folder = self.runs[0].directory.parent.parent
            text = (folder / "inspection.json").read_text(encoding="utf-8")
            return str(json.loads(text)["layers"][0])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    @cached_property
    def settings(self) -> Settings:
        """What the runs differ in beside norm, learning rate and seed."""
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
    """The norms in the order of the runs."""
    return list(dict.fromkeys(run.norm for run in runs))


@dataclass(frozen=True, eq=False)
class Watched:
    """A recording, and the number of the run it belongs to if it is a study's."""

    name: str
    recording: Recording
    run: int | None = None


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
        """All runs; the page refers to them by their place here."""
        return tuple(run for study in self.studies for run in study.runs)

    def arm(self, study: Study, norm: str, setting: str = "") -> str:
        """The label of a norm's runs at a setting: with the study's name where several are set side
        by side.
        """
        label = f"{norm}, {setting}" if setting else norm
        return f"{study.name}: {label}" if len(self.studies) > 1 else label

    @cached_property
    def arms(self) -> dict[str, tuple[str, str, str]]:
        """{label: (colour, SVG dashes, marker)}, in the order of the runs within each part of each
        study.
        """
        labels = [
            self.arm(study, norm, setting)
            for study in self.studies
            for setting, runs in study.parts.items()
            for norm in norms_of(runs)
        ]
        styles = norm_styles(labels)
        return {
            label: (
                styles[label].colour,
                " ".join(f"{dash:g}" for dash in styles[label].dashes),
                styles[label].marker,
            )
            for label in labels
        }

    @property
    def usual_arms(self) -> set[str]:
        """The arms at the usual setting of their study."""
        return {
            self.arm(study, run.norm) for study in self.studies for run in study.parts.get("", ())
        }

    @property
    def title(self) -> str:
        """What was compared on what, in a line."""
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
    """A recording, read whole and once: every view asks for its arrays, and damage shows at once."""
    return _whole(Recording.load(path))


@dataclass(frozen=True)
class RecordReaders:
    """How records are read; a server that reads them again and again keeps those that did not
    change.
    """

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
    read = read or RecordReaders()
    studies, watched, problems = [], [], []
    for directory, name in zip(directories, _distinct(directories), strict=True):
        runs = []
        for folder in run_folders(directory):
            if not _begun(folder / RECORD_NAME):
                continue
            try:
                runs.append(read.run(folder))
            except InputError as error:
                problems.append(str(error))
        order = _asked_for(directory)
        runs.sort(
            key=lambda run: (order.get(run.norm, len(order)), run.norm, run.learning_rate, run.seed)
        )
        if runs:
            studies.append(Study(name, tuple(runs)))
    _add_recordings_of(studies, watched, problems, read)
    for path, name in zip(recordings, _distinct(recordings), strict=True):
        _add(watched, problems, read, path, name)
    judged = []
    for path in checks:
        try:
            judged.append(from_json(path.read_text(encoding="utf-8", errors="replace"), str(path)))
        except InputError as error:
            problems.append(str(error))
    return ReportData(tuple(studies), tuple(watched), tuple(problems), command, tuple(judged))


def of_runs(name: str, runs: Sequence[RunRecord]) -> ReportData:
    """Runs that were read already, with their recordings."""
    studies = (Study(name, tuple(runs)),) if runs else ()
    watched, problems = [], []
    _add_recordings_of(studies, watched, problems, RecordReaders())
    return ReportData(studies, tuple(watched), tuple(problems))


def of_recording(recording: Recording) -> ReportData:
    """One recording, also of a training that goes on."""
    return ReportData(watched=(Watched(recording.header.model, _whole(recording)),))


def _add_recordings_of(
    studies: Sequence[Study], watched: list[Watched], problems: list[str], read: RecordReaders
) -> None:
    number = 0
    for study in studies:
        for run in study.runs:
            path = run.directory / RECORDING_NAME
            if _begun(path):
                setting = study.settings.label(run)
                norm = f"{run.norm}, {setting}" if setting else run.norm
                label = f"{norm}, learning rate {run.learning_rate:g}, seed {run.seed}"
                label = f"{study.name}: {label}" if len(studies) > 1 else label
                _add(watched, problems, read, path, label, number)
            number += 1


def _asked_for(directory: Path) -> dict[str, int]:
    """{norm: place} as the study's summary has them; batch norm first where there is no summary to
    read.
    """
    try:
        groups = json.loads((directory / "summary.json").read_text(encoding="utf-8"))["groups"]
        return {
            norm: place
            for place, norm in enumerate(dict.fromkeys(str(group["norm"]) for group in groups))
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {"batch": 0}


def _add(
    watched: list[Watched],
    problems: list[str],
    read: RecordReaders,
    path: Path,
    name: str,
    run: int | None = None,
) -> None:
    try:
        watched.append(Watched(name, read.recording(path), run))
    except InputError as error:
        problems.append(str(error))


def _begun(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _whole(recording: Recording) -> Recording:
    """All of a recording, read once.

    Raises:
        RecordError: if histograms and what belongs to them are of different channels.
    """
    whole = recording.snapshot()
    for part, held in zip(recording.parts, whole.parts, strict=True):
        source = getattr(part, "path", "the recording")
        for layer in held.header.layers:
            for name in ("histogram", "output_histogram"):
                counts, frames = (held.blocks(layer.name, n) for n in (name, f"{name}_frame"))
                check_widths(source, layer, counts, frames)
    return whole


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Names that tell the paths apart: the last part, or the whole path where last parts repeat."""
    last = [path.resolve().name for path in paths]
    return [
        name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)
    ]
