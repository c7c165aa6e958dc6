"""A run that is watched: when it is recorded, and how its recording keeps step with its epochs."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from normscope.data.dataset import Dataset
from normscope.errors import InputError, NormscopeWarning, RecordError, StorageError
from normscope.records.recording_parts import FilePart
from normscope.studies.grid import WATCHED, build_for
from normscope.studies.spec import RunSpec
from normscope.training.loop import Callback, Epoch
from normscope.user_models.state_guard import same_bits
from normscope.user_models.tensor_files import read_torch
from normscope.watching.attach import attach
from normscope.watching.intervals import Intervals, LogSpacedInterval
from normscope.watching.watched_layers import find_layers
from normscope.watching.watcher import Watcher

# Of the first and the last epoch, whose distributions are looked at, and of every epoch between
# them.
HISTOGRAMS_PER_SHOWN_EPOCH = 40
HISTOGRAMS_PER_EPOCH = 1
GRADIENTS_PER_EPOCH = 10

MOMENT_BYTES = 8 << 20
"""Bytes for moments, running statistics, weights, biases: 24 per channel and record."""


@dataclass(frozen=True)
class ByEpoch:
    """Select steps evenly within every epoch, more often in the first and the last one."""

    steps_per_epoch: int
    epochs: int
    per_epoch: int
    per_shown_epoch: int

    def __call__(self, step: int) -> bool:
        """Return whether this step, counted from 1, is recorded."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        count = self.per_shown_epoch if epoch in (0, self.epochs - 1) else self.per_epoch
        return index % max(1, self.steps_per_epoch // count) == 0


@dataclass(frozen=True)
class WatchPlan:
    """Arguments of `watch` for a run: the layers, and when each kind of statistic is recorded."""

    layers: tuple[str, ...]
    every: LogSpacedInterval
    histograms_every: ByEpoch
    gradients_every: ByEpoch


def plan_watching(dataset: Dataset, spec: RunSpec, steps_per_epoch: int) -> WatchPlan:
    """Return the names of the normalization layers of the network with batch normalization, and
    intervals that suit the run's length.

    A network without normalization has identities of those names: their input is recorded
    as that of the layers in the other runs.
    """
    layers = find_layers(build_for(dataset, dataclasses.replace(spec, norm="batch")))
    channels = sum(layer.info.channels or 0 for layer in layers)
    rows = max(1, MOMENT_BYTES // (24 * channels))
    interval = -(-steps_per_epoch * spec.epochs // rows)
    return WatchPlan(
        layers=tuple(layer.name for layer in layers),
        every=LogSpacedInterval(interval, first=64),
        histograms_every=ByEpoch(
            steps_per_epoch, spec.epochs, HISTOGRAMS_PER_EPOCH, HISTOGRAMS_PER_SHOWN_EPOCH
        ),
        gradients_every=ByEpoch(
            steps_per_epoch, spec.epochs, GRADIENTS_PER_EPOCH, GRADIENTS_PER_EPOCH
        ),
    )


class WatchedTraining(Callback):
    """Record a training into a file, which is written at the end of every epoch, before the run's
    own record is. It goes on after the steps that are `done`, where the recording reaches them.
    """

    not_captured = WATCHED

    def __init__(self, path: Path, plan: WatchPlan, done: int = 0, *, stream: bool = False):
        self._path, self._plan, self._done, self._stream = path, plan, done, stream
        self._watcher: Watcher | None = None
        self.stopped = False
        """True if recording had to stop, with a warning; the training went on."""

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if not self._done:
            self._path.unlink(missing_ok=True)
        try:
            plan = self._plan  # without a budget: its intervals suit the run's length and width
            intervals = Intervals(plan.every, plan.gradients_every, plan.histograms_every)
            self._watcher = attach(
                model,
                plan.layers,
                intervals,
                optimizer=optimizer,
                path=self._path,
                after=self._done or None,
                stream=self._stream,
            )
        except (InputError, RecordError):
            if not self._done:
                raise
            # it ended before the run did: it is made anew when the run is over
            self._path.unlink(missing_ok=True)
        except StorageError as error:
            self._stop(error, "at its start")

    def on_epoch_start(self, epoch: int) -> None:
        if self._watcher is not None and self._watcher.active:
            self._watcher.mark(epoch=epoch)

    def on_epoch(self, epoch: Epoch) -> None:
        if self._watcher is None:
            return
        self._watcher.flush()  # where that fails, it stops with a warning
        self.stopped |= not self._watcher.active

    def close(self) -> None:
        """End the recording."""
        if self._watcher is not None:
            self._watcher.close(quiet=True)

    def _stop(self, error: StorageError, when: str) -> None:
        """Give up recording: the training must not end of it."""
        warnings.warn(f"The recording stopped {when}: {error}", NormscopeWarning, stacklevel=1)
        self.stopped = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NormscopeWarning)  # closing fails for the same reason
            self.close()


def is_recorded(path: Path) -> bool:
    """Return whether there is a whole recording.

    Raises:
        RecordError: if what is there is damaged.
    """
    return path.is_file() and FilePart(path).header.complete


def differing(state: dict[str, torch.Tensor], weights: Path) -> list[str]:
    """The names of the tensors that have other bits than in a file of weights.

    Raises:
        InputError: if the file cannot be read. It is never executed.
    """
    saved = read_torch(weights, "weights")
    names = dict.fromkeys([*saved, *state])
    return [
        n
        for n in names
        if n not in saved or n not in state or not same_bits(saved[n], state[n].cpu())
    ]
