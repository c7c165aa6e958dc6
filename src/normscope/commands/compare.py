"""The public functions: the one place, beside the command line, that wires the rooms together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from normscope.commands.report import report_after, runs_html
from normscope.errors import RecordError, StorageError
from normscope.judge.comparison import Comparison, summarize
from normscope.records.files import write_json
from normscope.records.run import ENDED, RUNS, RunRecord, load_run, status_of
from normscope.show.figures import activation_distributions as distributions_figure
from normscope.show.figures import comparison_figure
from normscope.show.figures import learning_rate_figure as learning_rates_figure
from normscope.show.sinks.replay import chosen_sinks, study_logs
from normscope.show.sinks.runs import StudyLogs
from normscope.show.terminal import StudyProgress, comparison_table, percent
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.environment import device_name
from normscope.studies.execution import default_jobs, execute_all, local_executor, threads_per_job
from normscope.studies.executors import Executor
from normscope.studies.grid import Grid, lay_out
from normscope.studies.labels import run_labels
from normscope.studies.progress import Progress
from normscope.studies.run_recording import is_recorded
from normscope.studies.runner import RunResult, RunTask
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


@dataclass(frozen=True)
class Tasks:
    """What is left to train of a grid, and how many at once."""

    tasks: tuple[RunTask, ...]
    jobs: int


def tasks_of(grid: Grid, study: StudyDirectory, options: CompareOptions, console: Console) -> Tasks:
    """What is left to do: runs that have not ended, and those that are to be watched and have no
    recording.

    The latter are trained again, to the same weights, and that is said.

    Raises:
        RecordError: for a run whose record or recording is damaged.
    """
    jobs = min(options.jobs or default_jobs(grid.specs[0].device, len(grid.specs)), len(grid.specs))
    threads = threads_per_job(grid.specs[0].device, jobs, grid.dataset.train_images.shape[1])
    data_dir = options.data_dir.absolute() if options.data_dir is not None else None
    runs = [(spec, study.run(spec)) for spec in grid.specs]
    ended = [run for _, run in runs if known_status(run) in ENDED]
    unrecorded = [run for run in ended if options.watch and not _is_recorded(run)]
    tasks = tuple(
        RunTask(spec, run.path.absolute(), data_dir, threads, options.watch, options.graph)
        for spec, run in runs
        if run not in ended or run in unrecorded
    )
    if done := len(ended) - len(unrecorded):
        console.print(f"{done} of {len(runs)} runs are finished already and are not trained again.")
    if unrecorded:
        console.print(
            f"{len(unrecorded)} of {len(runs)} runs are finished without a recording: they are trained again, to the "
            "same weights, for the recording alone.",
            soft_wrap=True,
        )
    return Tasks(tasks, jobs)


def _is_recorded(run: RunDirectory) -> bool:
    try:
        return is_recorded(run.recording)
    except RecordError as error:
        raise RecordError(f"{error} Remove that file to record the run again.") from error


def train_all(
    left: Tasks,
    grid: Grid,
    study: StudyDirectory,
    console: Console,
    executor: Executor | None = None,
    logs: StudyLogs | None = None,
) -> dict[str, RunResult]:
    """Bring every run that is left to its end, several at once, and show how far they are.

    Args:
        left: what there is to do.
        grid: the runs that are shown, those that are done already among them.
        study: where they are.
        console: where to print.
        executor: where they are trained; None: on this machine.
        logs: what each epoch is passed on to, once it is stored.

    Returns:
        How each run ended, by its name.

    Raises:
        StorageError: as soon as a run cannot be stored.
    """
    labels = run_labels(grid.specs)
    already = len(labels) - len(left.tasks)
    results: dict[str, RunResult] = {}
    logs = logs or StudyLogs(study.path, (), console.print)
    to_train = {task.directory.name for task in left.tasks}
    for name in labels:
        logs.update(name, ended=name not in to_train)
    with StudyProgress(console, labels, grid.specs[0].epochs, already_done=already) as progress:

        def report(message: Progress) -> None:
            progress.report(message)
            if message.epochs_done == int(message.epochs_done):
                logs.update(message.run)

        def ended(task: RunTask, result: RunResult) -> None:
            name = task.directory.name
            results[name] = result
            logs.update(name, ended=True)
            told = "; ".join(filter(None, (_ending(study.path, name, result), result.note)))
            progress.ended(name, told, good=result.status == "finished")

        execute_all(left.tasks, executor or local_executor(left.jobs), report, ended)
    return results


def known_status(run: RunDirectory) -> str | None:
    """The status in a run's record, None before there is one.

    Raises:
        RecordError: if the record is damaged, with what to do.
    """
    try:
        return status_of(run.path)
    except RecordError as error:
        raise RecordError(
            f"{error} Remove its folder to train that run again; the others are kept."
        ) from error


def _ending(study: Path, name: str, result: RunResult) -> str:
    if result.status == "failed":
        return f"failed: {result.error}"
    run = load_run(study / RUNS / name)
    if result.status == "diverged":
        return f"diverged at step {run.meta.get('diverged_step')}"
    seconds = float(np.nansum(run.column("seconds")))
    return f"test {percent(run.final('test_accuracy'))} after {len(run.epochs['epoch'])} epochs, {seconds:.0f} s"


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


def say_set_up(grid: Grid, study: StudyDirectory, console: Console) -> None:
    """Print what is about to be trained, on what and where."""
    spec, data = grid.specs[0], grid.dataset
    parameters = ", ".join(f"{count:,} ({norm})" for norm, count in grid.parameters.items())
    train, test = (
        -(-len(labels) // spec.batch_size) for labels in (data.train_labels, data.test_labels)
    )
    lines = [
        f"Device      {device_name(spec.device)}, {spec.precision}{', fused normalization' if spec.fusion else ''}",
        f"Data        {data.source}: {len(data.train_labels):,} training and {len(data.test_labels):,} test images, "
        f"{len(data.classes)} classes",
        f"Model       {spec.model}, parameters: {parameters}",
        f"Batches     {train} training, {test} test, {spec.batch_size} images each",
        f"Runs        {len(grid.specs)} of {spec.epochs} epochs, into {study.path}",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


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
