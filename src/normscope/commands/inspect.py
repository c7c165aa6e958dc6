"""`normscope inspect`: a network with and without normalization, and what its layers do."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from normscope.arguments import judged
from normscope.commands.compare import RunsResult
from normscope.errors import InputError, NormscopeError
from normscope.studies.options import (
    STUDIES,
    GridOptions,
    JobsOption,
    MachineOptions,
    NetworkOptions,
    SeveralOptions,
    StreamOption,
    grid_of,
)
from normscope.studies.spec import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.records.recording import Recording
    from normscope.records.run import RunRecord
    from normscope.studies.grid import Grid
    from normscope.studies.pipeline import Training

DIGITS = ("3", "8")
"""The two classes of digits that are told apart with no arguments."""


@dataclass(frozen=True, kw_only=True)
class InspectOptions(MachineOptions, StreamOption, JobsOption, SeveralOptions, NetworkOptions):
    """Train a network with a normalization and without it, watched, and show what happens inside
    its layers.

    With no arguments: two classes of the embedded digits, in half a minute. For the chosen layer:
    the distributions of its input and output per channel, and its statistics and parameters over
    training; for all layers: an overview, and how much of their output lies where gradients pass
    the following activation. The same command again does not train again, and another --layer takes
    a few seconds.
    """

    classes: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all; digits: 3 8)")] = ()
    """Keep these classes only, relabelled in this order, for example airplane bird."""

    layer: Annotated[
        str | None, arg(metavar="STR", help_behavior_hint="(default: the first in a block)")
    ] = None
    """Layer to show, by its name in the network; a pattern such as '*.bn1' shows each that matches.
    """

    norm: Annotated[
        str | None, arg(metavar="STR", help_behavior_hint="(default: batch; transformers: layer)")
    ] = None
    """Normalization of the network: batch, group, layer, instance, one of transformers (rms, dyt,
    ...), or module:callable. It is set beside none.
    """

    learning_rate: float = 0.01
    """Learning rate of the first epoch."""

    seeds: int = 1
    """Number of seeds; figures of a single run show the first."""

    epochs: int = 50  # pyright: ignore[reportIncompatibleVariableOverride]: never left open here
    """Passes over the training images."""

    recipe: OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(model="bird-plane", batch_size=64)
    )
    """The network and how it is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "none":
            raise InputError(
                "The normalization is none; expected one to inspect. It is set beside none anyway "
                "(--norm)."
            )

    @property
    def directory(self) -> Path:
        """The folder of what is written."""
        return self.out if self.out is not None else STUDIES / f"inspect-{self.data}"

    @property
    def study(self) -> GridOptions:
        """A grid of watched runs, with the normalization and without.

        Normalization is not fused: the gradient at a layer's output exists where the layer is an
        operation of its own.
        """
        return grid_of(
            self,
            classes=self.classes or (DIGITS if self.data == "digits" else ()),
            norms=(self.norm, "none") if self.norm else (),  # those that are compared by default
            learning_rates=(self.learning_rate,),
            capture_epochs=(),
            fusion="off",
            watch=True,
            stream=self.stream,
        )


@dataclass(frozen=True, eq=False)
class InspectionResult(RunsResult):
    """The result of `inspect`: folder, layers shown, runs, recordings by norm and seed."""

    layers: tuple[str, ...]
    recordings: Mapping[str, Sequence[Recording]]
    numbers: dict[str, Any]


def run_inspect(options: InspectOptions) -> int:
    """Run `normscope inspect` and return its exit status."""
    inspect(options)
    return 0


@judged
def inspect(
    options: InspectOptions | None = None, *, console: Console | None = None
) -> InspectionResult:
    """Train a network with a normalization and without it, watched, and show what happens inside
    its layers.

    Runs that are in the folder already are not trained again.

    Args:
        options: as `normscope inspect --help` says; None takes the defaults.
        console: where to print; None prints to standard output.

    Raises:
        InputError: for settings, data or a layer that cannot be used, or a folder that holds
            something else.
        NormscopeError: if a training failed, or a run could not be recorded.
        StorageError: if the folder cannot be written. Finished epochs are kept.
    """
    from rich.console import Console

    from normscope.judge.headline import conclude, passing
    from normscope.show.inspection_text import show
    from normscope.show.verdict_text import say_conclusions
    from normscope.studies.grid import lay_out
    from normscope.studies.pipeline import open_study

    options = InspectOptions() if options is None else options
    grid = lay_out(options.study)
    layers = choose_layers(grid, options.layer)
    with open_study(options.directory, options.study, console or Console()) as training:
        training.say_set_up(grid)
        training.train(grid, options.study)
        runs = training.runs(grid)
        recordings = _recordings(grid, training, runs)
        conclusions = conclude(runs, observed=passing(recordings, layers[0]))
        numbers = _numbers(runs, recordings, layers) | conclusions.to_json()
        files = _write(training.study.path, layers, runs, recordings, numbers)
        show(numbers, recordings[grid.norms[0]][0], layers, training.console)
        say_conclusions(training.console, conclusions)
        training.written(files)
    return InspectionResult(training.study.path, runs, layers, recordings, numbers)


