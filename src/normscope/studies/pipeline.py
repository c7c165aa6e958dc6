"""What compare, study, inspect and explain share: which runs are left, training them, saying how far they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from normscope.errors import RecordError
from normscope.records.run import ENDED, RUNS, load_run, status_of
from normscope.show.sinks.runs import StudyLogs
from normscope.show.terminal import StudyProgress, percent
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.environment import device_name
from normscope.studies.execution import default_jobs, execute_all, local_executor, threads_per_job
from normscope.studies.executors import Executor
from normscope.studies.grid import Grid
from normscope.studies.labels import run_labels
from normscope.studies.progress import Progress
from normscope.studies.run_recording import is_recorded
from normscope.studies.runner import RunResult, RunTask
from normscope.studies.spec import CompareOptions


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
