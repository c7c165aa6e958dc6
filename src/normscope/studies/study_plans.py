"""A study: grids of runs that share a folder, and the knobs that they vary. It is built in, or in a
user's TOML file, whose code is imported only where that was allowed.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from normscope.arguments import given_path
from normscope.errors import InputError, first_line, one_of
from normscope.records.measurements import KNOWN as MEASUREMENTS
from normscope.records.regular_files import read_toml
from normscope.studies.options import GridOptions, options_from, settings_of
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


Table = dict[str, Any]

MOST_GRIDS = 100


class _Grid(msgspec.Struct, forbid_unknown_fields=True):
    settings: Table = {}
    sweep: dict[str, list[Any]] = {}
    measure: tuple[str, ...] | None = None


class _Group(_Grid):
    grid: list[_Grid] = []


class _File(_Grid):
    description: str = ""
    grid: list[_Group] = []

    def grids(self) -> list[tuple[_Grid, ...]]:
        """Return each grid as the parts that add up to it, outermost first."""
        groups = self.grid or [_Group()]
        return [(self, group, own) for group in groups for own in group.grid or [_Grid()]]


def built_in_studies() -> dict[str, Path]:
    """Return {name: its file} of the studies that normscope brings along."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "built_in").glob("*.toml"))}


def find_study(name: str, *, allow_code: bool = False) -> StudyPlan:
    """The built-in study of a name, or the one in a TOML file.

    Raises:
        InputError: if there is neither, or the file cannot be used.
    """
    built_in = built_in_studies()
    if name in built_in:
        return read_study(built_in[name])
    path = given_path(name, "A study")
    if path.suffix == ".toml" or path.is_file():
        return read_study(path, allow_code=allow_code)
    raise InputError(f"{one_of('study', name, built_in)} Or a TOML file.")


def read_study(path: Path, *, allow_code: bool = False) -> StudyPlan:
    """The study in a TOML file.

    Its `settings` are settings of `compare`, its `sweep` knobs with lists of values. Several grids
    stand under `[[grid]]`, each with settings and a sweep of its own, which add to those of the
    file; a grid may itself be several, under `[[grid.grid]]`. `measure` names what is measured
    beside training, for all grids or for one; left out, it is what is cheap.

    Raises:
        InputError: if the file cannot be read or used, or names code and `allow_code` is false.
    """
    try:
        content = read_toml(path)
        for key in content:
            if key not in _File.__struct_fields__:
                raise InputError(
                    f"{path} is no study: {one_of('key', key, _File.__struct_fields__)}"
                )
        file = msgspec.convert(content, _File)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is no study: {first_line(error)}.") from error
    if not (file.settings or file.sweep or file.grid):
        raise InputError(
            f"{path} is no study: it is empty; expected [settings], [sweep] or [[grid]]."
        )
    if len(parts := file.grids()) > MOST_GRIDS:
        raise InputError(
            f"{path} has {len(parts):,} grids ([[grid]]); at most {MOST_GRIDS} are laid out."
        )
    try:
        grids = tuple(_plan(*each) for each in parts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    code = sorted({norm for grid in grids for norm in _norms(grid) if ":" in norm})
    if code and not allow_code:
        raise InputError(
            f"{path} names code that would be run: {', '.join(code)}. If you trust it, give "
            "--allow-code."
        )
    return StudyPlan(path.stem, file.description, grids)


def _plan(*parts: _Grid) -> GridPlan:
    settings = {name: value for part in parts for name, value in part.settings.items()}
    sweep = {knob: values for part in parts for knob, values in part.sweep.items()}
    known = [name for name in settings_of(GridOptions) if name not in OF_THE_MACHINE]
    for name in ("norms", "learning_rates"):
        if settings.get(name) == []:
            raise InputError(f"The setting {name} has no value; expected at least one.")
    for name in settings:
        if name in OF_THE_MACHINE:
            raise InputError(
                f"{name} is a setting of the machine, not of a study; give it on the command line."
            )
        if name not in known:
            raise InputError(one_of("setting", name, known))
    plan = GridPlan(
        settings,
        {knob: checked_values(knob, values) for knob, values in sweep.items()},
        next((part.measure for part in reversed(parts) if part.measure is not None), None),
    )
    twice = [knob for knob in plan.sweep if knob in settings or f"{knob}s" in settings]
    if twice:
        raise InputError(f"{twice[0]} is given as a setting and as a sweep; expected one of them.")
    plan.options({})
    return plan


def _norms(grid: GridPlan) -> tuple[str, ...]:
    return (*grid.settings.get("norms", ()), *grid.sweep.get("norm", ()))
