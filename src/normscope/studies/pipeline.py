"""The steps of compare, study, inspect and explain: open the folder, train what is left, report."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from normscope.errors import RecordError
from normscope.records.progress import RunProgress, write_plan
from normscope.records.regular_files import read_bytes
from normscope.records.run import ENDED, RUNS, SPEC_NAME, RunRecord, load_run, meta_of
from normscope.show.report.pages import report_after
from normscope.show.sinks.runs import StudyLogs, chosen_sinks, study_logs
from normscope.show.terminal import StudyProgress, percent, say
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.environment import device_name, usable_cores
from normscope.studies.executors import Executor, default_jobs, execute_all
from normscope.studies.executors.local import ProcessExecutor
from normscope.studies.grid import Grid
from normscope.studies.labels import run_labels
from normscope.studies.options import GridOptions
from normscope.studies.run_recording import is_recorded
from normscope.studies.runner import RunResult, RunTask
from normscope.studies.spec import RunSpec
from normscope.words import items, listed, plural

LARGE_ENOUGH_FOR_THREADS = 16
"""Pixels of an image's side from which a second thread makes a run faster."""

DECIDED_HERE = ("data_fingerprint", "norm_code", "engine", "device", "precision", "fusion")
"""Settings that follow from the data, the code, the machine and the version."""


