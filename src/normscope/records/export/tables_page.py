"""The tables and their columns as a page: `python -m normscope.records.export.tables_page` prints
that part of docs/exporting.md.
"""

from __future__ import annotations

from normscope.records.export.recording_tables import (
    EVENTS,
    HISTOGRAMS,
    LAYERS,
    RECORDINGS,
    STATISTICS,
)
from normscope.records.export.run_tables import CAPTURE_BINS, CAPTURES, EPOCHS, MEASUREMENTS, RUNS
from normscope.records.export.schema import Table

TABLES = (
    RUNS,
    EPOCHS,
    CAPTURES,
    CAPTURE_BINS,
    MEASUREMENTS,
    RECORDINGS,
    LAYERS,
    STATISTICS,
    HISTOGRAMS,
    EVENTS,
)


def page() -> str:
    """Every table with its columns, units and meanings, in Markdown."""
    return "\n".join(map(_section, TABLES))


def _section(table: Table) -> str:
    lines = [
        f"### `{table.name}`",
        "",
        f"A row is {table.row}.",
        "",
        "| column | type | unit | meaning |",
        "|---|---|---|---|",
    ]
    for field in table.schema:
        unit, meaning = (field.metadata[key].decode() for key in (b"unit", b"description"))
        line = f"| `{field.name}` | {field.type} | {unit} | {meaning} |"
        lines.append(line.replace("<", "&lt;"))
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page())
