"""`normscope inspect`: a network with a normalization and without, trained watched, and what its layers did."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from normscope.errors import InputError, NormscopeError
from normscope.judge.inspection import accuracies, channel_table, regions_of, to_csv
from normscope.records.files import write_json, write_text, written_aside
from normscope.records.recording import Recording
from normscope.records.run import RECORDING_NAME, RunRecord, load_run
from normscope.show.figures import activation_regions_figure as activation_regions
from normscope.show.figures import recording_distributions, recording_overview, recording_statistics
from normscope.show.figures.provenance import footer, subject
from normscope.show.inspection_text import show
from normscope.show.report.pages import report_after, runs_html
from normscope.studies.directory import StudyDirectory
from normscope.studies.grid import Grid, build_for, lay_out
from normscope.studies.inspect_options import InspectOptions
from normscope.studies.pipeline import say_set_up, tasks_of, train_all
from normscope.user_models.norm_layers import is_norm
from normscope.watching.watched_layers import find_layers

__all__ = ["InspectionResult", "inspect"]


@dataclass(frozen=True, eq=False)
class InspectionResult:
    """What `inspect` made: the folder, the layers that were shown, the runs, and the recordings by
    norm and seed.
    """

    directory: Path
    layers: tuple[str, ...]
    runs: tuple[RunRecord, ...]
    recordings: Mapping[str, Sequence[Recording]]
    numbers: dict[str, Any]

    def _repr_html_(self) -> str:
        return runs_html(self.runs, self.directory)


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
    options = options or InspectOptions()
    console = console or Console()
    grid = lay_out(options.study)
    layers = choose_layers(grid, options.layer)
    study = StudyDirectory.create(options.directory)
    say_set_up(grid, study, console)
    train_all(tasks_of(grid, study, options.study, console), grid, study, console)

    runs = tuple(load_run(study.run(spec).path) for spec in grid.specs)
    recordings = _recordings(grid, study, runs)
    numbers = _numbers(runs, recordings, layers)
    files = _write(study, layers, runs, recordings, numbers)
    if (page := report_after(study.path)) is not None:
        files.append(page.name)
    show(numbers, recordings[grid.norms[0]][0], layers, console)
    console.print(
        f"Written to {study.path}: {', '.join(files)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return InspectionResult(study.path, layers, runs, recordings, numbers)


def choose_layers(grid: Grid, pattern: str) -> tuple[str, ...]:
    """The names of the normalization layers that a name or glob selects, in the order of the
    network.

    Raises:
        InputError: if it selects no module, or none that normalizes.
    """
    spec = grid.specs[0]
    model = build_for(grid.dataset, spec)
    every = find_layers(model)  # says so where the network has none
    found = find_layers(model, pattern)
    layers = tuple(layer.name for layer in found if is_norm(layer.module))
    if not layers:
        raise InputError(
            f"{found[0].name} is a {found[0].info.type}, not a normalization layer; expected one of "
            f"{', '.join(layer.name for layer in every)} (--layer)."
        )
    return layers


def file_names(layers: Sequence[str]) -> dict[str, str]:
    """{layer: how its files' names begin}, of letters, digits, points, dashes and underscores; no
    two alike.
    """
    names: dict[str, str] = {}
    taken: list[str] = []  # in lower case: some file systems know no other
    for layer in layers:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", layer).strip(".")[:100] or "layer"
        taken.append(name.lower())
        count = taken.count(name.lower())
        names[layer] = name if count == 1 else f"{name}-{count}"
    return names


def _recordings(
    grid: Grid, study: StudyDirectory, runs: Sequence[RunRecord]
) -> dict[str, list[Recording]]:
    """{norm: a recording per seed} of the runs that ended.

    Raises:
        NormscopeError: if one of them failed or has no recording, or the normalized one diverged.
    """
    recordings: dict[str, list[Recording]] = {norm: [] for norm in grid.norms}
    for spec, run in zip(grid.specs, runs, strict=True):
        if run.status == "failed":
            raise NormscopeError(
                f"The training {run.directory.name} failed: {run.meta.get('error')}"
            )
        if run.status == "diverged" and spec.norm != "none":
            raise NormscopeError(
                f"The training {run.directory.name} diverged: its layers hold no finite numbers to show. "
                "Try a smaller --learning-rate."
            )
        path = study.run(spec).recording
        if not path.is_file():
            raise NormscopeError(
                f"{run.directory.name} could not be recorded; see above. There is nothing to show."
            )
        recordings[spec.norm].append(Recording.load(path))
    return recordings


def _numbers(
    runs: Sequence[RunRecord], recordings: Mapping[str, Sequence[Recording]], layers: Sequence[str]
) -> dict[str, Any]:
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
    study: StudyDirectory,
    layers: Sequence[str],
    runs: Sequence[RunRecord],
    recordings: Mapping[str, Sequence[Recording]],
    numbers: dict[str, Any],
) -> list[str]:
    """Every file of the inspection; their names."""
    normalized = next(iter(recordings.values()))[0]
    one = f"{subject(runs[:1])}, norm {runs[0].norm}, seed {runs[0].seed}. {footer(runs[:1])}"
    every = f"{subject(runs)}. {footer(runs)}"
    files = []
    for layer, name in file_names(layers).items():
        for ending, draw in (
            ("distributions", recording_distributions.draw),
            ("statistics", recording_statistics.draw),
        ):
            files.append(f"{name}_{ending}.png")
            draw(normalized, layer, study.path / files[-1], origin=one)
    first = [run for run in runs if run.seed == runs[0].seed]
    recording_overview.draw(
        {norm: own[0] for norm, own in recordings.items()},
        study.path / "overview.png",
        origin=f"{subject(first)}, seed {first[0].seed}. {footer(first)}",
    )
    files.append("overview.png")
    before = list(dict.fromkeys(row["layer"] for row in numbers["activation_regions"]))
    if before:
        activation_regions.draw(
            recordings, before, study.path / "activation_regions.png", origin=every
        )
        files.append("activation_regions.png")
    write_text(study.path / "inspection.csv", to_csv(channel_table(normalized, layers)))
    write_json(study.path / "inspection.json", numbers)
    with written_aside(study.path / RECORDING_NAME) as aside:
        shutil.copyfile(runs[0].directory / RECORDING_NAME, aside)
    return [*files, "inspection.csv", "inspection.json", RECORDING_NAME]
