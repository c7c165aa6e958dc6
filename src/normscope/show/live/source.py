"""The sources of a page: studies and recordings, their files' changes, and cached reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from normscope.records.progress import PLAN_NAME
from normscope.records.recording import Recording
from normscope.records.run import RECORD_NAME, RUNS, RunRecord, load_run
from normscope.show.report.report_data import RecordReaders, read_recording

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
