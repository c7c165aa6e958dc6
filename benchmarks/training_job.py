"""The whole job both ways: two networks with their curves and captures, the notebook's way and
normscope's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from common import Spread, Table, ratio, say
from training_notebook import Arm, Timed, loader
from training_runs import WHOLE, Data, compare, data_of

EPOCHS = 30
"""Epochs of the notebook, to which everything is extrapolated."""

CAPTURES = 3
"""Epochs of 30 after which the notebook captures activations."""


@dataclass
class Notebook:
    """Its two arms and what their epochs took, in seconds of whole epochs of CIFAR-10."""

    data: Data
    device: str
    train: list[float] = field(default_factory=list)  # per round, both arms one after the other
    test: list[float] = field(default_factory=list)
    second: float = 0.0  # an epoch of the second training, both arms
    capture: float = 0.0  # one capture, both arms

    def __post_init__(self) -> None:
        images = self.data.dataset
        self.train_batches = loader(images.train_images, images.train_labels, train=True)
        self.test_batches = loader(images.test_images, images.test_labels, train=False)
        self.arms = [Arm(use_bn, self.device, EPOCHS) for use_bn in (True, False)]

    def epoch(self) -> None:
        """One epoch of each arm as in its experiment: training, gradient norm, evaluation."""
        train = test = 0.0
        for arm in self.arms:
            timed, tested = Timed(self.train_batches), Timed(self.test_batches)
            arm.train_epoch(timed)
            arm.gradient_norm()
            arm.evaluate(tested)
            train += timed.of_whole(self.data.factor)
            test += tested.of_whole(self.data.factor)
        self.train.append(train)
        self.test.append(test)

    def second_training(self, part: Data) -> None:
        """The beginning of the training that is repeated for the activations, and one capture, of
        each arm.
        """
        images = part.dataset
        batches = loader(images.train_images, images.train_labels, train=True)
        for use_bn in (True, False):
            arm, timed = Arm(use_bn, self.device, EPOCHS), Timed(batches)
            arm.train_epoch(timed)
            self.second += timed.of_whole(part.factor)
            begin = time.perf_counter()
            arm.activations(self.test_batches)
            self.capture += time.perf_counter() - begin

    def job(self) -> list[float]:
        """Seconds of the whole job, by each round's epoch."""
        again = EPOCHS * self.second + CAPTURES * self.capture
        return [
            EPOCHS * (train + test) + again
            for train, test in zip(self.train, self.test, strict=True)
        ]


@dataclass
class Normscope:
    """The same of `normscope compare`, one epoch of both arms a round."""

    data: Data
    device: str
    train: list[float] = field(
        default_factory=list
    )  # seconds of a whole training epoch, both arms side by side
    job: list[float] = field(default_factory=list)
    set_up: dict[str, object] = field(default_factory=dict)

    def epoch(self) -> None:
        """One command. On the CPU of one epoch: whatever is not training and evaluation is paid
        once in a job.

        On a GPU of all epochs: the first has the start of the libraries, warm-up and capture in it,
        and is no measure of the others, while captures of activations and records are no longer
        small beside them.
        """
        sequential = self.device != "cpu"
        found = compare(
            self.data,
            "--seeds",
            "1",
            "--epochs",
            str(EPOCHS if sequential else 1),
            "--device",
            self.device,
        )
        if sequential:
            train = sum(float(run.column("train_seconds")[1:].mean()) for run in found.runs)
            seconds = sum(float(run.column("seconds").sum()) for run in found.runs)
            self.job.append(found.seconds + (self.data.factor - 1) * seconds)
        else:
            train = max(float(run.column("train_seconds").sum()) for run in found.runs)
            seconds = max(float(run.column("seconds").sum()) for run in found.runs)
            self.job.append(found.seconds - seconds + EPOCHS * seconds * self.data.factor)
        self.train.append(train * self.data.factor)
        spec, meta = found.runs[0].spec, found.runs[0].meta
        self.set_up = {
            "precision": spec["precision"],
            "fusion": spec["fusion"],
            "threads": meta["threads"],
        }
        if sequential:
            self.set_up["graph"] = meta.get("not_captured") or "captured"


