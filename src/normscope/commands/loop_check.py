"""Judging a training loop as it runs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from normscope.errors import CheckError, NormscopeWarning
from normscope.judge.check_report import CheckReport, judge
from normscope.judge.findings import Finding, Group
from normscope.judge.history import GrowingHistory, with_counts
from normscope.judge.rules import choose
from normscope.records.examination import Examination, History
from normscope.words import listed

if TYPE_CHECKING:
    from torch import nn

    from normscope.records.recording import Recording
    from normscope.watching.watcher import Watcher


SHARE = 0.01
"""Of the training's time that judging it, and reading its recording, may take."""

ALWAYS = 10
"""Steps at the start that are judged whatever it takes."""


class LoopCheck:
    """Judges a training loop as it runs: each fault once, as a NormscopeWarning, and all in
    `findings`.

    What the host knows (modes, forwards, steps) is judged behind the optimizer steps of the first
    hundred, behind every hundredth after and at the end; nothing is read from a device.
    `also(history)` judges what a recording adds, at its flushes.

    With a watcher it is one of its listeners: what the recording adds is judged at its flushes, and
    raised behind the next step, or when the watcher is closed. Each flush reads only what is new.
    After the first ALWAYS steps, steps and flushes that would take judging above SHARE of the
    training's time are left to the next one.

    Args:
        model: the model that is trained.
        optimizer: whose steps count; of several, the first of this model. Without it: those of the
            first optimizer that steps a parameter of the model.
        raises: raise a CheckError instead of warning, behind the step in which the fault shows.
        ignore: codes or names of rules to leave out.
        watcher: what records the same training; findings then name its steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        *,
        raises: bool = False,
        ignore: Iterable[str] = (),
        watcher: Watcher | None = None,
    ):
        from normscope.watching.loop_observer import LoopObserver

        choose(ignore=ignore)
        self.findings: list[Finding] = []
        self.raises = raises
        self._ignore = tuple(ignore)
        self._reported: set[tuple[str, str]] = set()
        self._pending: list[Finding] = []  # to be raised
        self._layers = 0  # the most that a history told of
        self._history = GrowingHistory()
        self._judge_again = 0.0  # not before this time, of time.perf_counter
        self._judged = 0  # steps that were judged
        self._observer = LoopObserver(model, optimizer, watcher=watcher, stepped=self._look)

    def __enter__(self) -> LoopCheck:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self._observer.close()  # the body's own error is what the user must see

    def close(self) -> None:
        """Judge the steps since the last that was judged, and take off every hook.

        Raises:
            CheckError: for what there was no step to raise behind.
        """
        if self._observer.steps > max(self._judged, 1):
            self._judge_steps()
        self._observer.close()
        self._raise()

    def also(self, history: History) -> None:
        """Judge another recording's facts, from `normscope.judge.history.read_history`."""
        self._judge(history)
        self._raise()

    def flushed(self, recording: Recording) -> None:
        """Judge what a watcher's recording adds. Called by the watcher."""
        if self._affordable or recording.complete:
            with self._accounted():
                counted = self._observer.history()
                self._judge(with_counts(self._history.update(recording), counted))

    def _look(self) -> None:
        steps = self._observer.steps
        due = 2 <= steps <= ALWAYS or steps % 100 == 0
        if due or (2 < steps < 100 and self._affordable):
            self._judge_steps()
        self._raise()

    def _judge_steps(self) -> None:
        try:
            with self._accounted():
                self._judge(self._observer.history())
        except Exception as error:  # a fault of ours; the training must go on
            self._observer.close()
            text = f"The training is judged no more. {type(error).__name__}: {error}"
            warnings.warn(text, NormscopeWarning, stacklevel=5)

    @property
    def _affordable(self) -> bool:
        return time.perf_counter() >= self._judge_again

    @contextmanager
    def _accounted(self) -> Iterator[None]:
        """Put off the next judging for as long as the training needs to make up for this one."""
        self._judged, start = self._observer.steps, time.perf_counter()
        yield
        cost = time.perf_counter() - start
        self._judge_again = max(self._judge_again, start) + cost / SHARE

    def _raise(self) -> None:
        if self._pending:
            found, self._pending = tuple(self._pending), []
            raise CheckError(CheckReport(found, layers=self._layers).text())

    def _judge(self, history: History) -> None:
        report = judge(
            Examination(source="recording", history=history), select=("NS8",), ignore=self._ignore
        )
        self._layers = max(self._layers, len(history.layers))
        new = tuple(f for f in report if (f.code, f.layer) not in self._reported)
        self._reported |= {(finding.code, finding.layer) for finding in new}
        self.findings += new
        if not new:
            return
        serious = tuple(finding for finding in new if finding.severity != "info")
        if self.raises:
            self._pending += serious
            return
        for group in CheckReport(serious).groups:
            warnings.warn(_one_line(group), NormscopeWarning, stacklevel=4)


def _one_line(group: Group) -> str:
    """A cause in one line: what, where, and the evidence."""
    layers = [layer for layer in group.layers if layer]
    evidence = ", ".join(f"{name} {value}" for name, value in group.evidence.items())
    where = f" In {listed(layers, 3)}" if layers else ""
    return f"{group.first.code} {group.first.name}: {group.first.message}{where} ({evidence})"
