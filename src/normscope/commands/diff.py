"""`normscope diff`: two models, checkpoints or recorded trainings side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from normscope.arguments import given_path
from normscope.errors import InputError
from normscope.records.regular_files import is_database
from normscope.user_models.loading import load_side


@dataclass(frozen=True)
class DiffOptions:
    """Set two models, checkpoints or recorded trainings side by side: where do they first differ?

    Models and checkpoints are compared layer by layer. Of two recordings, or the folders of two
    watched runs, it says up to which step they are equal to the bit, which layer parts first, and
    how the distance grows.

    Ends with 0 if they do not differ, 1 if they do, 2 for bad input.
    """

    good: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GOOD")]
    """The one that works: module:factory, a checkpoint, a recording or a run's folder."""

    bad: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BAD")]
    """The other one."""

    again: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """A recording that was meant to be equal to GOOD: differences up to its own are the noise of
    equal runs.
    """

    format: Literal["text", "json"] = "text"
    """How to print."""


def run_diff(options: DiffOptions) -> int:
    """Run `normscope diff` and return its exit status.

    Raises:
        InputError: for what cannot be used.
    """
    good, bad = _recording(options.good), _recording(options.bad)
    if good and bad:
        return _diff_recordings(options, good, bad)
    for text, path in ((options.good, good), (options.bad, bad)):
        if path:
            raise InputError(f"{text} is a recording, and the other side is none: give two.")
    if options.again is not None:
        raise InputError("--again is for two recordings.")
    return _diff_models(options)


def _diff_models(options: DiffOptions) -> int:
    from normscope.examining.examine import examine, examine_state
    from normscope.judge.difference import Difference

    good, bad = load_side(options.good), load_side(options.bad)
    if isinstance(good, dict) or isinstance(bad, dict):
        record = examine_state(bad, other=good)
    else:
        record = examine(bad, other=good)
    if record.pair is None:
        raise InputError("There is nothing to compare.")
    difference = Difference(record.pair, Path(options.good).name, Path(options.bad).name)
    print(difference.json() if options.format == "json" else difference.text())
    return 1 if difference else 0


def _diff_recordings(options: DiffOptions, good: Path, bad: Path) -> int:
    from normscope.judge.recording_difference import difference_of
    from normscope.records.recording import Recording

    again = None
    if options.again is not None:
        path = _recording(options.again)
        if path is None:
            raise InputError(f"{options.again} is no recording.")
        again = Recording.load(path)
    names = options.good, options.bad
    loaded = Recording.load(good), Recording.load(bad)
    for name, recording in zip(names, loaded, strict=True):
        if not recording.header.cost.steps:
            raise InputError(
                f"{name} holds no step: a training writes what it has about every half minute."
            )
    difference = difference_of(*loaded, again, names=names)
    if not difference.compared:
        raise InputError(f"{options.good} and {options.bad} have no layer and step in common.")
    print(difference.json() if options.format == "json" else difference.text())
    return 1 if difference else 0


def _recording(text: str) -> Path | None:
    """Return the file of a recording, given itself or by the folder of its run; None for others.

    Raises:
        InputError: for a run that was not watched.
    """
    from normscope.records.run import RECORD_NAME, RECORDING_NAME

    path = given_path(text, "What is compared")
    if path.is_dir() and (path / RECORD_NAME).exists():
        if not (path / RECORDING_NAME).exists():
            raise InputError(f"The run in {path} was not watched: `compare --watch` records it.")
        return path / RECORDING_NAME
    return path if is_database(path) else None
