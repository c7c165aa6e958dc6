"""One GPU: steps captured in a CUDA graph and not, and several runs at once, each in a process of
its own.
"""

from __future__ import annotations

from common import Spread, Table, ratio, say
from training_runs import Data, compare

AT_ONCE = (1, 2, 4, 8)
EPOCHS = (5, 65)
"""Of the runs of two commands: their difference has no start of libraries, no capture, and all runs
at once in it.
"""

COMMAND_EPOCHS = 30
"""Of the job, to which a run's seconds are extrapolated."""


def gpu(
    data: Data,
    rounds: int,
    device: str,
    at_once: tuple[int, ...] = AT_ONCE,
    epochs: tuple[int, int] = EPOCHS,
) -> Table:
    """Seconds of a run of 30 epochs with batch normalization, amortised over the runs that are
    trained at once.

    Processes share one GPU by turns unless NVIDIA's MPS daemon runs (`nvidia-cuda-mps-control -d`),
    which lets their kernels overlap; whether it ran is for the reader to say beside the table.
    """
    ways = {(graph, jobs): _name(graph, jobs) for jobs in at_once for graph in ("off", "auto")}
    seconds: dict[str, list[float]] = {name: [] for name in ways.values()}
    rates: dict[str, list[float]] = {name: [] for name in ways.values()}
    captured: dict[str, str] = {}
    for number in range(rounds):
        for (graph, jobs), name in ways.items():
            say(f"round {number + 1} of {rounds}: {name}")
            settings = (
                "--norms",
                "batch",
                "--seeds",
                str(jobs),
                "--jobs",
                str(jobs),
                "--capture-epochs",
            )
            few, many = (
                compare(
                    data, *settings, "--epochs", str(count), "--device", device, "--graph", graph
                )
                for count in epochs
            )
            epoch = (many.seconds - few.seconds) / (epochs[1] - epochs[0])
            seconds[name].append(COMMAND_EPOCHS * epoch * data.factor / jobs)
            rates[name].append(jobs * len(data.dataset.train_labels) / epoch)
            captured[name] = many.runs[0].meta.get("not_captured") or "yes"
    first = next(iter(seconds))
    return Table(
        title=f"One GPU ({device})",
        header=(
            "",
            "replayed",
            "images/s, all runs together",
            "seconds of 30 epochs per run",
            "against the first row",
        ),
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
            f"Runs with batch normalization: a command of {epochs[1]} epochs minus one of "
            f"{epochs[0]}, extrapolated to "
            f"{COMMAND_EPOCHS}; evaluation and records are in it, imports and captures of "
            "activations are not. n = "
            "pairs of commands."
        ],
        values={"seconds_per_run": seconds, "images_per_second": rates, "not_captured": captured},
    )


def _name(graph: str, jobs: int) -> str:
    way = "from Python" if graph == "off" else "CUDA graph"
    return f"{jobs} run{'s' if jobs > 1 else ''} at once, {way}"
