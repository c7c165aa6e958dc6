"""`normscope compare`: the same network with several normalizations, side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.arguments import judged
from normscope.errors import NormscopeError, StorageError, one_line
from normscope.studies.options import STUDIES, GridOptions, options_from

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.judge.comparison import Comparison
    from normscope.judge.headline import Conclusions
    from normscope.records.run import RunRecord
    from normscope.studies.grid import Grid
    from normscope.studies.pipeline import Training


@dataclass(frozen=True, eq=False)
class RunsResult:
    """A folder and the runs of it that a command used; notebooks show them as a report."""

    directory: Path
    runs: tuple[RunRecord, ...]

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs that ended with an error."""
        return tuple(run for run in self.runs if run.status == "failed")

    def _repr_html_(self) -> str:
        from normscope.show.report.pages import runs_html

        return runs_html(self.runs, self.directory)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(GridOptions):
    """Train the same network with several normalizations, several seeds each, and set the runs side
    by side.

    With no arguments: the embedded digits, with and without batch normalization, at three learning
    rates, three seeds each (18 runs, about a minute on two cores). The same command resumes where
    it was interrupted.
    """

    @property
    def directory(self) -> Path:
        """The folder of the study."""
        return self.out if self.out is not None else STUDIES / f"compare-{self.data}"


@dataclass(frozen=True, eq=False)
class ComparisonResult(RunsResult):
    """The result of `compare`: the folder, its runs, and the summary of the grid asked for."""

    summary: Comparison


def run_compare(options: CompareOptions) -> int:
    """Run `normscope compare` and return its exit status."""
    return 1 if compare(options).failed else 0


@judged
def compare(
    options: CompareOptions | None = None, *, console: Console | None = None, **settings: Any
) -> ComparisonResult:
    """Train the same network with several normalizations and set the runs side by side.

    Takes the names of the command line (`normscope compare --help`), for example
    `compare(data="digits", norms=("batch", "none"), seeds=5, epochs=10, out="my-study")`. Runs that
    are finished in the folder are not trained again; interrupted ones resume after their last whole
    epoch.

    Args:
        options: all settings as one object, instead of by name.
        console: where to print; None prints to standard output.
        settings: fields of `CompareOptions` and of its `Recipe`.

    Returns:
        A `ComparisonResult`; the folder also holds the figures and summary.json.

    Raises:
        InputError: for settings or data that cannot be used.
        StorageError: if the folder cannot be written. Finished epochs are kept.
        KeyboardInterrupt: on Ctrl-C, after summary.json is written. The same call goes on from
            there.
    """
    from rich.console import Console

    from normscope.show.verdict_text import say_conclusions
    from normscope.studies.grid import lay_out
    from normscope.studies.pipeline import open_study

    if options is None:
        options = options_from(settings, CompareOptions)
    elif settings:
        raise TypeError("give either options or settings by name, not both")
    grid = lay_out(options)
    with open_study(options.directory, options, console or Console()) as training:
        training.say_set_up(grid)
        _train(training, grid, options)
        runs, summary, conclusions = _summarize(training, grid)
        figures = _draw(training.study.path, runs, summary)
        _say_result(training.console, grid, summary)
        say_conclusions(training.console, conclusions)
        training.written([*figures, "summary.json"])
    return ComparisonResult(training.study.path, runs, summary)


def _train(training: Training, grid: Grid, options: CompareOptions) -> None:
    """Train what is left. Whatever stops it, what is finished is summarized first."""
    try:
        training.train(grid, options)
    except StorageError:
        raise  # nothing more can be written
    except BaseException as stopped:
        try:
            _summarize(training, grid)
        except Exception as error:  # what stopped the training is what has to be told
            if not isinstance(stopped, NormscopeError):  # which says what is wrong itself
                print(f"normscope: no summary: {one_line(error)}", file=sys.stderr)
        raise


def _summarize(
    training: Training, grid: Grid
) -> tuple[tuple[RunRecord, ...], Comparison, Conclusions]:
    from normscope.judge.comparison import summarize
    from normscope.judge.headline import conclude
    from normscope.records.files import write_json

    runs = training.runs(grid)
    summary = summarize(runs, grid.norms, grid.learning_rates)
    conclusions = conclude(runs)
    content = conclusions.to_json() | summary.to_json()
    write_json(training.study.path / "summary.json", content)
    return runs, summary, conclusions


def _draw(folder: Path, runs: tuple[RunRecord, ...], summary: Comparison) -> list[str]:
    """Draw this grid's figures, remove those of an earlier grid, and return the names."""
    from normscope.show.figures import (
        activation_distributions,
        comparison_figure,
        learning_rate_figure,
    )

    captured, several = any(run.captures for run in runs), len(summary.threshold) > 1
    figures: dict[str, Callable[[Path], object] | None] = {
        "comparison.png": lambda path: comparison_figure.draw(summary, runs, path),
        "activation_distributions.png": (
            (lambda path: activation_distributions.draw(runs, path)) if captured else None
        ),
        "learning_rates.png": (
            (lambda path: learning_rate_figure.draw(summary, runs, path)) if several else None
        ),
    }
    for name, draw in figures.items():
        if draw is None:
            (folder / name).unlink(missing_ok=True)
        else:
            draw(folder / name)
    return [name for name, draw in figures.items() if draw is not None]


def _say_result(console: Console, grid: Grid, summary: Comparison) -> None:
    from normscope.show.terminal import comparison_table, say

    console.print(comparison_table(summary, grid.specs[0].epochs))
    measured = (
        f"Threshold: 95% of {grid.norms[0]}'s mean final accuracy at that rate. Gradient noise: "
        "standard deviation over mean of the stem-gradient norm over epochs."
    )
    if grid.dataset.kind == "text":
        measured = "Perplexity: e to the mean loss. Accuracy: of the next byte."
    say(
        console,
        "After the last epoch (not the best epoch): mean ± standard deviation of n finished runs, "
        f"on {summary.data.get('source')}. {measured}",
        style="dim",
    )
