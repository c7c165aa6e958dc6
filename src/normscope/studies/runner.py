"""One run from its spec to its record: trained and stored epoch by epoch, resumed if killed."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from normscope import fused
from normscope.data import sources
from normscope.data.dataset import Dataset
from normscope.errors import InputError, NormscopeError, StorageError, one_line
from normscope.models.fusing import using
from normscope.models.network import Network
from normscope.records.run import ENDED, STATUSES
from normscope.records.run_description import check_description
from normscope.records.store import Store, writer
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import (
    batches_for,
    build_for,
    fusion_unavailable_reason,
    graph_unavailable_reason,
)
from normscope.studies.run_record import StoreEpochs, begin, describe, divergence, end, resume_state
from normscope.studies.run_recording import (
    WatchedTraining,
    WatchPlan,
    differing,
    is_recorded,
    plan_watching,
)
from normscope.studies.spec import RunSpec
from normscope.training.callbacks import GradientNorms, ProgressCallback, Report, WeightNorms
from normscope.training.loop import Callback, Outcome, train
from normscope.training.plan import Batches, ResumeState


@dataclass(frozen=True)
class RunTask:
    """A run to be executed, as it travels to the process that does it."""

    spec: RunSpec
    directory: Path
    data_dir: Path | None = None
    watch: bool = False  # whether a recording is made; no part of the run's identity
    graph: str = "auto"  # whether steps are captured in a CUDA graph: auto, on or off; as `watch`
    stream: bool = False  # whether a recording has the residual stream, too


@dataclass(frozen=True)
class RunResult:
    """The result of an execution: a run's status, or "busy" while another process trains it."""

    status: str
    error: str | None = None
    storage_failed: bool = False
    note: str = ""  # what there is to say beside that


def execute(task: RunTask, report: Report) -> RunResult:
    """Bring a run to its end: nothing to do, go on after its last whole epoch, or train it from the
    start.

    Whatever goes wrong inside the run becomes its status, a sys.exit in somebody's normalization
    too; only KeyboardInterrupt passes through.
    """
    directory = RunDirectory(task.directory)
    threads_before = torch.get_num_threads()
    try:
        with directory.locked() as ours:
            if not ours:
                return RunResult("busy")
            directory.clear_leftovers()
            begun = {"spec": asdict(task.spec), "status": "interrupted"}
            with writer(directory.record, "run", **begun) as store:
                check_description(directory.record, store.meta(), STATUSES)
                _set_threads(task, store)
                return _execute_recorded(task, directory, store, report)
    except NormscopeError as error:
        return RunResult("failed", str(error), storage_failed=isinstance(error, OSError))
    finally:
        torch.set_num_threads(threads_before)


def _set_threads(task: RunTask, store: Store) -> None:
    """Give the run the threads of its spec; an older one those that it began with."""
    torch.set_num_threads(store.meta().get("threads", task.spec.threads))


def _execute_recorded(
    task: RunTask, directory: RunDirectory, store: Store, report: Report
) -> RunResult:
    status = store.meta().get("status")
    if status in ENDED:
        return _recorded(task, directory, RunResult(status), report)
    begin(task.spec, directory, store)
    try:
        return _recorded(task, directory, _train(task, directory, store, report), report)
    except StorageError:  # the record cannot be trusted to take the error either
        raise
    except (Exception, SystemExit) as error:
        message = one_line(error)
        with store.transaction():
            store.set_meta(status="failed", error=message, traceback=traceback.format_exc())
        return RunResult("failed", message)


def record_failure(task: RunTask, error: str) -> RunResult:
    """Record that a run failed whose process ended. The caller holds the run's lock."""
    directory = RunDirectory(task.directory)
    try:
        with writer(directory.record, "run") as store, store.transaction():
            store.set_meta(spec=asdict(task.spec), status="failed", error=error)
    except NormscopeError as unrecorded:
        return RunResult("failed", str(unrecorded), storage_failed=isinstance(unrecorded, OSError))
    return RunResult("failed", error)