@dataclass(frozen=True)
class Training:
    """A study while its runs are trained; `open_study` makes one."""

    study: StudyDirectory
    console: Console
    logs: StudyLogs
    executor: Executor | None

    def say_set_up(self, grid: Grid) -> None:
        """Print what is about to be trained, on what and where."""
        spec, data = grid.specs[0], grid.dataset
        parameters = ", ".join(f"{count:,} ({norm})" for norm, count in grid.parameters.items())
        train, test = (
            -(-len(labels) // spec.batch_size) for labels in (data.train_labels, data.test_labels)
        )
        noun = items(data.kind)
        epochs = plural(spec.epochs, "epoch")
        fused = ", fused normalization" if spec.fusion else ""
        lines = [
            f"Device      {device_name(spec.device)}, {spec.precision}{fused}",
            f"Data        {data.source}: {len(data.train_labels):,} training and "
            f"{len(data.test_labels):,} test {noun}, {len(data.classes)} classes",
            f"Model       {spec.model}, parameters: {parameters}",
            f"Batches     {train} training, {test} test, {spec.batch_size} {noun} each",
            f"Runs        {len(grid.specs)}, {epochs} each, into {self.study.path}",
        ]
        say(self.console, "\n".join(lines))

    def train(
        self, grid: Grid, options: GridOptions, planned: Sequence[RunSpec] = ()
    ) -> dict[str, RunResult]:
        """Bring every run of a grid that is left to its end, several at once, and show how far they
        are.

        Args:
            grid: the runs.
            options: how they are trained.
            planned: all runs of the command, where the grid is one of several.

        Returns:
            {name of a run: how it ended} of those that were left.

        Raises:
            RecordError: for a run whose record or recording is damaged.
            StorageError: as soon as a run cannot be stored.
        """
        write_plan(self.study.path, [spec.name for spec in planned or grid.specs])
        tasks = self._tasks(grid, options)
        jobs = _jobs(grid, options)
        if tasks and self.executor is None:
            self._say_idle_cores(grid, jobs)
            count = min(jobs, len(tasks))
            say(self.console, f"Starting {plural(count, 'worker')} ...")
        labels, results = run_labels(grid.specs), dict[str, RunResult]()
        left = {task.directory.name for task in tasks}
        for name in labels:
            self.logs.update(name, ended=name not in left)
        done = len(labels) - len(tasks)
        epochs = {spec.name: spec.epochs for spec in grid.specs}
        with StudyProgress(self.console, labels, epochs, already_done=done) as progress:

            def report(message: RunProgress) -> None:
                progress.report(message)
                if message.epochs_done == int(message.epochs_done):
                    self.logs.update(message.run)

            def ended(task: RunTask, result: RunResult) -> None:
                name = task.directory.name
                results[name] = result
                self.logs.update(name, ended=True)
                outcome = "; ".join(filter(None, (_outcome(task, result), result.note)))
                progress.ended(name, outcome, good=result.status == "finished")

            def waiting(busy: list[RunTask]) -> None:
                names = listed((labels[task.directory.name] for task in busy), 3)
                say(self.console, f"Waiting for another process, which trains {names}.")

            execute_all(tasks, self.executor or ProcessExecutor(jobs), report, ended, waiting)
        return results

    def runs(self, grid: Grid) -> tuple[RunRecord, ...]:
        """Return the runs of a grid as recorded; one without a record is interrupted."""
        return tuple(self._run(spec) for spec in grid.specs)

    def written(self, files: Sequence[str], *, page: bool = True) -> None:
        """Pass figures on, write the report, and say what was written and what to open."""
        self.logs.figures([self.study.path / name for name in files if name.endswith(".png")])
        report = report_after(self.study.path) if page else None
        names = [*files, *([report.name] if report is not None else [])]
        say(self.console, f"Written to {self.study.path}: {', '.join(names)}")
        if report is not None:
            say(self.console, f"Open {report}")

    def _run(self, spec: RunSpec) -> RunRecord:
        path = self.study.run(spec).path
        if meta_of(path).get("status") is not None:
            return load_run(path)
        return RunRecord(path, dataclasses.asdict(spec), "interrupted", {"epoch": np.array([])})

    def _tasks(self, grid: Grid, options: GridOptions) -> list[RunTask]:
        """Return what is left: runs that have not ended, and those that are to be watched and have
        no recording. The latter are trained again, to the same weights, and that is said.
        """
        data_dir = options.data_dir.absolute() if options.data_dir is not None else None
        runs = [(spec, self.study.run(spec)) for spec in grid.specs]
        metas = [known_meta(run) for _, run in runs]
        ended = [
            run for (_, run), meta in zip(runs, metas, strict=True) if meta.get("status") in ENDED
        ]
        for run in ended:
            run.clear_ended()
        unrecorded = [run for run in ended if options.watch and not _is_recorded(run)]
        if done := len(ended) - len(unrecorded):
            self.console.print(
                f"{done} of {len(runs)} runs are finished already and are not trained again."
            )
        if unrecorded:
            say(
                self.console,
                f"{len(unrecorded)} of {len(runs)} runs are finished without a recording: they are "
                "trained again, to the same weights, for the recording alone.",
            )
        self._say_other_threads(grid.specs, metas)
        new = [spec for (spec, _), meta in zip(runs, metas, strict=True) if not meta]
        self._say_almost_there(new)
        return [
            RunTask(
                spec, run.path.absolute(), data_dir, options.watch, options.graph, options.stream
            )
            for spec, run in runs
            if run not in ended or run in unrecorded
        ]

    def _say_other_threads(self, specs: Sequence[RunSpec], metas: Sequence[dict[str, Any]]) -> None:
        """Count runs of an earlier version, whose threads were no part of their identity."""
        if specs[0].device != "cpu":
            return  # where they change no bit
        pairs = zip(specs, metas, strict=True)
        if count := sum(meta.get("threads", spec.threads) != spec.threads for spec, meta in pairs):
            say(
                self.console,
                f"{count} of {len(specs)} runs were begun by an earlier version with another "
                "number of threads; they keep it, and so differ in bits from runs with --threads "
                f"{specs[0].threads}.",
            )

    def _say_almost_there(self, specs: Sequence[RunSpec]) -> None:
        """Say why runs of the folder are not these, where all that a user types is the same."""
        differing = Counter(filter(None, (self._difference(spec) for spec in specs)))
        for fields, count in differing.items():
            which = "1 run is" if count == 1 else f"{count} runs are"
            say(
                self.console,
                f"{which} in the folder with the same settings, but for another {fields}: kept, "
                "and trained anew as asked for now.",
            )

    def _difference(self, spec: RunSpec) -> str | None:
        start = spec.name.removesuffix(spec.id)
        for path in sorted(self.study.path.glob(f"{RUNS}/{start}*/{SPEC_NAME}")):
            try:
                other = dataclasses.asdict(RunSpec.from_json(read_bytes(path)))
            except (RecordError, OSError):
                continue
            ours = dataclasses.asdict(spec).items()
            fields = [name for name, value in ours if value != other[name]]
            if fields and set(fields) <= set(DECIDED_HERE):
                return " and ".join(re.sub("_", " ", name) for name in fields)
        return None

    def _say_idle_cores(self, grid: Grid, jobs: int) -> None:
        spec, cores = grid.specs[0], usable_cores()
        large = grid.dataset.train_images.shape[1] >= LARGE_ENOUGH_FOR_THREADS
        if spec.device == "cpu" and large and 2 * jobs * spec.threads <= cores:
            say(
                self.console,
                f"{jobs * spec.threads} of {cores} cores are in use; --threads {cores // jobs} "
                "uses them all, and makes other runs, as threads are part of a run's id.",
            )


@contextmanager
def open_study(
    directory: Path, options: GridOptions, console: Console, executor: Executor | None = None
) -> Iterator[Training]:
    """Yield the study in a folder, made where there is none, with the sinks that were asked for.

    Runs are trained by the executor, without one on this machine.

    Raises:
        InputError: if something else is in the folder, or a sink cannot be had.
        StorageError: if the folder cannot be made.
    """
    sinks = chosen_sinks(options.tensorboard, options.wandb, directory)
    study = StudyDirectory.create(directory)
    with study_logs(study.path, sinks, console) as logs:
        yield Training(study, console, logs, executor)


def known_meta(run: RunDirectory) -> dict[str, Any]:
    """Return what a run's record says of it, {} before there is one.

    Raises:
        RecordError: if the record is damaged, with what to do.
    """
    try:
        return meta_of(run.path)
    except RecordError as error:
        raise RecordError(
            f"{error} Remove its folder to train that run again; the others are kept."
        ) from error


def _jobs(grid: Grid, options: GridOptions) -> int:
    spec, runs = grid.specs[0], len(grid.specs)
    return min(options.jobs or default_jobs(spec.device, runs, spec.threads), runs)


def _is_recorded(run: RunDirectory) -> bool:
    try:
        return is_recorded(run.recording)
    except RecordError as error:
        raise RecordError(f"{error} Remove that file to record the run again.") from error


def _outcome(task: RunTask, result: RunResult) -> str:
    if result.status == "failed":
        return f"failed: {result.error}"
    run = load_run(task.directory)
    if result.status == "diverged":
        return f"diverged at step {run.meta.get('diverged_step')}"
    accuracy, seconds = percent(run.final("test_accuracy")), np.nansum(run.column("seconds"))
    epochs = plural(len(run.epochs["epoch"]), "epoch")
    return f"test {accuracy} after {epochs}, {float(seconds):.0f} s"
