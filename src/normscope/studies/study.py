"""A study: one grid of runs or several that share a folder, and what a user asks `normscope study` for.

This module imports neither torch nor anything that does: `--help` is built from it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from tyro.conf import Positional, arg

from normscope.errors import InputError, one_of
from normscope.records.measurement_names import KNOWN as MEASUREMENTS
from normscope.studies.spec import CompareOptions, RunSpec, options_from

_Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the study's)")]
_Text = Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: the study's)")]
_Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]

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
    """One grid of a study: settings of `compare` by name, and knobs with the values that they take."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    measure: tuple[str, ...] | None = None  # what is measured beside training; None: what is cheap

    def __post_init__(self) -> None:
        for name in self.measure or ():
            if name not in MEASUREMENTS:
                raise InputError(one_of("measurement", name, MEASUREMENTS))

    def options(self, overrides: Mapping[str, Any]) -> CompareOptions:
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
        """The same study with these knobs swept in every grid, in place of what a grid says of
        them.
        """
        grids = tuple(
            dataclasses.replace(grid, sweep={**grid.sweep, **sweep}) for grid in self.grids
        )
        return dataclasses.replace(self, grids=grids)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Train a grid of runs and judge the usual claims about normalization on it.

    Built in: quick, notebook, blog, learning-rates, initialization, activation-functions,
    batch-size, placement, propagation, landscape, covariate-shift. The same command again goes on
    where it was interrupted; with more seeds it trains only what is new.
    """

    study: Positional[str] = "quick"
    """Name of a built-in study, or a TOML file."""

    sweep: Annotated[tuple[str, ...], arg(metavar="KNOB=A,B,C ...", help_behavior_hint="")] = ()
    """Knobs to vary as well, for example learning_rate=0.01,0.1 initialization_scale=0.1,1,10. Numbers of a list, as in widths, are joined by x: widths=8x16x32,16x32x64."""

    data: _Text = None
    """Data set: digits, cifar10 or images."""

    data_dir: _Folder = None
    """Folder of the data, as for compare."""

    seeds: _Count = None
    """Number of seeds; 5 means the seeds 0 to 4."""

    epochs: _Count = None
    """Passes over the training images."""

    jobs: Annotated[
        int | None,
        arg(
            metavar="INT",
            help_behavior_hint="(default: one per core; one on a GPU; with ray what there is room for)",
        ),
    ] = None
    """Runs trained at once, each in a process of its own."""

    executor: Literal["local", "ray"] = "local"
    """Where runs are trained: in processes of this machine, or as tasks of a Ray cluster
    (normscope[ray]).
    """

    address: Annotated[
        str | None, arg(metavar="auto|HOST:PORT|local", help_behavior_hint="(default: auto)")
    ] = None
    """With --executor ray, the cluster: the one that runs on this machine (auto), another, or one that is started on this machine for this command (local)."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    precision: str = "auto"
    """Arithmetic: bf16, fp32, or auto."""

    fusion: Literal["auto", "on", "off"] = "auto"
    """Fused normalization, as for compare."""

    graph: Literal["auto", "on", "off"] = "auto"
    """Steps captured in a CUDA graph, as for compare."""

    watch: bool = False
    """Record what every normalization layer does, as for compare."""

    allow_code: bool = False
    """Import normalizations that a study file names as module:callable. It is code: look at it
    first.
    """

    tensorboard: _Folder = None
    """Also write into this TensorBoard folder, as for compare."""

    wandb: Annotated[str | None, arg(metavar="PROJECT", help_behavior_hint="")] = None
    """Also write to this project of Weights & Biases, as for compare."""

    out: _Folder = None
    """Folder of the study (default: normscope-runs/<study>)."""

    def __post_init__(self) -> None:
        if self.executor not in ("local", "ray"):
            raise InputError(one_of("executor", self.executor, ("local", "ray")))
        if self.address is not None and self.executor == "local":
            raise InputError(
                f"--address {self.address} is for --executor ray; the executor is local."
            )

    @property
    def directory(self) -> Path:
        """The folder of the study."""
        return self.out if self.out is not None else Path("normscope-runs") / Path(self.study).stem

    def overrides(self) -> dict[str, Any]:
        """What the user decided, as settings of `compare`; a setting that was left alone is the
        study's.
        """
        chosen = {
            name: getattr(self, name) for name in ("data", "data_dir", "seeds", "epochs", "jobs")
        }
        with_default = {
            name: getattr(self, name) for name in ("device", "precision", "fusion", "graph")
        }
        return (
            {name: value for name, value in chosen.items() if value is not None}
            | {name: value for name, value in with_default.items() if value != "auto"}
            | ({"watch": True} if self.watch else {})
        )


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """Judge the usual claims about normalization on runs that are there, also on part of a study.

    Writes claims.json, claims.md and a figure for each claim. Nothing is trained.
    """

    directories: Positional[tuple[Path, ...]]
    """Folders of studies; the runs of several are judged together."""

    norm: str = "batch"
    """The normalization that claims are about."""

    reference: str = "none"
    """The one that it is set against."""

    out: _Folder = None
    """Where the results go (default: the first folder)."""

    def __post_init__(self) -> None:
        if not self.directories:
            raise InputError("No folder was given; expected the folder of a study.")
        if self.norm == self.reference:
            raise InputError(
                f"--norm and --reference are both {self.norm!r}; expected two normalizations."
            )


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