def _recorded(
    task: RunTask, directory: RunDirectory, result: RunResult, report: Report
) -> RunResult:
    """The result of a run that has ended, after the recording is made that it may lack: by training
    it once more.

    Only a training that ends with the bits of the weights that are there gives the run's recording.
    """
    if not task.watch or result.note or is_recorded(directory.recording):
        return result
    again = directory.path / ".recording-again.sqlite"
    try:
        prepared = _prepare(task)
        watched = WatchedTraining(again, prepared.watch_plan(task.spec), stream=task.stream)
        progress = ProgressCallback(task.directory.name, prepared.batches.train_batches, report)
        _train_with(prepared, task, [watched, progress], watched)
        if others := differing(prepared.model.state_dict(), directory.weights):
            note = f"not recorded: trained again here, it ends with other weights ({others[0]})"
            return replace(result, note=note)
        if not is_recorded(again):
            return replace(result, note="not recorded: the recording stopped on the way")
        again.replace(directory.recording)
        return replace(result, note="trained again to the same weights for its recording")
    except (Exception, SystemExit) as error:
        # the run has its result, whatever becomes of its recording
        return replace(result, note=f"not recorded: {one_line(error)}")
    finally:
        again.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Prepared:
    """The parts of a training, built from a task."""

    dataset: Dataset
    batches: Batches
    model: Network

    def watch_plan(self, spec: RunSpec) -> WatchPlan:
        return plan_watching(self.dataset, spec, self.batches.train_batches)


def _prepare(task: RunTask) -> _Prepared:
    """Check that the run can be trained here, and build its parts."""
    spec = task.spec
    obstacle = fusion_unavailable_reason(spec.device) if spec.fusion else None
    if obstacle is not None:
        raise InputError(
            f"The run was laid out with fused normalization, which cannot be had here: {obstacle}."
        )
    dataset = _dataset(spec.data, task.data_dir, spec.classes, spec.data_fingerprint)
    if dataset.fingerprint != spec.data_fingerprint:
        raise InputError(
            "The data changed since the study began; give the same --data-dir, or another --out."
        )
    batches = batches_for(dataset, spec, spec.device)
    model = build_for(dataset, spec).to(spec.device)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: missing from torch's stubs
    return _Prepared(dataset, batches, model)


def _train_with(
    prepared: _Prepared,
    task: RunTask,
    callbacks: Sequence[Callback],
    watched: WatchedTraining | None,
    resume: ResumeState | None = None,
) -> Outcome:
    """Train, and end the recording, where there is one, however the training ends."""
    spec = task.spec
    obstacle = graph_unavailable_reason(task.graph, spec.device, spec.norm, watched is not None)
    try:
        with using(fused.normalize if spec.fusion else None):
            return train(
                prepared.model,
                prepared.batches,
                spec,
                callbacks=callbacks,
                resume=resume,
                not_captured=obstacle,
            )
    finally:
        if watched is not None:
            watched.close()


def _train(task: RunTask, directory: RunDirectory, store: Store, report: Report) -> RunResult:
    spec = task.spec
    prepared = _prepare(task)
    model, batches = prepared.model, prepared.batches
    resume = resume_state(store)
    describe(store, spec, prepared.dataset, batches, model)

    done, step = (resume.epoch, resume.step) if resume is not None else (0, 0)
    callbacks: list[Callback] = [
        GradientNorms(_watched_weights(model), batches.train_batches),
        WeightNorms(model),
        StoreEpochs(store, spec, model, batches),
        ProgressCallback(task.directory.name, batches.train_batches, report, done, batches.unit),
    ]
    watched = None
    if task.watch:
        watched = WatchedTraining(
            directory.recording, prepared.watch_plan(spec), step, stream=task.stream
        )
        callbacks.insert(0, watched)  # first: a whole epoch is recorded before it is stored
    outcome = divergence(store) or _train_with(prepared, task, callbacks, watched, resume)

    end(directory, store, model, outcome)
    return RunResult(outcome.status, note=_note(task, outcome, watched))


def _watched_weights(model: Network) -> dict[str, nn.Parameter]:
    marks = model.landmarks
    return {
        "stem": model.get_parameter(f"{marks.stem}.weight"),
        "last_layer": model.get_parameter(f"{marks.classifier}.weight"),
    }


def _note(task: RunTask, outcome: Outcome, watched: WatchedTraining | None) -> str:
    """Return what the user asked for and did not get."""
    if watched is not None and watched.stopped:
        return "not recorded: the recording stopped on the way"
    if task.graph == "on" and outcome.not_captured:
        return f"not captured in a CUDA graph: {outcome.not_captured}"
    return ""


@functools.lru_cache(maxsize=1)
def _dataset(
    name: str, data_dir: Path | None, classes: tuple[str, ...], fingerprint: str
) -> Dataset:
    """Load a data set, or return the one of the process's last run if it is the same."""
    return sources.load(name, data_dir=data_dir, classes=classes)