def choose_layers(grid: Grid, pattern: str | None = None) -> tuple[str, ...]:
    """The names of the normalization layers that a name or glob selects, in the order of the
    network; without one, of the first in a block.

    Raises:
        InputError: if it selects no module, or none that normalizes.
    """
    from normscope.studies.grid import build_for
    from normscope.user_models.norm_layers import is_norm
    from normscope.watching.watched_layers import find_layers

    spec = grid.specs[0]
    model = build_for(grid.dataset, spec)
    every = [name for name, module in model.named_modules() if is_norm(module)]
    if not every:
        raise InputError(
            f"The network has no layer that normalizes: its norm is {spec.norm!r} (--norm). "
            "`normscope compare --watch` records what comes out of its place."
        )
    found = find_layers(model, pattern or model.landmarks.first_normalization)
    layers = tuple(layer.name for layer in found if is_norm(layer.module))
    if not layers:
        raise InputError(
            f"{found[0].name} is a {found[0].info.type}, not a normalization layer; expected one "
            f"of {', '.join(every)} (--layer)."
        )
    return layers


def file_names(layers: Sequence[str]) -> dict[str, str]:
    """Return {layer: how its files' names begin}, of letters, digits, points, dashes and
    underscores, no two alike, also where letters have no case.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for layer in layers:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", layer).strip(".")[:100] or "layer"
        candidates = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
        names[layer] = next(name for name in candidates if name.lower() not in taken)
        taken.add(names[layer].lower())
    return names


def _recordings(
    grid: Grid, training: Training, runs: Sequence[RunRecord]
) -> dict[str, list[Recording]]:
    """{norm: a recording per seed} of the runs that ended.

    Raises:
        NormscopeError: if one of them failed or has no recording, or the normalized one diverged.
    """
    from normscope.records.recording import Recording

    recordings: dict[str, list[Recording]] = {norm: [] for norm in grid.norms}
    for spec, run in zip(grid.specs, runs, strict=True):
        if run.status == "failed":
            raise NormscopeError(
                f"The training {run.directory.name} failed: {run.meta.get('error')}"
            )
        if run.status == "diverged" and spec.norm != "none":
            raise NormscopeError(
                f"The training {run.directory.name} diverged: its layers hold no finite numbers to "
                "show. Try a smaller --learning-rate."
            )
        path = training.study.run(spec).recording
        if not path.is_file():
            raise NormscopeError(
                f"{run.directory.name} could not be recorded; see above. There is nothing to show."
            )
        recordings[spec.norm].append(Recording.load(path))
    return recordings


def _numbers(
    runs: Sequence[RunRecord], recordings: Mapping[str, Sequence[Recording]], layers: Sequence[str]
) -> dict[str, Any]:
    from normscope.judge.inspection import accuracies, regions_of

    return {
        "format": "normscope inspection",
        "version": 1,
        "layers": list(layers),
        "runs": [accuracies(run) for run in runs],
        "activation_regions": regions_of(recordings),
        "environment": runs[0].meta.get("environment"),
        "data": runs[0].meta.get("data"),
        "spec": {key: value for key, value in runs[0].spec.items() if key not in ("norm", "seed")},
    }


def _write(
    folder: Path,
    layers: Sequence[str],
    runs: Sequence[RunRecord],
    recordings: Mapping[str, Sequence[Recording]],
    numbers: dict[str, Any],
) -> list[str]:
    """Write every file of the inspection, and return their names."""
    from normscope.judge.inspection import channel_table, to_csv
    from normscope.records.files import write_json, write_text, written_aside
    from normscope.records.run import RECORDING_NAME

    before = list(dict.fromkeys(row["layer"] for row in numbers["activation_regions"]))
    figures = _figures(layers, before, runs, recordings)
    for name, draw in figures.items():
        draw(path=folder / name)
    normalized = next(iter(recordings.values()))[0]
    write_text(folder / "inspection.csv", to_csv(channel_table(normalized, layers)))
    write_json(folder / "inspection.json", numbers)
    with written_aside(folder / RECORDING_NAME) as aside:
        shutil.copyfile(runs[0].directory / RECORDING_NAME, aside)
    return [*figures, "inspection.csv", "inspection.json", RECORDING_NAME]


def _figures(
    layers: Sequence[str],
    before_activations: Sequence[str],
    runs: Sequence[RunRecord],
    recordings: Mapping[str, Sequence[Recording]],
) -> dict[str, Callable[..., object]]:
    """Return {file: what draws it}: two of each shown layer of the first run, and two of all."""
    from normscope.show.figures import (
        activation_regions_figure,
        recording_distributions,
        recording_overview,
        recording_statistics,
    )
    from normscope.show.figures.provenance import footer, subject

    one, first = runs[:1], [run for run in runs if run.seed == runs[0].seed]
    origin = f"{subject(one)}, norm {runs[0].norm}, seed {runs[0].seed}. {footer(one)}"
    shown = next(iter(recordings.values()))[0]
    drawers = {
        "distributions": recording_distributions.draw,
        "statistics": recording_statistics.draw,
    }
    figures: dict[str, Callable[..., object]] = {
        f"{name}_{kind}.png": partial(draw, shown, layer, origin=origin)
        for layer, name in file_names(layers).items()
        for kind, draw in drawers.items()
    }
    figures["overview.png"] = partial(
        recording_overview.draw,
        {norm: each[0] for norm, each in recordings.items()},
        origin=f"{subject(first)}, seed {runs[0].seed}. {footer(first)}",
    )
    if before_activations:
        figures["activation_regions.png"] = partial(
            activation_regions_figure.draw,
            recordings,
            before_activations,
            origin=f"{subject(runs)}. {footer(runs)}",
        )
    return figures
