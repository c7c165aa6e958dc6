"""A study's runs, recordings and figures in sinks: as they grow, and as they are."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from normscope.errors import NormscopeError, RecordError
from normscope.records.histogram import Histogram
from normscope.records.recording import Recording
from normscope.records.run import RUNS, RunRecord, load_run, run_folders, status_of
from normscope.show.sinks.sink import Log, Sink, write_recording
from normscope.show.sinks.tensorboard_sink import TensorBoard
from normscope.show.sinks.wandb_sink import WandB
from normscope.show.terminal import say

FIGURES = "figures"
"""The log that holds a study's figures."""


class StudyLogs:
    """The logs of a study's runs, in one sink or several. Safe to call from several threads.

    A sink that fails is dropped with one message; neither a training nor another sink stops.

    Args:
        study: the folder of the study, which holds runs/.
        sinks: where the numbers go.
        warn: takes a message.
    """

    def __init__(self, study: Path, sinks: Iterable[Sink], warn: Callable[[str], None]):
        self._study, self._warn = study, warn
        self._sinks = list(sinks)
        self._logs: dict[tuple[int, str], Log] = {}
        self._lock = threading.RLock()
        self._unread: set[str] = set()

    def __enter__(self) -> StudyLogs:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, run: str, *, ended: bool = False) -> None:
        """Pass on epochs of a run that the sinks do not hold; close the log of an ended one."""
        with self._lock:
            if not self._sinks or (record := self._read(run)) is None:
                return
            for sink in list(self._sinks):
                self._guarded(sink, lambda sink=sink: self._pass_on(sink, run, record, ended))

    def figures(self, files: Sequence[Path]) -> None:
        """Pass on figures, as they are after so many epochs of all runs."""
        with self._lock:
            if not self._sinks or not files:
                return
            epochs = sum(
                self._epochs(path.parent.name) for path in self._study.glob("runs/*/record.sqlite")
            )
            for sink in list(self._sinks):
                self._guarded(sink, lambda sink=sink: self._pass_figures(sink, files, epochs))

    def close(self) -> None:
        """Close every log."""
        with self._lock:
            for (place, _), log in list(self._logs.items()):
                sink = next((each for each in self._sinks if id(each) == place), None)
                if sink is not None:
                    self._guarded(sink, log.close)
            self._logs.clear()

    def _pass_on(self, sink: Sink, run: str, record: RunRecord, ended: bool) -> None:
        log = self._log(sink, run, record)
        before = log.last
        write_epochs(record, log)
        if log.last > before:
            log.flush()
        if ended:
            del self._logs[id(sink), run]
            log.close()

    def _pass_figures(self, sink: Sink, files: Sequence[Path], epochs: int) -> None:
        log = sink.open(
            FIGURES,
            {"study": self._study.resolve().name},
            group=self._study.resolve().name,
            axis="epochs",
        )
        if log.last < epochs:
            for file in files:
                log.figure(epochs, f"figures/{file.stem}", file)
            log.flush()
        log.close()

    def _log(self, sink: Sink, run: str, record: RunRecord) -> Log:
        if (id(sink), run) not in self._logs:
            group = self._study.resolve().name
            self._logs[id(sink), run] = sink.open(run, record.spec, group=group, axis="epoch")
        return self._logs[id(sink), run]

    def _read(self, run: str) -> RunRecord | None:
        """The run's record, None where there is none yet; damage is told once."""
        folder = self._study / RUNS / run
        try:
            return load_run(folder) if status_of(folder) is not None else None
        except RecordError as error:
            if run not in self._unread:
                self._unread.add(run)
                self._warn(f"not passed on: {error}")
            return None

    def _epochs(self, run: str) -> int:
        record = self._read(run)
        return 0 if record is None else len(record.epochs["epoch"])

    def _guarded(self, sink: Sink, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # somebody else's code or service; the training must go on
            self._sinks.remove(sink)
            name = type(sink).__name__
            self._warn(
                f"{name} failed and gets no more of this study, which continues. "
                f"{type(error).__name__}: {error}"
            )


def write_epochs(run: RunRecord, log: Log) -> None:
    """Write the epochs of a run that a log does not hold. The step is the epoch."""
    for place, epoch in enumerate(run.epochs["epoch"].astype(int).tolist()):
        if epoch <= log.last:
            continue
        scalars = {
            f"epoch/{name}": float(values[place])
            for name, values in run.epochs.items()
            if name != "epoch" and math.isfinite(values[place])
        }
        captured = {tensor: each for (tensor, at), each in run.captures.items() if at == epoch}
        for tensor, each in captured.items():
            scalars |= {f"mean/{tensor}": each.mean, f"std/{tensor}": each.std}
            scalars[f"zero_fraction/{tensor}"] = each.zeros
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        log.write(
            epoch,
            finite,
            {f"activations/{name}": _histogram(each) for name, each in captured.items() if each.n},
        )


def _histogram(captured: Histogram) -> Histogram:
    """Return the captured bins with the extremes in place of the infinite edges, and without an
    outermost bin that is empty.
    """
    edges, counts = captured.edges.copy(), captured.counts.astype(np.float64)
    edges[[0, -1]] = captured.quantiles[[0, -1]]
    first = 0 if counts[0] > 0 and edges[0] < edges[1] else 1
    last = len(counts) if counts[-1] > 0 and edges[-1] > edges[-2] else len(counts) - 1
    return replace(captured, edges=edges[first : last + 1], counts=counts[first:last])


def chosen_sinks(tensorboard: Path | None, wandb: str | None, study: Path) -> list[Sink]:
    """Return the sinks that were asked for; W&B keeps its files in the study's folder.

    Raises:
        InputError: if a package is missing, or a place cannot be used.
    """
    sinks: list[Sink] = []
    if tensorboard is not None:
        sinks.append(TensorBoard(tensorboard))
    if wandb is not None:
        sinks.append(WandB(wandb, directory=study))
    return sinks


def study_logs(study: Path, sinks: list[Sink], console: Console) -> StudyLogs:
    """Return the logs of a study that is about to be trained; sinks' messages are printed."""
    return StudyLogs(study, sinks, lambda text: say(console, f"normscope: {text}", "yellow"))


def pass_on_study(study: Path, sink: Sink, warn: Callable[[str], None]) -> int:
    """Pass on a study's runs and figures as far as the sink lacks them; returns their number."""
    with StudyLogs(study, [sink], warn) as logs:
        runs = [folder.name for folder in run_folders(study)]
        for run in runs:
            logs.update(run, ended=True)
        logs.figures(sorted([*study.glob("*.png"), *study.glob("claims/*.png")]))
    return len(runs)


def pass_on_recording(path: Path, sink: Sink, warn: Callable[[str], None]) -> None:
    """Pass on a recording, as far as the sink lacks it."""
    try:
        log = sink.open(path.stem, {"recording": path.name}, axis="step")
        write_recording(Recording.load(path), log)
        log.close()
    except NormscopeError:
        raise
    except Exception as error:  # somebody else's code or service
        warn(f"{type(sink).__name__} did not take {path}. {type(error).__name__}: {error}")
