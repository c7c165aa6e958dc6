"""The sources of a page: their files' changes, cached reading, and each in a line for the list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from normscope.errors import NormscopeError
from normscope.records.progress import PLAN_NAME, Progress, read_progress
from normscope.records.recording import Recording
from normscope.records.run import RECORD_NAME, RUNS, RunRecord, load_run
from normscope.show.report.report_data import RecordReaders, read_recording
from normscope.words import plural

RESULTS = ("summary.json", "inspection.json", "claims.json")
"""The files of a study that hold its result in a sentence, besides figures."""

T = TypeVar("T")
Signature = tuple[tuple[str, int, int], ...]  # (path, modified in ns, bytes) of every file


@dataclass(frozen=True)
class Source:
    """Studies' folders and recordings' files that one page shows, and the name of that page."""

    name: str
    directories: tuple[Path, ...] = ()
    recordings: tuple[Path, ...] = ()

    def signature(self) -> Signature:
        """Return the page's files with time and size: it changes when one of them does.

        Files are never opened for it. Closing one would drop the locks with which SQLite reads it
        in this process.
        """
        files = [path for directory in self.directories for path in _files_of_study(directory)]
        files += [
            path
            for recording in self.recordings
            for path in _recorded(recording.parent, recording.stem)
        ]
        return tuple(sorted(_stamps(files)))


class SourceCache:
    """Records as they were last read, as long as their files do not change."""

    def __init__(self) -> None:
        self._runs: dict[Path, tuple[Signature, RunRecord]] = {}
        self._recordings: dict[Path, tuple[Signature, Recording]] = {}

    def reading(self) -> RecordReaders:
        """Return readers of what changed. What is not asked for any more is forgotten."""
        runs, self._runs = self._runs, {}
        recordings, self._recordings = self._recordings, {}
        return RecordReaders(
            run=lambda folder: _unless_same(
                runs, self._runs, folder, _stamps([folder / RECORD_NAME]), lambda: load_run(folder)
            ),
            recording=lambda path: _unless_same(
                recordings, self._recordings, path, _stamps(_recorded(path.parent, path.stem)),
                lambda: read_recording(path),
            ),
        )  # fmt: skip


def _unless_same(
    before: dict[Path, tuple[Signature, T]],
    now: dict[Path, tuple[Signature, T]],
    path: Path,
    stamps: Iterator[tuple[str, int, int]],
    read: Callable[[], T],
) -> T:
    signature = tuple(sorted(stamps))
    if path in before and before[path][0] == signature:
        now[path] = before[path]
    else:
        now[path] = signature, read()
    return now[path][1]


def _files_of_study(directory: Path) -> Iterator[Path]:
    for name in (PLAN_NAME, *RESULTS):
        yield directory / name
    for folder in (directory / RUNS).glob("*/"):
        yield folder / RECORD_NAME
        yield from _recorded(folder, "recording")


def _recorded(folder: Path, stem: str) -> Iterator[Path]:
    """A recording's file and those of its other ranks, which lie beside it."""
    for path in folder.glob("*.sqlite"):
        if path.stem == stem or path.stem.startswith(f"{stem}.rank"):
            yield path


def _stamps(files: Iterator[Path] | list[Path]) -> Iterator[tuple[str, int, int]]:
    for path in files:
        try:
            state = path.stat()
        except OSError:
            continue  # gone, or not there yet
        yield str(path), state.st_mtime_ns, state.st_size


@dataclass(frozen=True)
class Described:
    """A study or recording in the list of what is served.

    Attributes:
        name: of its page.
        state: training, waiting or finished.
        text: how far it is.
        result: what was found, the first sentence of its headline; empty where there is none yet.
        written: when one of its files was written last, in seconds since 1970; 0 without files.
    """

    name: str
    state: str
    text: str
    result: str
    written: float


def describe(source: Source) -> Described:
    """Describe a source. Damage is no error here: the page of the source names it."""
    written = max((modified for _, modified, _ in source.signature()), default=0) / 1e9
    if not source.directories:
        state, text = _recording_state(source.recordings[0])
        return Described(source.name, state, text, "", written)
    progress = read_progress(source.directories[0])
    return Described(
        source.name, progress.state, _in_short(progress), _result(source.directories[0]), written
    )


def _in_short(progress: Progress) -> str:
    if progress.state == "finished":
        return f"finished: {plural(progress.planned, 'run')}"
    if not progress.planned:
        return "waiting: no run has begun"
    unread = f", {progress.damaged} cannot be read" if progress.damaged else ""
    return f"{progress.state}: {progress.ended} of {plural(progress.planned, 'run')}{unread}"


def _recording_state(path: Path) -> tuple[str, str]:
    try:
        recording = Recording.load(path)
        steps = plural(recording.cost.steps, "step")
        return ("finished" if recording.complete else "waiting"), (
            f"recording: {steps}" if recording.complete else f"recording: {steps}, not finished"
        )
    except NormscopeError:
        return "waiting", "recording: cannot be read"


def _result(study: Path) -> str:
    """The first sentence of the newest result that a command wrote into the folder."""
    found: list[tuple[float, str]] = []
    for name in RESULTS:
        try:
            modified = (study / name).stat().st_mtime
            headlines = json.loads((study / name).read_text(encoding="utf-8"))["headline"]
            found.append((modified, str(headlines[0]["sentences"][0])))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
    return max(found, default=(0.0, ""))[1]
