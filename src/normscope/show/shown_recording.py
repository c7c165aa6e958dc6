"""A recording that shows itself: in the terminal, as a page, in a notebook."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.escapes import for_line, for_terminal
from normscope.records import recording as records
from normscope.records.recording_header import LayerInfo
from normscope.show.remarks import Remarks, Values
from normscope.show.report.pages import recording_html, recording_report
from normscope.words import plural, wrapped

WIDTH = 200
MOST_ROWS = 16
ROOMY = 100  # columns; a narrower table has one space between its columns

COLUMNS = (
    "layer", "type", "channels", "input mean", "input std", "weight", "bias", "gradient", "then",
)  # fmt: skip

DESCRIBING = ("type", "channels", "then")


def summary(recording: records.Recording, *, every_layer: bool = False) -> str:
    """Return the remarks and the table as text without colours, as wide as the terminal."""
    remarks = Remarks.of(recording)
    facts = remarks.facts
    shown = list(facts) if every_layer else _shown(list(facts), remarks.sentences)
    above = [
        f"{for_line(recording.header.model)}: {remarks.seen}",
        "What stands out:" if remarks.sentences else "Nothing stands out.",
        *(f"- {sentence}" for sentence in remarks.sentences),
        *filter(None, [remarks.left_out]),
    ]
    file = io.StringIO()
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    console = Console(
        file=file, width=width, color_system=None, legacy_windows=False, force_jupyter=False
    )
    console.print(_table(recording, {name: facts[name] for name in shown}, width))
    if hidden := len(facts) - len(shown):
        more = f"{plural(hidden, 'other layer')} not shown: summary(every_layer=True)"
        file.write(f"{wrapped(more, width)}\n")
    table = [line.rstrip() for line in file.getvalue().split("\n")]
    return for_terminal("\n".join([*(wrapped(line, width) for line in above), "", *table]))


def _shown(names: list[str], remarks: Sequence[str]) -> list[str]:
    """The layers of a table that can be read: all, or those with a remark, the first and last."""
    if len(names) <= MOST_ROWS:
        return names
    told = [name for name in names if any(text.startswith(f"{name}: ") for text in remarks)]
    kept = {names[0], names[-1], *told[:MOST_ROWS]}
    return [name for name in names if name in kept]


def _table(recording: records.Recording, facts: dict[str, Values], width: int) -> Table:
    """A row per layer; what all have in common is said above it, and not in each row."""
    rows = [_row(name, recording.layers[name], at_end) for name, at_end in facts.items()]
    columns = list(zip(*rows, strict=True)) if rows else []
    common = [
        index
        for index, values in enumerate(columns)
        if COLUMNS[index] in DESCRIBING and len(rows) > 1 and len(set(values)) == 1
    ]
    said = "; ".join(f"{COLUMNS[i]} {rows[0][i]}" for i in common if rows[0][i])
    title = Text(for_line(f"All: {said}")) if said else None
    gap = 2 if width >= ROOMY else 1
    table = Table(
        box=None, pad_edge=False, header_style="", title=title,
        title_justify="left", title_style="", padding=(0, gap, 0, 0),
    )  # fmt: skip
    kept = [index for index in range(len(COLUMNS)) if index not in common]
    cells = [[COLUMNS[index], *(row[index] for row in rows)] for index in kept]
    for column, wide in zip(cells, _widths(cells, width - gap * (len(kept) - 1)), strict=True):
        left = column[0] in ("layer", *DESCRIBING)
        justify = "left" if left else "right"
        table.add_column(column[0], justify=justify, overflow="fold", width=wide)
    for row in rows:
        table.add_row(*(Text(for_line(row[index])) for index in kept))
    return table


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Share out the room: what every column needs, or less for those that can best be broken at
    spaces; where even that is too much, words of the widest are broken.
    """
    widths = [max(map(len, cells)) for cells in columns]
    words = [max(map(len, " ".join(cells).split())) for cells in columns]
    while sum(widths) > max(room, 4 * len(widths)):
        slack = [wide - word for wide, word in zip(widths, words, strict=True)]
        least = slack if max(slack) > 0 else widths
        widths[least.index(max(least))] -= 1
    return widths


def _row(name: str, info: LayerInfo, at_end: Values) -> tuple[str, ...]:
    var = at_end.get("batch_var")
    return (
        name, info.type, "?" if info.channels is None else str(info.channels),
        _span(at_end.get("batch_mean")), _span(None if var is None else np.sqrt(var)),
        _span(at_end.get("weight")), _span(at_end.get("bias")),
        _one(at_end.get("output_gradient_norm")),
        " + ".join([*info.via, info.activation]) if info.activation else "",
    )  # fmt: skip


def _span(values: np.ndarray | None) -> str:
    if values is None or values.size == 0:
        return "-"
    return f"{np.min(values):.2g} .. {np.max(values):.2g}"


def _one(value: np.ndarray | None) -> str:
    return "-" if value is None else f"{float(value):.2g}"


class Recording(records.Recording):
    """The record of the processes that trained one model. Reading it needs no torch.

    `Recording.load(path)` reads a file and, beside it, those of the other ranks;
    `watcher.recording` is what a watcher has so far.
    """

    def summary(self, *, every_layer: bool = False) -> str:
        """What stands out, and a table of the layers, for the terminal.

        Args:
            every_layer: show all layers of a network of many, not those alone that stand out.
        """
        from normscope.show.shown_recording import summary  # rich takes time to import

        return summary(self, every_layer=every_layer)

    def report(self, path: str | Path) -> Path:
        """Write everything that was recorded on one page: an HTML file that works offline.

        Raises:
            InputError: if the path is a file that is not a report, or has no folder.
            StorageError: if it cannot be written.
        """
        return recording_report(self, path)

    def _repr_html_(self) -> str:
        return recording_html(self)
