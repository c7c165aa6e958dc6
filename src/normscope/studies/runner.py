"""One run from its spec to its record: trained and stored epoch by epoch, resumed if killed."""

from __future__ import annotations

import functools
import io
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope import fused
from normscope.data import sources
from normscope.data.dataset import Dataset
from normscope.errors import InputError, NormscopeError, RecordError, StorageError, one_line
from normscope.models.fusing import using
from normscope.models.network import Network
from normscope.records.files import write_text, written_aside
from normscope.records.histogram import store_capture
from normscope.records.run import ENDED, STATUSES
from normscope.records.run_description import check_description
from normscope.records.store import Store, writer
from normscope.studies.capture import capture
from normscope.studies.directory import RunDirectory
from normscope.studies.environment import describe_environment
from normscope.studies.grid import (
    batches_for,
    build_for,
    count_parameters,
    fusion_unavailable_reason,
    graph_unavailable_reason,
)
from normscope.studies.run_recording import (
    WatchedTraining,
    WatchPlan,
    differing,
    is_recorded,
    plan_watching,
)
from normscope.studies.spec import RunSpec
from normscope.training.callbacks import GradientNorms, ProgressCallback, Report, WeightNorms
from normscope.training.loop import Callback, Epoch, Outcome, train
from normscope.training.plan import Batches, ResumeState
from normscope.training.precision import autocast

CAPTURED_BATCHES = 3
"""Test batches whose activations are captured, as in the notebook that this follows."""


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
    _begin(task.spec, directory, store)
    try:
        return _recorded(task, directory, _train(task, directory, store, report), report)
    except StorageError:  # the record cannot be trusted to take the error either
        raise
    except (Exception, SystemExit) as error:
        message = one_line(error)
        with store.transaction():
            store.set_meta(status="failed", error=message, traceback=traceback.format_exc())
        return RunResult("failed", message)


def _begin(spec: RunSpec, directory: RunDirectory, store: Store) -> None:
    """Record which run this is before anything can go wrong."""
    if not directory.spec.exists():
        write_text(directory.spec, spec.to_json() + "\n")
    with store.transaction():
        # interrupted until it is something else: what a killed run leaves behind
        store.set_meta(
            spec=asdict(spec), status="interrupted", error=None, threads=torch.get_num_threads()
        )


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
    resume = _resume_state(store)
    _describe(store, spec, prepared.dataset, batches, model)

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
    outcome = _divergence(store) or _train_with(prepared, task, callbacks, watched, resume)

    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save(_on_cpu(model.state_dict()), buffer)
    with written_aside(directory.weights) as aside:
        aside.write_bytes(buffer.getvalue())
    with store.transaction():
        store.set_meta(
            status=outcome.status,
            diverged_step=outcome.diverged_step,
            not_captured=outcome.not_captured,
            error=None,
        )
        store.drop_resume_state()
    store.compact()
    return RunResult(outcome.status, note=_note(task, outcome, watched))


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Move the tensors of a state to the CPU, so that they load on a machine without a GPU."""
    for name, value in state.items():
        if isinstance(value, Tensor):  # a normalization of one's own may keep other things
            state[name] = value.cpu()
    return state


def _note(task: RunTask, outcome: Outcome, watched: WatchedTraining | None) -> str:
    """Return what the user asked for and did not get."""
    if watched is not None and watched.stopped:
        return "not recorded: the recording stopped on the way"
    if task.graph == "on" and outcome.not_captured:
        return f"not captured in a CUDA graph: {outcome.not_captured}"
    return ""


class StoreEpochs(Callback):
    """Store each epoch, its captures and the state to resume from in one transaction."""

    def __init__(self, store: Store, spec: RunSpec, model: Network, batches: Batches):
        self._store, self._spec, self._model, self._batches = store, spec, model, batches

    def on_epoch(self, epoch: Epoch) -> None:
        ended = epoch.scalars["first_non_finite_step"] is not None
        capturing = epoch.number in self._spec.capture_epochs and not ended
        captures = self._capture() if capturing else {}
        with self._store.transaction():
            self._store.add_epoch(epoch.number, epoch.scalars)
            for tensor, captured in captures.items():
                store_capture(self._store, tensor, captured, step=epoch.step, epoch=epoch.number)
            self._store.set_resume_state(epoch.number, epoch.state.to_bytes())

    def _capture(self):
        def forward(images: Tensor) -> Tensor:
            with autocast(self._spec.precision, self._spec.device):
                return self._model(images)

        images = (images for images, _ in self._batches.test(CAPTURED_BATCHES))
        return capture(forward, images, captured_tensors(self._model))


def captured_tensors(model: Network) -> Mapping[str, tuple[nn.Module, str]]:
    """The three tensors of the first stage whose distributions a run records."""
    marks = model.landmarks
    return {
        "block_output": (model.get_submodule(marks.first_stage), "output"),
        "before_activation": (model.get_submodule(marks.last_activation), "input"),
        "normalized": (model.get_submodule(marks.first_normalization), "output"),
    }


def _watched_weights(model: Network) -> dict[str, nn.Parameter]:
    marks = model.landmarks
    return {
        "stem": model.get_parameter(f"{marks.stem}.weight"),
        "last_layer": model.get_parameter(f"{marks.classifier}.weight"),
    }


def _resume_state(store: Store) -> ResumeState | None:
    saved = store.resume_state()
    if saved is None:
        return None
    state = ResumeState.from_bytes(saved[1])
    if state.epoch != saved[0] or len(store.epochs()["epoch"]) != state.epoch:
        raise RecordError(
            f"{store.path} is damaged: its resume state belongs to another epoch than its last."
        )
    return state


def _divergence(store: Store) -> Outcome | None:
    """Return the outcome of a run that was killed after it diverged, before that was recorded."""
    steps = store.epochs().get("first_non_finite_step", np.array([]))
    if not len(steps) or not np.isfinite(steps[-1]):
        return None
    return Outcome("diverged", int(steps[-1]), "it was killed before it could tell")


def _describe(
    store: Store, spec: RunSpec, dataset: Dataset, batches: Batches, model: Network
) -> None:
    """Write what the run is and what it runs on, before its first epoch or after going on."""
    with store.transaction():
        store.set_meta(
            not_fused=None
            if spec.fusion
            else (fusion_unavailable_reason(spec.device) or "switched off"),
            data={
                "source": dataset.source,
                "kind": dataset.kind,
                "classes": list(dataset.classes),
                "train_images": len(dataset.train_labels),
                "test_images": len(dataset.test_labels),
                "image_shape": list(dataset.train_images.shape[1:]),
                "mean": list(dataset.mean),
                "std": list(dataset.std),
            },
            parameters=count_parameters(model),
            batches={"train": batches.train_batches, "test": batches.test_batches},
            environment=describe_environment(spec.device),
        )


@functools.lru_cache(maxsize=1)
def _dataset(
    name: str, data_dir: Path | None, classes: tuple[str, ...], fingerprint: str
) -> Dataset:
    """Load a data set, or return the one of the process's last run if it is the same."""
    return sources.load(name, data_dir=data_dir, classes=classes)
