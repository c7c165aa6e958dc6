"""Studies from TOML files: the built-in ones by name, and users', whose code is imported only where
that was allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from normscope.arguments import given_path
from normscope.errors import InputError, first_line, one_of
from normscope.records.regular_files import read_toml
from normscope.studies.options import GridOptions, settings_of
from normscope.studies.study_description import OF_THE_MACHINE, GridPlan, StudyPlan, checked_values

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
