"""A study in a line: how far it is and what was found, read from its files without its runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from normscope.errors import NormscopeError
from normscope.records.progress import Progress, read_progress
from normscope.records.recording import Recording
from normscope.show.live.source import RESULTS, Source
from normscope.words import plural


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
