"""`normscope compare`: the same network with several normalizations, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from normscope.errors import StorageError
from normscope.judge.comparison import Comparison, summarize
from normscope.records.files import write_json
from normscope.records.run import RunRecord, load_run, status_of
from normscope.show.figures import activation_distributions as distributions_figure
from normscope.show.figures import comparison_figure
from normscope.show.figures import learning_rate_figure as learning_rates_figure
from normscope.show.report.pages import report_after, runs_html
from normscope.show.sinks.replay import chosen_sinks, study_logs
from normscope.show.sinks.runs import StudyLogs
from normscope.show.terminal import comparison_table
from normscope.studies.directory import StudyDirectory
from normscope.studies.grid import Grid, lay_out
from normscope.studies.pipeline import Tasks, say_set_up, tasks_of, train_all
from normscope.studies.spec import CompareOptions, RunSpec, options_from


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """What `compare` made: the folder, the runs as they are in it, and the summary of the grid that
    was asked for.
    """

    directory: Path
    runs: tuple[RunRecord, ...]
    summary: Comparison

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs that ended with an error."""
        return tuple(run for run in self.runs if run.status == "failed")

    def _repr_html_(self) -> str:
        return runs_html(self.runs, self.directory)


def compare(
    options: CompareOptions | None = None, *, console: Console | None = None, **settings: Any
) -> ComparisonResult:
    """Train the same network with several normalizations and set the runs side by side.

    Takes the names of the command line (`normscope compare --help`), for example
    `compare(data="digits", norms=("batch", "none"), seeds=5, epochs=10, out="my-study")`. Runs that
    are finished in the folder are not trained again; interrupted ones go on from their last whole
    epoch.

    Args:
        options: all settings as one object, instead of by name.
        console: where to print; None prints to standard output.
        settings: fields of `CompareOptions` and of its `Recipe`.

    Returns:
        A `ComparisonResult`; the folder also holds the figures and summary.json.

    Raises:
        InputError: for settings or data that cannot be used.
        StorageError: if the folder cannot be written. Finished epochs are kept.
        KeyboardInterrupt: on Ctrl-C, after summary.json is written. The same call goes on from
            there.
    """
    if options is None:
        options = options_from(settings)
    elif settings:
        raise TypeError("give either options or settings by name, not both")
    console = console or Console()
    grid = lay_out(options)
    sinks = chosen_sinks(options.tensorboard, options.wandb, options.directory)
    study = StudyDirectory.create(options.directory)
    say_set_up(grid, study, console)
    tasks = tasks_of(grid, study, options, console)
    with study_logs(study.path, sinks, console) as logs:
        return _train_and_show(tasks, grid, study, console, logs)


def _train_and_show(
    tasks: Tasks, grid: Grid, study: StudyDirectory, console: Console, logs: StudyLogs
) -> ComparisonResult:
    try:
        train_all(tasks, grid, study, console, logs=logs)
    except StorageError:
        raise  # nothing more can be written
    except BaseException:
        _write_summary(grid, study)  # what is finished counts, whatever stopped the rest
        raise
    runs, summary = _write_summary(grid, study)
    figures = _draw(study, runs, summary)
    logs.figures([study.path / name for name in figures])
    written = [*figures, "summary.json"]
    page = report_after(study.path)
    _say_result(
        study, grid, summary, [*written, *([page.name] if page is not None else [])], console
    )
    return ComparisonResult(study.path, runs, summary)


def _load(study: StudyDirectory, spec: RunSpec) -> RunRecord:
    run = study.run(spec)
    if status_of(run.path) is not None:
        return load_run(run.path)
    return RunRecord(run.path, dataclasses.asdict(spec), "interrupted", {"epoch": np.array([])})


def _write_summary(grid: Grid, study: StudyDirectory) -> tuple[tuple[RunRecord, ...], Comparison]:
    runs = tuple(_load(study, spec) for spec in grid.specs)
    summary = summarize(runs, grid.norms, grid.learning_rates)
    write_json(study.path / "summary.json", summary.to_json())
    return runs, summary


def _draw(study: StudyDirectory, runs: tuple[RunRecord, ...], summary: Comparison) -> list[str]:
    """Draw what this grid has figures for, remove those of an earlier grid, and return the names of
    what is there.
    """
    figures: dict[str, Callable[[Path], object] | None] = {
        "comparison.png": lambda path: comparison_figure.draw(summary, runs, path),
        "activation_distributions.png": (
            (lambda path: distributions_figure.draw(runs, path))
            if any(run.captures for run in runs)
            else None
        ),
        "learning_rates.png": (
            (lambda path: learning_rates_figure.draw(summary, runs, path))
            if len(summary.threshold) > 1
            else None
        ),
    }
    for name, draw in figures.items():
        if draw is None:
            (study.path / name).unlink(missing_ok=True)
        else:
            draw(study.path / name)
    return [name for name, draw in figures.items() if draw is not None]


def _say_result(
    study: StudyDirectory, grid: Grid, summary: Comparison, files: list[str], console: Console
) -> None:
    console.print(comparison_table(summary, grid.specs[0].epochs))
    console.print(
        "Accuracy: mean ± standard deviation of n finished runs after the last epoch, on "
        f"{summary.data.get('source')}. "
        f"Threshold: 95% of {grid.norms[0]}'s mean final accuracy at that rate. Variation: standard deviation over "
        "mean of the stem-gradient norm over epochs.",
        style="dim",
        highlight=False,
        markup=False,
    )
    console.print(
        f"Written to {study.path}: {', '.join(files)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
