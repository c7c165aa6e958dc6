"""Resume a recording: drop what it holds after a step, so that a watcher goes on there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from normscope.errors import InputError, RecordError
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import FilePart
from normscope.records.store import writer


def recorded_steps(path: Path) -> int:
    """Return the step after which the recording was last written.

    Raises:
        InputError, RecordError: if there is none, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"There is no recording at {path}.")
    # A reader cannot undo the transaction in which a process was killed.
    with writer(path, "recording"):
        return FilePart(path).header.cost.steps


def truncate_after(path: Path, header: Header, step: int) -> FilePart:
    """Drop blocks, marks, events and non-finite values after a step from the recording at `path`.

    Args:
        path: the file of this process.
        header: of what is recorded from there on: the same layers at the same intervals.
        step: the recording was written at its end.

    Raises:
        InputError: if there is no recording that reaches this step, or it is of something else.
        RecordError: if it cannot be read, or was not written at the end of that step.
    """
    reached = recorded_steps(path)
    if reached < step:
        raise InputError(f"{path} ends at step {reached}; it cannot go on after step {step}.")
    part = FilePart(path)
    if _subject(part.header) != _subject(header):
        raise InputError(
            f"{path} is the recording of other layers or at other intervals; it cannot go on."
        )
    kept = replace(part.header, complete=False, cost=replace(part.header.cost, steps=step))
    with writer(path, "recording") as store, store.transaction():
        try:
            store.drop_after(step)
        except RecordError as error:
            raise RecordError(f"{error} Remove it to record from the start.") from error
        store.set_meta(
            header=kept.to_json(),
            non_finite=[row for row in part.non_finite if row["step"] <= step],
        )
    return FilePart(path)


def first_calls(header: Header) -> list[LayerInfo]:
    """Return the watched layers, each once, in the order of the model."""
    return [info for info in header.layers if info.call == 1]


def _subject(header: Header) -> tuple[object, ...]:
    # which of the normalizations a layer is may be known only when it has run
    layers = [(info.name, info.type, info.kind == "activation") for info in first_calls(header)]
    # how dense the start was makes no difference behind it: older versions' defaults had more of it
    intervals = [re.sub(r", first=\d+", "", words) for words in header.intervals.values()]
    return layers, header.model, header.unit, intervals, header.rank, header.world_size
