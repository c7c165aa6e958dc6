"""A run as everything that judges or shows it reads it: its spec, how it ended, its epochs and its
captures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from normscope.errors import RecordError
from normscope.records.histogram import Histogram, load_captures
from normscope.records.measurements import load_measurements
from normscope.records.run_description import ADDED_KNOBS, check_description
from normscope.records.store import reader

RUNS = "runs"  # the folder of a study in which each run has one of its own
RECORD_NAME = "record.sqlite"
WEIGHTS_NAME = "weights.pt"
SPEC_NAME = "spec.json"
RECORDING_NAME = "recording.sqlite"

STATUSES = ("finished", "diverged", "failed", "interrupted")
ENDED = ("finished", "diverged")
"""The statuses of runs that have their result; the same command takes the others up again."""


def _gradient(name: str, whose: str) -> dict[str, str]:
    """The columns of one weight's gradient norm."""
    return {
        name: f"L2 norm of {whose} weight gradient at the epoch's last step",
        f"{name}_mean": "mean of that norm over the epoch's steps",
        f"{name}_std": "its standard deviation over the epoch's steps (population)",
        f"{name}_min": "its minimum over the epoch's steps",
        f"{name}_max": "its maximum over the epoch's steps",
    }


EPOCH_COLUMNS = {
    "train_loss": "mean cross-entropy of the training images (of text, bytes) in train mode, nats",
    "train_accuracy": "share of training images (of text, bytes) classified right in train mode",
    "test_loss": "mean cross-entropy of the test images (of text, bytes) in eval mode, nats",
    "test_accuracy": "share of test images (of text, bytes) classified right in eval mode",
    "learning_rate": "learning rate of the epoch",
    **_gradient("stem_gradient", "the first layer's"),
    "step": "optimizer steps since the start of the run",
    "train_seconds": "seconds of the epoch's training steps",
    "seconds": "seconds of the epoch, evaluation included",
    "images_per_second": "training images per second of the training steps",
    "first_non_finite_step": "step of the first loss that was not finite; null where all were",
    **_gradient("last_layer_gradient", "the classifier's"),
    "convolution_norm": "L2 norm of a convolution's weights after the epoch, geometric mean",
}
"""The columns of a run's epochs, with units. The stem is the network's first layer. Newer runs have
a column weight_norm.NAME for every convolution and linear layer besides.
"""

DURATIONS = ("train_seconds", "seconds", "images_per_second")
"""The columns in which two runs of one spec differ."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run's record, read whole. Epochs are float64 columns, NaN where a value is missing.

    What was measured beside training is in `measured`: {name: {statistic: array}}, as in
    `records.measurements`.
    """

    directory: Path
    spec: dict[str, Any]
    status: str
    epochs: dict[str, np.ndarray]
    captures: dict[tuple[str, int], Histogram] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def norm(self) -> str:
        """Name of the normalization."""
        return self.spec["norm"]

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first epoch."""
        return self.spec["learning_rate"]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.spec["seed"]

    def column(self, name: str) -> np.ndarray:
        """One scalar over the epochs that are there, float64 [epochs]."""
        return self.epochs.get(name, np.full(len(self.epochs["epoch"]), np.nan))

    def final(self, name: str) -> float | None:
        """The scalar after the last epoch of a run that has finished; None for any other run."""
        if self.status != "finished":
            return None
        last = float(self.column(name)[-1])
        return last if np.isfinite(last) else None


def run_folders(study: Path) -> list[Path]:
    """The folders of a study's runs that have a record, in order."""
    return sorted(record.parent for record in study.glob(f"{RUNS}/*/{RECORD_NAME}"))


def meta_of(directory: Path) -> dict[str, Any]:
    """Return what a run's record says of the run; {} where there is no record yet, or one that was
    killed before it said anything.

    Raises:
        RecordError: if what is there is no run's record.
    """
    record = directory / RECORD_NAME
    if not record.is_file() or record.stat().st_size == 0:
        return {}
    with reader(record, "run") as store:
        meta = store.meta()
    check_description(record, meta, STATUSES)
    return meta


def status_of(directory: Path) -> str | None:
    """Return the status in a run's record; None where there is none yet, see `meta_of`."""
    return meta_of(directory).get("status")


def load_run(directory: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        InputError: if there is no record in it.
        RecordError: if the record is damaged, of another version, or no run's.
    """
    with reader(directory / RECORD_NAME, "run") as store:
        store.check_whole()
        meta, epochs, captures = store.meta(), store.epochs(), load_captures(store)
        measured = load_measurements(store)
    path = directory / RECORD_NAME
    if "spec" not in meta:
        raise RecordError(f"{path} is damaged: it holds no spec of a run.")
    check_description(path, meta, STATUSES)
    spec, status, count = meta["spec"], meta.get("status", "interrupted"), len(epochs["epoch"])
    if count > spec["epochs"] or (status == "finished" and count < spec["epochs"]):
        raise RecordError(
            f"{path} is damaged: a {status} run of {spec['epochs']} epochs with {count} of them."
        )
    if status == "diverged" and count == 0:
        raise RecordError(f"{path} is damaged: a diverged run without an epoch.")
    return RunRecord(directory, ADDED_KNOBS | spec, status, epochs, captures, meta, measured)
