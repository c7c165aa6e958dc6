"""Options of the commands that train runs, each once for all commands.

A command's options inherit what it shares with others. A field's docstring is its help. This module
imports neither torch nor NumPy: `--help` is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from tyro.conf import OmitArgPrefixes, arg

from normscope.arguments import given_path
from normscope.errors import InputError, one_line, one_of
from normscope.studies.spec import MOST_EPOCHS, MOST_THREADS, Count, Recipe, within

Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]

STUDIES = Path("normscope-runs")
"""The folder of studies for which none was named."""

MOST_RUNS = 10_000
"""In one grid: beyond, it is a mistake, and takes days."""


_MOST = {"seeds": MOST_RUNS, "epochs": MOST_EPOCHS, "jobs": MOST_RUNS, "threads": MOST_THREADS}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The images that runs see: of compare, inspect, explain and study."""

    data: str = "digits"
    """Data set: digits (embedded), cifar10, images (your own, see --data-dir); for byte-lm: text
    (embedded, or your own) or tiny-shakespeare.
    """

    data_dir: Folder = None
    """Folder of the data. For cifar10: any of its published layouts; without it, the official
    archive is downloaded. For images: class folders under train/ and test/, or parquet files with
    an image and a label column. For text: a file or a folder of files in UTF-8.
    """

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if (value := getattr(self, name, None)) is not None:
                within(f"number of {name}", value, 1, most)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(DataOptions):
    """The network and its data: options of compare, inspect and explain."""

    classes: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all)")] = ()
    """Keep these classes only, relabelled in this order, for example airplane bird."""

    epochs: Count = None
    """Passes over the training images (default: 30; digits: 20)."""

    recipe: OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    """The network and how it is trained."""


@dataclass(frozen=True, kw_only=True)
class SeveralOptions:
    """Several runs of a kind: of compare and inspect."""

    seeds: int = 3
    """Number of seeds; 5 means the seeds 0 to 4."""

    augment: bool = True
    """Random crops of the training images, and horizontal flips except on digits."""


@dataclass(frozen=True, kw_only=True)
class JobsOption:
    """The number of runs at once: an option of compare, inspect and study."""

    jobs: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: one per core; one on a GPU)")
    ] = None
    """Runs trained at once, each in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class StreamOption:
    """An option of compare, study and inspect."""

    stream: bool = False
    """Record the residual stream, too: of watched transformers and residual networks. A recording
    that is there already stays as it is.
    """


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(StreamOption):
    """Steps and where their results go: options of compare and study."""

    fusion: Literal["auto", "on", "off"] = "auto"
    """Batch normalization, addition and ReLU in one compiled step: on the CPU, where a C++ compiler
    is at hand.
    """

    graph: Literal["auto", "on", "off"] = "auto"
    """Training steps captured in a CUDA graph and replayed: on a GPU, in runs that are not watched;
    same results.
    """

    watch: bool = False
    """Record what every normalization layer does, into recording.sqlite in each run's folder; the
    results are the same. Runs that are finished without a recording are trained again, to the same
    weights, for it alone.
    """

    tensorboard: Folder = None
    """Also write epochs, distributions and figures into this TensorBoard folder, one log a run."""

    wandb: Annotated[str | None, arg(metavar="PROJECT", help_behavior_hint="")] = None
    """Also write them to this project of Weights & Biases, one run per run; WANDB_MODE=offline
    keeps them here.
    """


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The machine and the folder: options of compare, inspect, explain and study."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    precision: str = "auto"
    """Arithmetic: bf16 (autocast, normalization in fp32), fp32 (plain), or auto: bf16 where the
    hardware has it.
    """

    threads: int = 1
    """Threads of each run on the CPU. They are part of a run's identity: with another number it has
    other bits.
    """

    out: Folder = None
    """Folder of what is written (default: one of normscope-runs/)."""


@dataclass(frozen=True, kw_only=True)
class GridOptions(MachineOptions, TrainingOptions, JobsOption, SeveralOptions, NetworkOptions):
    """A grid of runs: the options of `compare`, also made from those of other commands."""

    norms: Annotated[
        tuple[str, ...], arg(help_behavior_hint="(default: batch none; transformers: layer none)")
    ] = ()
    """Normalizations to compare: batch, none, group, layer, instance, noisy-batch, ghost-batch
    (statistics of 16 images), in residual networks skipinit (none, each branch times a number that
    starts at 0); in transformers layer, rms, dyt, derf, batch, none, and with the gain 1 + weight
    layer-1p, rms-1p; or module:callable (channels -> nn.Module).
    """

    learning_rates: Annotated[
        tuple[float, ...],
        arg(help_behavior_hint="(default: 0.1; digits: 0.01 0.1 1.0; transformers: 0.001 0.003)"),
    ] = ()
    """Learning rates to train each normalization at."""

    capture_epochs: Annotated[
        tuple[int, ...] | None,
        arg(metavar="INT ...", help_behavior_hint="(default: first, middle, last)"),
    ] = None
    """Epochs after which activation distributions are captured; give the flag alone for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, values in (("norms", self.norms), ("learning-rates", self.learning_rates)):
            repeated = sorted({str(value) for value in values if values.count(value) > 1})
            if repeated:
                raise InputError(f"--{what} names {', '.join(repeated)} more than once.")


def grid_of(options: NetworkOptions, **decided: Any) -> GridOptions:
    """Return the grid of another command's options, with what that command has decided."""
    names = {each.name for each in fields(options)} & {each.name for each in fields(GridOptions)}
    return GridOptions(**{name: getattr(options, name) for name in names} | decided)


Grid = TypeVar("Grid", bound=GridOptions)


def settings_of(kind: type) -> list[str]:
    """Return the names of a grid's settings, those of its recipe among them, in order."""
    every = (*fields(kind), *fields(Recipe))
    return sorted(each.name for each in every if each.name != "recipe")


def options_from(settings: Mapping[str, Any], kind: type[Grid] = GridOptions) -> Grid:
    """Return options from settings by name; those of the recipe stand beside the others, lists may
    be given for tuples.

    Raises:
        InputError: for a name that is no setting, or a value that is none.
    """
    known = settings_of(kind)
    for name in settings:
        if name not in known:
            raise InputError(one_of("setting", name, known))
    values: dict[str, Any] = {"recipe": {}}
    for name, value in settings.items():
        table = values if name in kind.__dataclass_fields__ else values["recipe"]
        table[name] = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
    try:
        return msgspec.convert(values, kind, dec_hook=as_path)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Expected `array`", "Expected a list")
        reason = reason.replace("$.recipe.", "").replace("$.", "")
        raise InputError(f"A setting cannot be used: {reason}.") from error
    except UnicodeEncodeError as error:  # a lone surrogate
        raise InputError(f"A setting is no text: {one_line(error)}.") from error


def as_path(kind: type, value: Any) -> Any:
    """Return a text as a path, for msgspec, which knows no paths."""
    if kind is Path and isinstance(value, str | Path):
        return given_path(value)
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
