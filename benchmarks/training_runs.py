"""Runs of normscope for the benchmark of training: the command as a user gives it, in a process of
its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normscope import fused
from normscope.data import sources
from normscope.data.cache import cache_directory
from normscope.data.dataset import Dataset
from normscope.data.layouts import binary
from normscope.errors import NormscopeError
from normscope.fused.library import cache_directory as kernel_directory
from normscope.records.run import RunRecord, load_run
from normscope.studies.directory import RUNS

WHOLE = 50_000
"""Training images of CIFAR-10."""

BATCH_SIZE = 128


@dataclass(frozen=True)
class Data:
    """The images of a benchmark: all of CIFAR-10 or its beginning, decoded already."""

    directory: Path | None  # None: the archive in the user's cache
    cache: Path
    dataset: Dataset

    @property
    def factor(self) -> float:
        """Return the images of the whole data set over those that are used."""
        return WHOLE / len(self.dataset.train_labels)


@contextmanager
def data_of(
    directory: Path | None, batches: int | None, known: Path | None = None
) -> Iterator[Data]:
    """CIFAR-10, or as many batches of its beginning, with a fifth as many test images, in a
    temporary folder.

    Images are decoded and the kernels built before this returns: both happen once per machine, not
    once per run.

    Args:
        directory: the images; None has the official archive downloaded.
        batches: batches of 128 to keep; None keeps all images.
        known: the cache that the images are looked for in; None is the user's.
    """
    whole = sources.load("cifar10", data_dir=directory, cache_dir=known)
    fused.availability()
    if batches is None:
        yield Data(directory, cache_directory(known), whole)
        return
    with tempfile.TemporaryDirectory(prefix="normscope-benchmark-") as folder:
        part, cache = Path(folder, "cifar10"), Path(folder, "cache")
        write_part(whole, batches * BATCH_SIZE, part)
        if kernel_directory().is_dir():
            shutil.copytree(kernel_directory(), cache / "kernels")
        yield Data(part, cache, sources.load("cifar10", data_dir=part, cache_dir=cache))


def write_part(dataset: Dataset, images: int, folder: Path) -> None:
    """The first images in the official binary layout: five training files and a test file of equal
    size.
    """
    folder.mkdir(parents=True)
    size = images // len(binary.TRAIN)
    for number, name in enumerate(binary.TRAIN):
        span = slice(number * size, (number + 1) * size)
        _write_records(
            folder / f"{name}.bin", dataset.train_images[span], dataset.train_labels[span]
        )
    _write_records(
        folder / f"{binary.TEST}.bin", dataset.test_images[:size], dataset.test_labels[:size]
    )


def _write_records(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes())


@dataclass(frozen=True)
class Comparison:
    """One `normscope compare` from its start to its end.

    Attributes:
        seconds: the whole command, by the clock on the wall: imports, training, captures, figures,
            report.
        peak_bytes: resident memory of its largest process; None where the system does not tell.
        runs: what it wrote.
    """

    seconds: float
    peak_bytes: int | None
    runs: list[RunRecord]

    def train_seconds(self) -> float:
        """The run that trained longest. Where runs go side by side, the idle end of the others is
        in it.
        """
        return max(float(run.column("train_seconds").sum()) for run in self.runs)

    def epoch_seconds(self) -> float:
        """Training and evaluation of the run that took longest."""
        return max(float(run.column("seconds").sum()) for run in self.runs)


def compare(data: Data, *arguments: str) -> Comparison:
    """`normscope compare` on these images with further arguments, into a folder that is then
    removed.

    Raises:
        NormscopeError: if the command fails, or a run does not finish.
    """
    environment = {**os.environ, "NORMSCOPE_CACHE": str(data.cache), "PYTHONWARNINGS": "ignore"}
    where = ["--data-dir", str(data.directory)] if data.directory is not None else []
    with tempfile.TemporaryDirectory(prefix="normscope-benchmark-") as folder:
        out = Path(folder, "study")
        command = [
            sys.executable,
            "-m",
            "normscope.cli",
            "compare",
            "--data",
            "cifar10",
            *where,
            *arguments,
        ]
        measured = launch([*command, "--out", str(out)], Path(folder), environment)
        runs = [load_run(path) for path in sorted((out / RUNS).iterdir())]
    unfinished = [f"{run.norm} ({run.status})" for run in runs if run.status != "finished"]
    if unfinished:
        raise NormscopeError(
            f"A run that does not finish is no measurement: {', '.join(unfinished)}."
        )
    return Comparison(measured.seconds, measured.peak_bytes, runs)


@dataclass(frozen=True)
class Launched:
    """Seconds of a command, and the peak resident memory of the largest of its processes."""

    seconds: float
    peak_bytes: int | None


LAUNCHER = """
import json, subprocess, sys, time
begin = time.perf_counter()
status = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - begin
try:
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
except ImportError:
    peak = None
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": seconds, "peak_bytes": peak}, file)
sys.exit(status)
"""
"""Starts a command from a small process: a child of this one would begin with the peak memory of
this one.
"""


def launch(command: list[str], folder: Path, environment: dict[str, str]) -> Launched:
    """Run a command to its end; `folder` takes its output.

    Raises:
        NormscopeError: if it fails, with the end of what it printed.
    """
    log, result = folder / "log", folder / "launched.json"
    with log.open("wb") as output:
        launcher = [sys.executable, "-c", LAUNCHER, str(result), *command]
        status = subprocess.call(launcher, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if status != 0:
        told = " / ".join(
            log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        )
        raise NormscopeError(f"{' '.join(command[1:])} ended with status {status}: {told}")
    return Launched(**json.loads(result.read_text()))
