"""A study: one grid of runs or several that share a folder, and the knobs that it varies."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from normscope.errors import InputError, one_of
from normscope.records.measurements import KNOWN as MEASUREMENTS
from normscope.studies.options import GridOptions, options_from
from normscope.studies.spec import RunSpec

NOT_SWEPT = {
    "data": "--data",
    "data_fingerprint": "--data-dir",
    "classes": "the setting classes",
    "seed": "--seeds",
    "capture_epochs": "the setting capture_epochs",
    "device": "--device",
    "fusion": "--fusion",
    "norm_code": "the norm",
    "engine": "nothing: it is normscope's own",
}
"""Fields of a RunSpec that are no knobs, and what decides them."""

OF_THE_MACHINE = ("out", "jobs", "data_dir", "tensorboard", "wandb")
"""Options that a study cannot bring along: they are of the machine that it runs on."""


@dataclass(frozen=True)
class GridPlan:
    """One grid of a study: settings of `compare` by name, and the values of those it varies."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    measure: tuple[str, ...] | None = None  # what is measured beside training; None: what is cheap

    def __post_init__(self) -> None:
        for name in self.measure or ():
            if name not in MEASUREMENTS:
                raise InputError(one_of("measurement", name, MEASUREMENTS))

    def options(self, overrides: Mapping[str, Any]) -> GridOptions:
        """The grid's settings as options, with what the user decided in their place.

        Raises:
            InputError: for a setting that is none.
        """
        return options_from({**self.settings, **overrides})


@dataclass(frozen=True)
class StudyPlan:
    """A study by its grids. Runs that several grids ask for are trained once."""

    name: str
    description: str
    grids: tuple[GridPlan, ...]

    def swept(self, sweep: Mapping[str, tuple[Any, ...]]) -> StudyPlan:
        """Return the study with these settings varied in every grid, in place of the grid's own."""
        grids = tuple(
            dataclasses.replace(grid, sweep={**grid.sweep, **sweep}) for grid in self.grids
        )
        return dataclasses.replace(self, grids=grids)


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """{knob: values} of "knob=a,b,c" texts.

    Raises:
        InputError: for a text of another form, an unknown knob, one that is given twice, or a value
            that cannot be.
    """
    sweep: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        knob, equals, values = text.partition("=")
        if not equals or not values.strip(","):
            raise InputError(f"--sweep {text!r} is not of the form knob=a,b,c.")
        if knob in sweep:
            raise InputError(f"--sweep names {knob} more than once.")
        given = [value.split("x") if _takes_a_list(knob) else value for value in values.split(",")]
        sweep[knob] = checked_values(knob, given)
    return sweep


def checked_values(knob: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a knob in its type; numbers may be given as text.

    Raises:
        InputError: for a knob that is none, no value, a value twice, or one of another type.
    """
    if knob in NOT_SWEPT:
        raise InputError(f"{knob} cannot be swept; it is decided by {NOT_SWEPT[knob]}.")
    kinds = _kinds()
    if knob not in kinds:
        raise InputError(one_of("knob", knob, sorted(kinds)))
    if not values:
        raise InputError(f"The sweep of {knob} has no value; expected at least one.")
    try:
        converted = tuple(msgspec.convert(value, kinds[knob], strict=False) for value in values)
    except msgspec.ValidationError as error:
        raise InputError(f"A value of the sweep of {knob} cannot be used: {error}.") from error
    if len(set(converted)) < len(converted):
        raise InputError(f"The sweep of {knob} has a value more than once.")
    return converted


def _kinds() -> dict[str, Any]:
    """{knob: its type}."""
    hints = typing.get_type_hints(RunSpec)
    names = (field.name for field in dataclasses.fields(RunSpec))
    return {name: hints[name] for name in names if name not in NOT_SWEPT}


def _takes_a_list(knob: str) -> bool:
    return "tuple" in str(_kinds().get(knob, ""))
