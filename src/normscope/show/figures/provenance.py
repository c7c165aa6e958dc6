"""Where a figure's numbers come from, in words: n, data, hardware and versions, and which runs did not finish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from normscope.records.recording import Recording
from normscope.records.run import RunRecord
from normscope.show.figures.style import label_of


def footer(runs: Sequence[RunRecord]) -> str:
    """The line under a figure of runs. Runs made on several machines name each of them."""
    seeds = len({run.seed for run in runs})
    sentences = [
        f"n = {seeds} {'seed' if seeds == 1 else 'seeds'} per norm and learning rate.",
        f"Data: {_joined(_data(run) for run in runs)}.",
        f"Hardware: {_joined(_hardware(run) for run in runs)}.",
        f"Versions: {_joined(_versions(run) for run in runs)}.",
    ]
    return " ".join(sentences)


def subject(runs: Sequence[RunRecord]) -> str:
    """What was trained on what."""
    spec = runs[0].spec
    return f"{spec['model']} on {spec['data']}, {epochs_of(spec['epochs'])}"


def recorded(recording: Recording) -> str:
    """What was recorded with what, for a figure's footer where nothing more is known."""
    versions = ", ".join(
        f"{name}\u00a0{version}" for name, version in recording.header.versions.items()
    )
    return f"Recorded by normscope on {recording.header.device}; {recording.cost.steps:,} steps. Versions: {versions}."


def epochs_of(count: int) -> str:
    """A number of epochs in words."""
    return f"{count} epoch{'s' if count != 1 else ''}"


_WORDS = {"interrupted": "interrupted or still training"}  # a record cannot tell which


def unfinished(runs: Sequence[RunRecord], except_for: Sequence[str] = ()) -> str:
    """Which runs of each norm did not finish, and that means leave them out; empty where all did.

    Statuses in `except_for` are not mentioned.
    """
    notes = []
    for norm in dict.fromkeys(run.norm for run in runs):
        statuses = Counter(run.status for run in runs if run.norm == norm)
        others = [
            f"{count} {_WORDS.get(status, status)}"
            for status, count in statuses.items()
            if status not in ("finished", *except_for)
        ]
        if others:
            notes.append(f"{label_of(norm)}: {', '.join(others)} of {statuses.total()} runs")
    return f"{'; '.join(notes)} (left out of means)." if notes else ""


def _data(run: RunRecord) -> str | None:
    data: dict[str, Any] = run.meta.get("data", {})
    if "source" not in data:
        return None
    counts = [
        f"{data[key]:,} {word}"
        for key, word in (("train_images", "training"), ("test_images", "test"))
        if key in data
    ]
    return f"{data['source']}, {' and '.join(counts)} images" if counts else str(data["source"])


def _hardware(run: RunRecord) -> str | None:
    hardware = run.meta.get("environment", {}).get("hardware", {})
    parts = [hardware.get("device_name"), run.spec.get("precision")]
    return ", ".join(str(part) for part in parts if part) if parts[0] else None


def _versions(run: RunRecord) -> str | None:
    versions = run.meta.get("environment", {}).get("versions", {})
    known = [f"{name}\u00a0{versions[name]}" for name in ("torch", "normscope") if name in versions]
    return ", ".join(known) or None


def _joined(values: Iterable[str | None]) -> str:
    known = dict.fromkeys(value for value in values if value is not None)
    return " / ".join(known) or "not recorded"
