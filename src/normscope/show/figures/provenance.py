"""The origin of a figure's numbers in words: n, data, hardware, versions, unfinished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from normscope.records.progress import is_training
from normscope.records.recording import Recording
from normscope.records.run import RunRecord
from normscope.show.figures.style import label_of
from normscope.words import items, plural


def footer(runs: Sequence[RunRecord]) -> str:
    """Return the line under a figure of runs. Runs of several machines name each of them."""
    seeds = plural(len({run.seed for run in runs}), "seed")
    origins = [made_on(run.meta, run.spec.get("precision")) for run in runs]
    made = (f"{part}: {_joined(origin[part] for origin in origins)}." for part in origins[0])
    return " ".join([f"n = {seeds} per norm and learning rate.", *made])


def subject(runs: Sequence[RunRecord]) -> str:
    """Return what was trained on what, and for how long."""
    spec = runs[0].spec
    return f"{spec['model']} on {spec['data']}, {plural(spec['epochs'], 'epoch')}"


def recorded(recording: Recording) -> str:
    """Return what was recorded with what, for a figure's footer where nothing more is known."""
    header, steps = recording.header, plural(recording.cost.steps, "step")
    versions = ", ".join(f"{name}\u00a0{version}" for name, version in header.versions.items())
    return f"Recorded by normscope on {header.device}; {steps}. Versions: {versions}."


def state_of(run: RunRecord) -> str:
    """Return a run's status, or "still training" where a process trains it at this moment."""
    is_left = run.status == "interrupted" and is_training(run.directory)
    return "still training" if is_left else run.status


def unfinished(runs: Sequence[RunRecord], except_for: Sequence[str] = ()) -> str:
    """Say which runs of each norm did not finish, and that means leave them out; empty where all
    did. Statuses in `except_for` are not mentioned.
    """
    notes = []
    for norm in dict.fromkeys(run.norm for run in runs):
        statuses = Counter(state_of(run) for run in runs if run.norm == norm)
        others = [
            f"{count} {status}"
            for status, count in statuses.items()
            if status not in ("finished", *except_for)
        ]
        if others:
            total = plural(statuses.total(), "run")
            notes.append(f"{label_of(norm)}: {', '.join(others)} of {total}")
    return f"{'; '.join(notes)} (left out of means)." if notes else ""


def made_on(meta: Mapping[str, Any], precision: str | None) -> dict[str, str | None]:
    """Return data, hardware and versions of a run in words; None where they were not recorded."""
    data, environment = meta.get("data", {}), meta.get("environment", {})
    device = environment.get("hardware", {}).get("device_name")
    versions = environment.get("versions", {})
    counts = [
        f"{data[key]:,} {word}"
        for key, word in (("train_images", "training"), ("test_images", "test"))
        if key in data
    ]
    images = f", {' and '.join(counts)} {items(data.get('kind'))}" if counts else ""
    names = [f"{name}\u00a0{versions[name]}" for name in ("torch", "normscope") if name in versions]
    return {
        "Data": f"{data['source']}{images}" if "source" in data else None,
        "Hardware": ", ".join(filter(None, (device, precision))) if device else None,
        "Versions": ", ".join(names) or None,
    }


def run_footer(meta: Mapping[str, Any], also: str = "") -> str:
    """Return the line under a figure of one trained network's layer; `also` says what else is on
    it.
    """
    spec = meta["spec"]
    made = {
        part: text or "not recorded" for part, text in made_on(meta, spec.get("precision")).items()
    }
    return (
        f"n = 1 trained network (seed {spec['seed']}, learning rate {spec['learning_rate']:g}). "
        f"{also}Data: {made['Data']}. Hardware: {made['Hardware']}; the layer itself in float32, "
        f"its arithmetic in float64. Versions: {made['Versions']}."
    )


def _joined(values: Iterable[str | None]) -> str:
    known = dict.fromkeys(value for value in values if value is not None)
    return " / ".join(known) or "not recorded"
