"""A comparison on the terminal: its set-up, its progress, and the table at its end."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from normscope.escapes import for_line, for_terminal
from normscope.judge.comparison import Comparison, GroupSummary
from normscope.records.progress import RunProgress
from normscope.words import percent, wrapped

SECONDS_BETWEEN_LINES = 30.0
"""Without a terminal there are no bars: a run prints a line at most this often."""

ALL_RUNS = "all runs"

WIDE = 100
"""Columns of a terminal from which on there is room for a run's speed."""


def say(console: Console, text: str | Text, style: str | None = None) -> None:
    """Print a text as it is, without highlighting or markup: wrapped at spaces on a terminal, or
    where COLUMNS gives a width, with lines as long as they are elsewhere.
    """
    if isinstance(text, str):
        if console.is_terminal or os.environ.get("COLUMNS"):
            text = wrapped(text, console.width)
        text = for_terminal(text)
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class _Remaining(TimeRemainingColumn):
    """Time that a run still takes. Of all runs nothing is said: some cost eight times what others
    do, and an estimate would jump.
    """

    def render(self, task: Task) -> Text:
        return Text("") if task.description == ALL_RUNS else super().render(task)


class StudyProgress:
    """A bar for each run in training and one for the study; lines where there is no terminal."""

    def __init__(
        self,
        console: Console,
        labels: dict[str, str],
        epochs: Mapping[str, int],
        *,
        already_done: int = 0,
    ):
        self._console, self._labels, self._epochs = console, labels, epochs
        self._live = console.is_terminal
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"), TimeElapsedColumn(), _Remaining(),
            console=console, disable=not self._live,
        )  # fmt: skip
        self._total = self._progress.add_task(
            ALL_RUNS, total=len(labels), state="", completed=already_done
        )
        self._count()

    def __enter__(self) -> StudyProgress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def report(self, message: RunProgress) -> None:
        """Show how far a run is. Safe to call from any thread."""
        with self._lock:
            fast = self._console.width >= WIDE
            state = _state(message, self._epochs[message.run], with_speed=fast)
            if not self._live:
                self._say(message, state)
                return
            if message.run not in self._bars:
                label = escape(for_line(self._labels[message.run]))
                self._bars[message.run] = self._progress.add_task(
                    label, total=self._epochs[message.run], state=""
                )
            self._progress.update(
                self._bars[message.run], completed=message.epochs_done, state=state
            )

    def ended(self, run: str, outcome: str, *, good: bool = True) -> None:
        """Replace a run's bar by a line that says how it ended."""
        with self._lock:
            if run in self._bars:
                self._progress.remove_task(self._bars.pop(run))
            mark = Text("✓ " if good else "✗ ", style="green" if good else "red")
            say(self._console, mark + Text(for_line(f"{self._labels[run]}  {outcome}")))
            self._progress.advance(self._total, 1)
            self._count()

    def _count(self) -> None:
        done = int(self._progress.tasks[0].completed)
        self._progress.update(self._total, state=f"{done} of {len(self._labels)} runs")

    def _say(self, message: RunProgress, state: str) -> None:
        now = time.monotonic()
        last = self._said.setdefault(message.run, now)
        if now - last >= SECONDS_BETWEEN_LINES and message.epochs_done == int(message.epochs_done):
            self._said[message.run] = now
            say(self._console, f"  {self._labels[message.run]}  {state}")


def _state(message: RunProgress, epochs: int, *, with_speed: bool) -> str:
    parts = [f"epoch {int(message.epochs_done)}/{epochs}"]
    if message.train_loss is not None:
        parts.append(f"loss {message.train_loss:.3f}")
    if message.test_accuracy is not None:
        parts.append(f"test {percent(message.test_accuracy)}")
    if message.images_per_second is not None and with_speed:
        unit = "img" if message.unit == "image" else message.unit
        parts.append(f"{message.images_per_second:,.0f} {unit}/s")
    return "  ".join(parts)


@contextmanager
def telling(console: Console, task: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that is told how far a task is, and shows it on a line or now and then."""
    said = time.monotonic()

    def tell(words: str) -> None:
        nonlocal said
        status.update(escape(f"{task} {words}"))
        if not console.is_terminal and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(console, f"  {task} {words}")

    with console.status(escape(task)) as status:
        yield tell


def comparison_table(comparison: Comparison, epochs: int) -> Table:
    """Return the closing table: one row per norm and learning rate. Of text it has the loss and
    the perplexity per byte in place of the epochs to a threshold and the gradient noise.
    """
    text = comparison.data.get("kind") == "text"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("normalization", overflow="fold")
    special = ("epochs to\nthreshold", "gradient\nnoise")
    if text:
        special = ("nats\nper byte", "perplexity")
    for heading in ("learning\nrate", "final test\naccuracy", "runs", *special, "diverged"):
        table.add_column(heading, justify="right", overflow="fold")
    previous = None
    for group in comparison.groups:
        if previous is not None and group.learning_rate != previous:
            table.add_section()
        previous = group.learning_rate
        texts = (
            loss_texts(group) if text else (threshold_text(group, epochs), variation_text(group))
        )
        table.add_row(
            Text(for_line(group.norm)), f"{group.learning_rate:g}", accuracy_text(group),
            str(group.n), *texts, str(group.diverged),
        )  # fmt: skip
    return table


def accuracy_text(group: GroupSummary) -> str:
    """Return the mean final accuracy over the seeds and, of two or more, its standard deviation."""
    if group.test_accuracy_mean is None or group.test_accuracy_std is None:
        return percent(group.test_accuracy_mean)
    return f"{percent(group.test_accuracy_mean)} ± {100 * group.test_accuracy_std:.1f}"


def loss_texts(group: GroupSummary) -> tuple[str, str]:
    """Return the mean final test loss with its standard deviation, and the perplexity."""
    if group.test_loss_mean is None:
        return "–", "–"
    spread = "" if group.test_loss_std is None else f" ± {group.test_loss_std:.3f}"
    return f"{group.test_loss_mean:.3f}{spread}", f"{math.exp(group.test_loss_mean):.2f}"


def threshold_text(group: GroupSummary, epochs: int) -> str:
    """Return the mean epochs to the threshold, or how many of the runs did not reach it."""
    if group.epochs_to_threshold is not None:
        return f"{group.epochs_to_threshold:.1f}"
    if group.threshold is None or group.n == 0:
        return "–"
    return f"> {epochs} in {group.n - group.reached_threshold} of {group.n}"


def variation_text(group: GroupSummary) -> str:
    """Return the coefficient of variation of the gradient norm."""
    variation = group.gradient_norm_variation
    return "–" if variation is None else f"{variation:.2f}"
