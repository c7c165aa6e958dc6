"""The comparison that normscope exists for, beside the notebook's way of making it, and what its
speed is made of.

    python benchmarks/training.py [--parts job jobs fusion ...] [--quick]

Parts:
    job       whole job and training throughput, the notebook's way and normscope's, in turns
              (about 7 minutes on two cores; with --batches 391, which is whole epochs, 11)
    jobs      one run at a time on all cores, against one per core
    fusion    fused normalization on and off, with and without batch normalization, bf16 and fp32
    scaling   images per second against batch size, width and depth
    ceilings  matrix products and copies, and the share of them that training reaches
    profile   where the time of a step goes
    memory    peak resident memory of a run
    gpu       with --device cuda: steps captured in a CUDA graph and not, and 1 to 8 runs at
              once on one GPU

The parts from jobs to memory take about 7 minutes together. What is measured next is told on
standard error. Run it with nothing else on the machine. Every part prints a Markdown table and
appends a line of JSON to <results>/<part>.jsonl. See benchmarks/README.md for the method.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from common import Table, hardware_line, keep, say, warn_if_busy
from training_gpu import gpu
from training_job import job, jobs, memory
from training_profile import where_time_goes
from training_runs import Data, data_of
from training_steps import ceilings, fusion, scaling

from normscope.errors import InputError, NormscopeError
from normscope.studies.environment import keep_freed_memory, usable_cores
from normscope.training.precision import resolve_device

Part = Literal["job", "jobs", "fusion", "scaling", "ceilings", "profile", "memory", "gpu"]


WHOLE_EPOCH = 391
"""Batches of 128 in the 50,000 training images."""

PART_OF_AN_EPOCH = 260
"""Batches that stand for an epoch unless told otherwise: two thirds, so that all parts take a
quarter of an hour.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the whole comparison beside the notebook's way, and what its speed is made of."""

    data_dir: Path | None = dataclasses.field(
        default_factory=lambda: (
            Path(named) if (named := os.environ.get("NORMSCOPE_CIFAR10")) else None
        )
    )
    """CIFAR-10 in any layout that normscope reads (default: what NORMSCOPE_CIFAR10 names, else the
    archive).
    """

    parts: tuple[Part, ...] = ("job",)
    """What to measure."""

    epochs: int = 2
    """Epochs of the job that are measured, each way in turns."""

    batches: int | None = None
    """Batches of 128 images that count as an epoch of the job, 391 being all (default: 260)."""

    quick: bool = False
    """Shorter everything: 40 batches an epoch, few turns. To see that it works, or for a rough
    idea.
    """

    device: str = "auto"
    """Where the parts job and gpu train: auto, cpu or cuda. The other parts are about the CPU."""

    results: Path = Path("normscope-runs") / "benchmarks"
    """Folder for the JSON."""

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batches", self.batches)):
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; expected 1 or more.")


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    batches: int | None  # of an epoch of the job
    second: int  # batches of the notebook's second training
    commands: int  # batches of an epoch of the parts that run commands
    repeats: int  # of those
    rounds: int  # turns of the parts in this process
    images: int  # of a turn

    @staticmethod
    def of(options: Options) -> Sizes:
        """The sizes that the options ask for."""
        if options.quick:
            batches = options.batches or 40
            return Sizes(
                batches,
                max(1, batches // 4),
                commands=min(batches, 20),
                repeats=1,
                rounds=2,
                images=128,
            )
        batches = options.batches or PART_OF_AN_EPOCH
        second = max(1, batches // 4)
        whole = None if batches >= WHOLE_EPOCH else batches
        return Sizes(whole, second, commands=min(batches, 60), repeats=3, rounds=5, images=256)


def measure(
    part: Part, data: Data, beginning: Data, sizes: Sizes, epochs: int, device: str
) -> Table:
    """One part. `beginning` is the part of the images that the commands of small parts train on."""
    images, cores = beginning.dataset, usable_cores()
    parts: dict[Part, Callable[[], Table]] = {
        "job": lambda: job(data, epochs, sizes.second, device),
        "jobs": lambda: jobs(beginning, sizes.repeats, cores),
        "fusion": lambda: fusion(images, 2 * sizes.rounds, 2 * sizes.images),
        "scaling": lambda: scaling(images, max(2, sizes.rounds // 2), sizes.images),
        "ceilings": lambda: ceilings(images, sizes.rounds, 4 * sizes.images, cores),
        "profile": lambda: where_time_goes(images, 10 * sizes.images),
        "memory": lambda: memory(beginning),
        "gpu": lambda: gpu(data, sizes.repeats, device),
    }
    return parts[part]()


def run(options: Options) -> None:
    """Measure, print and keep every part that was asked for."""
    device, load, sizes = resolve_device(options.device), warn_if_busy(), Sizes.of(options)
    if any(part not in ("job", "jobs", "memory") for part in options.parts):
        keep_freed_memory()  # as normscope's own workers do
    torch.set_num_threads(usable_cores())  # the notebook's way: PyTorch's default
    print(hardware_line(device), f"load average before: {load}", sep="\n\n", flush=True)
    with (
        data_of(options.data_dir, sizes.batches) as data,
        data_of(options.data_dir, sizes.commands) as beginning,
    ):
        for part in options.parts:
            say(part)
            table = measure(part, data, beginning, sizes, options.epochs, device)
            print("", table.markdown(), sep="\n", flush=True)
            keep(table, options.results, part, device if part in ("job", "gpu") else "cpu", load)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(tyro.cli(Options, args=arguments, description=__doc__))
    except NormscopeError as error:
        sys.exit(f"benchmarks/training.py: {error}")


if __name__ == "__main__":
    main()
