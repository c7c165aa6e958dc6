"""Runs of normscope for the benchmark of training: the command as a user gives it, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normscope import fused
from normscope.data import sources
from normscope.data.cache import cache_directory
from normscope.data.dataset import Dataset
from normscope.data.layouts import official
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
        """How many times as many images the whole data set has."""
        return WHOLE / len(self.dataset.train_labels)


@contextmanager
def data_of(directory: Path | None, batches: int | None, known: Path | None = None) -> Iterator[Data]:
    """CIFAR-10, or as many batches of its beginning, with a fifth as many test images, in a temporary folder.

    Images are decoded and the kernels built before this returns: both happen once per machine, not once per run.

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
    """The first images in the official binary layout: five training files and a test file of equal size."""
    folder.mkdir(parents=True)
    size = images // len(official.TRAIN)
    for number, name in enumerate(official.TRAIN):
        span = slice(number * size, (number + 1) * size)
        _write_records(folder / f"{name}.bin", dataset.train_images[span], dataset.train_labels[span])
    _write_records(folder / f"{official.TEST}.bin", dataset.test_images[:size], dataset.test_labels[:size])


def _write_records(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes())


@dataclass(frozen=True)
class Comparison:
    """One `normscope compare` from its start to its end.

    Attributes:
        seconds: the whole command, by the clock on the wall: imports, training, captures, figures, report.
        peak_bytes: resident memory of its largest process; None where the system does not tell.
        runs: what it wrote.
    """

    seconds: float
    peak_bytes: int | None
    runs: list[RunRecord]

    def train_seconds(self) -> float:
        """The run that trained longest. Where runs go side by side, the idle end of the others is in it."""
        return max(float(run.column("train_seconds").sum()) for run in self.runs)

    def epoch_seconds(self) -> float:
        """Training and evaluation of the run that took longest."""
        return max(float(run.column("seconds").sum()) for run in self.runs)


def compare(data: Data, *arguments: str) -> Comparison:
    """`normscope compare` on these images with further arguments, into a folder that is then removed.

    Raises:
        NormscopeError: if the command fails, or a run does not finish.
    """
    environment = {**os.environ, "NORMSCOPE_CACHE": str(data.cache), "PYTHONWARNINGS": "ignore"}
    where = ["--data-dir", str(data.directory)] if data.directory is not None else []
    with tempfile.TemporaryDirectory(prefix="normscope-benchmark-") as folder:
        out = Path(folder, "study")
        command = [sys.executable, "-m", "normscope.cli", "compare", "--data", "cifar10", *where, *arguments]
        log = Path(folder, "log")
        with log.open("wb") as output:
            begin = time.perf_counter()
            process = subprocess.Popen(
                [*command, "--out", str(out)], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            peak = _wait(process)
            seconds = time.perf_counter() - begin
        if process.returncode != 0:
            raise NormscopeError(f"{' '.join(command[1:])} ended with status {process.returncode}: {_tail(log)}")
        runs = [load_run(path) for path in sorted((out / RUNS).iterdir())]
    unfinished = [f"{run.norm} ({run.status})" for run in runs if run.status != "finished"]
    if unfinished:
        raise NormscopeError(f"A run that does not finish is no measurement: {', '.join(unfinished)}.")
    return Comparison(seconds, peak, runs)


def _wait(process: subprocess.Popen) -> int | None:
    """Wait for the end. Returns the peak resident bytes of the largest process among it and its children."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
