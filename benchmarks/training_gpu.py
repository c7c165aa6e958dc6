"""One GPU: steps captured in a CUDA graph and not, and several runs at once, each in a process of its own."""

from __future__ import annotations

from common import Spread, Table, ratio, say
from training_runs import Comparison, Data, compare

AT_ONCE = (1, 2, 4, 8)
EPOCHS = 5
"""Of each run: the first is left out, for it has the start of the libraries and the capture in it."""

COMMAND_EPOCHS = 30
"""Of the job, to which a run's seconds are extrapolated."""


def gpu(data: Data, rounds: int, device: str, at_once: tuple[int, ...] = AT_ONCE, epochs: int = EPOCHS) -> Table:
    """Seconds of a run of 30 epochs with batch normalization, amortised over the runs that are trained at once.

    Processes share one GPU by turns unless NVIDIA's MPS daemon runs (`nvidia-cuda-mps-control -d`), which lets their
    kernels overlap; whether it ran is for the reader to say beside the table.
    """
    ways = {(graph, jobs): _name(graph, jobs) for jobs in at_once for graph in ("off", "auto")}
    seconds: dict[str, list[float]] = {name: [] for name in ways.values()}
    rates: dict[str, list[float]] = {name: [] for name in ways.values()}
    captured: dict[str, str] = {}
    for number in range(rounds):
        for (graph, jobs), name in ways.items():
            say(f"round {number + 1} of {rounds}: {name}")
            settings = ("--norms", "batch", "--seeds", str(jobs), "--jobs", str(jobs), "--epochs", str(epochs))
            found = compare(data, *settings, "--capture-epochs", "--device", device, "--graph", graph)
            epoch = _epoch_seconds(found)
            seconds[name].append(COMMAND_EPOCHS * epoch * data.factor / jobs)
            rates[name].append(jobs * len(data.dataset.train_labels) / _epoch_seconds(found, "train_seconds"))
            captured[name] = found.runs[0].meta.get("not_captured") or "yes"
    first = next(iter(seconds))
    return Table(
        title=f"One GPU ({device})",
        header=("", "replayed", "images/s, all runs together", "seconds of 30 epochs per run", "against the first row"),
        rows=[
            (
                name,
                captured[name],
                Spread.of(rates[name]).text(),
                Spread.of(seconds[name]).text(".2f"),
                ratio(seconds[first], seconds[name]).text(".2f"),
            )
            for name in seconds
        ],
        notes=[
            f"Runs with batch normalization, {epochs} epochs each without the first, extrapolated to {COMMAND_EPOCHS}; "
            "evaluation is in the seconds, imports, captures and records are not. Of runs at once the slowest epochs "
            "count. n = commands.",
        ],
        values={"seconds_per_run": seconds, "images_per_second": rates, "not_captured": captured},
    )


def _name(graph: str, jobs: int) -> str:
    return f"{jobs} run{'s' if jobs > 1 else ''} at once, {'from Python' if graph == 'off' else 'CUDA graph'}"


def _epoch_seconds(found: Comparison, column: str = "seconds") -> float:
    """Mean of the epochs after the first, of the run for which it is longest."""
    return max(float(run.column(column)[1:].mean()) for run in found.runs)
