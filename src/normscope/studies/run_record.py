"""What a run's record holds: what the run is, its epochs with their captures, how it ended."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.data.dataset import Dataset
from normscope.errors import RecordError
from normscope.models.network import Network
from normscope.records.files import write_text, written_aside
from normscope.records.histogram import store_capture
from normscope.records.store import Store
from normscope.studies.capture import capture
from normscope.studies.directory import RunDirectory
from normscope.studies.environment import describe_environment
from normscope.studies.grid import count_parameters, fusion_unavailable_reason
from normscope.studies.spec import RunSpec
from normscope.training.loop import Callback, Epoch, Outcome
from normscope.training.plan import Batches, ResumeState
from normscope.training.precision import autocast

CAPTURED_BATCHES = 3
"""Test batches whose activations are captured, as in the notebook that this follows."""


def begin(spec: RunSpec, directory: RunDirectory, store: Store) -> None:
    """Record which run this is before anything can go wrong."""
    if not directory.spec.exists():
        write_text(directory.spec, spec.to_json() + "\n")
    with store.transaction():
        # interrupted until it is something else: what a killed run leaves behind
        store.set_meta(
            spec=asdict(spec), status="interrupted", error=None, threads=torch.get_num_threads()
        )


def describe(
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


def resume_state(store: Store) -> ResumeState | None:
    """Return what a training goes on from, None where it begins.

    Raises:
        RecordError: if it is not the state behind the last epoch.
    """
    saved = store.resume_state()
    if saved is None:
        return None
    state = ResumeState.from_bytes(saved[1])
    if state.epoch != saved[0] or len(store.epochs()["epoch"]) != state.epoch:
        raise RecordError(
            f"{store.path} is damaged: its resume state belongs to another epoch than its last."
        )
    return state


def divergence(store: Store) -> Outcome | None:
    """Return the outcome of a run that was killed after it diverged, before that was recorded."""
    steps = store.epochs().get("first_non_finite_step", np.array([]))
    if not len(steps) or not np.isfinite(steps[-1]):
        return None
    return Outcome("diverged", int(steps[-1]), "it was killed before it could tell")


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


def end(directory: RunDirectory, store: Store, model: Network, outcome: Outcome) -> None:
    """Write the weights, then how the run ended."""
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


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Move the tensors of a state to the CPU, so that they load on a machine without a GPU."""
    for name, value in state.items():
        if isinstance(value, Tensor):  # a normalization of one's own may keep other things
            state[name] = value.cpu()
    return state