def job(data: Data, rounds: int, second_batches: int, device: str) -> Table:
    """Whole job and throughput of both, in turns: `rounds` times an epoch of both arms of each."""
    notebook, ours = Notebook(data, device), Normscope(data, device)
    for number in range(rounds):
        turns = [("the notebook's way", notebook.epoch), ("normscope", ours.epoch)]
        for name, turn in turns if number % 2 == 0 else reversed(turns):
            say(f"epoch {number + 1} of {rounds}, both arms: {name}")
            turn()
    say("the beginning of the notebook's second training")
    with data_of(data.directory, second_batches, data.cache) as part:
        notebook.second_training(part)

    rates = {
        name: [2 * WHOLE / seconds for seconds in way.train]
        for name, way in _ways(notebook, ours).items()
    }
    faster_job, faster_training = ratio(notebook.job(), ours.job), ratio(notebook.train, ours.train)
    share = f"{len(data.dataset.train_labels):,} of {WHOLE:,} training images"
    unit = "epoch" if rounds == 1 else "epochs"
    whole = "" if device == "cpu" else " (normscope: not extrapolated)"
    return Table(
        title="Whole job: 30 epochs of SmallResNet with and without batch normalization on "
        f"CIFAR-10 ({device})",
        header=("", "notebook's way", "normscope", "ratio"),
        rows=[
            (
                f"whole job, extrapolated from {rounds} {unit} to {EPOCHS}{whole}, minutes",
                *(
                    Spread.of([s / 60 for s in jobs]).text(".1f")
                    for jobs in (notebook.job(), ours.job)
                ),
                faster_job.text(".2f"),
            ),
            (
                "training, both arms together, images/s",
                *(Spread.of(rates[name]).text() for name in ("notebook", "normscope")),
                faster_training.text(".2f"),
            ),
        ],
        notes=[
            f"An epoch here is {share}; n counts epochs of both arms. The notebook's second "
            "training was run for "
            f"{second_batches} batches of each arm. Left out of its time: imports and figures; "
            "of normscope's: "
            "nothing. normscope chose "
            f"{', '.join(f'{name} {value}' for name, value in ours.set_up.items())}; of arms "
            "side by side the slower one counts."
        ],
        values={
            "rounds": rounds,
            "train_images": len(data.dataset.train_labels),
            "extrapolated_to_epochs": EPOCHS,
            "job_seconds": {"notebook": notebook.job(), "normscope": ours.job},
            "images_per_second": rates,
            "notebook_epoch_seconds": {"train": notebook.train, "test": notebook.test},
            "notebook_second_training": {
                "epoch_seconds": notebook.second,
                "capture_seconds": notebook.capture,
            },
            "ratio_job": faster_job,
            "ratio_training": faster_training,
            "normscope": ours.set_up,
        },
    )


def _ways(notebook: Notebook, ours: Normscope) -> dict[str, Notebook | Normscope]:
    return {"notebook": notebook, "normscope": ours}


def jobs(data: Data, rounds: int, cores: int) -> Table:
    """Measure as many runs with batch normalization as cores: one after the other on all cores, or
    side by side on one each.
    """
    seconds: dict[int, list[float]] = {1: [], cores: []}
    threads: dict[int, int] = {}
    for number in range(rounds):
        for count in seconds if number % 2 == 0 else reversed(seconds):
            say(f"round {number + 1} of {rounds}: {count} at once")
            settings = (
                "--norms",
                "batch",
                "--seeds",
                str(cores),
                "--jobs",
                str(count),
                "--threads",
                str(cores // count),
                "--capture-epochs",
            )
            found = compare(data, *settings, "--epochs", "1", "--device", "cpu")
            each = [float(run.column("train_seconds").sum()) for run in found.runs]
            seconds[count].append(max(each) if count == cores else sum(each))
            threads[count] = found.runs[0].meta["threads"]
    images = cores * len(data.dataset.train_labels)
    rates = {count: [images / s for s in measured] for count, measured in seconds.items()}
    return Table(
        title="Runs at once",
        header=("", "images/s, all runs together", "against one run at a time"),
        rows=[
            (
                f"{count} job{'s' if count > 1 else ''} x {threads[count]} "
                f"thread{'s' if threads[count] > 1 else ''}",
                Spread.of(rates[count]).text(),
                ratio(seconds[1], seconds[count]).text(".2f"),
            )
            for count in seconds
        ],
        notes=[
            f"{cores} runs with batch normalization, an epoch of {images // cores:,} images "
            "each; n = commands."
        ],
        values={
            "images_per_second": rates,
            "threads": threads,
            "ratio": ratio(seconds[1], seconds[cores]),
        },
    )


def memory(data: Data) -> Table:
    """Peak resident memory of one run in one process."""
    cases = {
        "batch normalization, batch size 128": ("--norms", "batch"),
        "no normalization, batch size 128": ("--norms", "none", "--learning-rates", "0.01"),
        "batch normalization, batch size 1024": ("--norms", "batch", "--batch-size", "1024"),
    }
    settings = ("--seeds", "1", "--epochs", "1", "--jobs", "1", "--device", "cpu")
    peaks = {}
    for case, arguments in cases.items():
        say(case)
        peaks[case] = compare(data, *arguments, *settings).peak_bytes
    return Table(
        title="Memory",
        header=("one run in one process", "peak resident MB"),
        rows=[
            (case, "unknown" if peak is None else f"{peak / 1e6:,.0f}")
            for case, peak in peaks.items()
        ],
        notes=[
            "n = 1 command each: imports, data, training, captures and figures. The images are "
            "mapped from a file "
            f"and count as far as they are used ({data.dataset.train_images.nbytes / 1e6:,.0f} "
            "MB here); "
            "processes share them."
        ],
        values={"peak_bytes": peaks},
    )
