"""An inspection's numbers on the terminal: channels, activation regions and accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.escapes import for_line
from normscope.judge.activation_regions import NAMED_REGIONS, SHARE, active_words, interval_words
from normscope.judge.inspection import Row, channel_table
from normscope.records.recording import Recording
from normscope.show.terminal import percent, say

MAX_ROWS = 16
"""Channels of a layer that are printed; the file has all."""

_HEADS = {
    "channel": "", "input_mean": "input\nmean", "input_std": "\nstd", "output_mean": "output\nmean",
    "output_std": "\nstd", "running_mean": "running\nmean", "running_var": "\nvar",
    "weight": "weight", "bias": "bias", "active_share": "active\nregion",
}  # fmt: skip


def show(
    numbers: dict[str, Any], recording: Recording, layers: Sequence[str], console: Console
) -> None:
    """Print the inspection's numbers."""
    for layer in layers:
        rows = channel_table(recording, [layer])
        console.print(_channels(layer, rows))
        if len(rows) > MAX_ROWS:
            say(console, f"  and {len(rows) - MAX_ROWS} more channels in inspection.csv", "dim")
    if numbers["activation_regions"]:
        console.print(_regions(numbers["activation_regions"]))
    console.print(_accuracies(numbers["runs"]))


def _channels(layer: str, rows: Sequence[Row]) -> Table:
    table = _titled(f"{layer}, each channel in the last epoch")
    columns = [name for name in _HEADS if any(row[name] is not None for row in rows)]
    for name in columns:
        table.add_column(_HEADS[name], justify="right", no_wrap=True)
    for row in rows[:MAX_ROWS]:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    return table


def _cell(name: str, value: float | int | str | None) -> str:
    if name == "active_share" and value is not None:
        return percent(float(value))
    return str(value) if isinstance(value, int | str) else _decimals(value)


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _regions(rows: Sequence[dict[str, Any]]) -> Table:
    """The last epoch of the first seed, each norm in columns of its own."""
    last = {(row["norm"], row["layer"]): row for row in rows if row["seed"] == 0}
    norms, layers = (list(dict.fromkeys(key[index] for key in last)) for index in (0, 1))
    activation = rows[0]["activation"]
    named = NAMED_REGIONS.get(activation)
    table = _titled(f"Where the input of {activation} lies in the last epoch")
    table.add_column("layer", overflow="fold")
    within = f"in {interval_words(*named)}" if named else ""
    for heading in (within, "active region", "mean slope"):
        for norm in norms:
            first_line = heading.replace(" ", "\n", 1) if norm == norms[0] else "\n"
            table.add_column(Text(f"{first_line}\n{for_line(norm)}"), justify="right")
    for layer in layers:
        of_layer = [last.get((norm, layer)) for norm in norms]
        via = next(row for row in of_layer if row)["via"]
        table.add_row(
            Text(for_line(f"{layer} (+)" if "addition" in via else layer)),
            *(percent(row["named"] if row else None) for row in of_layer),
            *(percent(row["active"] if row else None) for row in of_layer),
            *(_decimals(row["mean_derivative"] if row else None) for row in of_layer),
        )
    table.caption = (
        f"Active region: {active_words(activation)}, where the slope of {activation} is above "
        f"{SHARE:.0%} of its largest."
    )
    if any("addition" in row["via"] for row in rows):
        table.caption += (
            "\n(+): the layer's own output; a residual addition stands between it and the "
            "activation."
        )
    return table


def _titled(title: str) -> Table:
    """A table as narrow as its contents, which fits 80 columns."""
    return Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=Text(for_line(title)),
        title_justify="left", title_style="bold", caption_justify="left",
    )  # fmt: skip


def _accuracies(runs: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("normalization", "seed", "epochs", "train accuracy", "test accuracy"):
        table.add_column(name, justify="left" if name == "normalization" else "right")
    for run in runs:
        diverged = "" if run["status"] == "finished" else f" ({run['status']})"
        accuracies = (percent(run[f"{split}_accuracy"]) for split in ("train", "test"))
        table.add_row(
            Text(for_line(run["norm"]) + diverged),
            str(run["seed"]),
            str(run["epochs"]),
            *accuracies,
        )
    return table
