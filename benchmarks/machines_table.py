"""The table of machines: its entries, its rows, and its place in docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("machines.json")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- machines: benchmarks/machines.py writes this -->", "<!-- end of machines -->"

ROWS: dict[str, tuple[str, str]] = {
    "job": ("whole job against the notebook's way", "×{:.2f}"),
    "training": ("training throughput against the notebook's way", "×{:.2f}"),
    "job_minutes": ("whole job, minutes", "{:.1f}"),
    "products": ("training, of the rate of matrix products on one thread", "{:.0%}"),
    "products_rate": ("matrix products on one thread, TFLOP/s", "{:.2f}"),
    "copy_rate": ("memory copied by one thread, GB/s", "{:.1f}"),
    "watch_resnet": ("`watch`, of a SmallResNet step (bf16 where it is native)", "{:.1%}"),
    "watch_transformer": ("`watch`, of a step of a 12-layer transformer", "{:.1%}"),
    "watch_compiled": ("`watch`, of a compiled SmallResNet step", "{:.1%}"),
    "check_static": ("`check` without data, ResNet-50, ms", "{:.0f}"),
    "check_dynamic": ("`check` with data, of the three passes that it needs", "×{:.2f}"),
    "check_command": ("`normscope check` of a checkpoint, of importing torch alone", "×{:.2f}"),
    "report": ("`report` of 60 layers x 1,000 steps, s", "{:.2f}"),
    "quick": ("`study quick`, runs a minute", "{:.1f}"),
    "import_torch": ("importing torch alone, s", "{:.2f}"),
    "demo_line": ("`make demo` (installed), to its first line, s", "{:.1f}"),
    "demo_run": ("`make demo`, to its first result, s", "{:.1f}"),
    "demo": ("`make demo`, to its end, s", "{:.0f}"),
}
"""Key -> what is measured, and how it is written."""


def merged(
    entries: list[dict[str, Any]],
    here: dict[str, Any],
    numbers: Mapping[str, float],
    how: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The entries with these numbers in the one of this machine; `how` they came about, by key."""
    same = ("kind", "cpu", "cores")
    mine = next((e for e in entries if all(e[k] == here[k] for k in same)), None)
    if mine is None:
        mine = {"values": {}, "measured": {}}
        entries = [*entries, mine]
    mine |= here | {
        "values": mine["values"] | dict(numbers),
        "measured": mine["measured"] | {key: dict(how) for key in numbers},
    }
    return entries


def table(entries: list[dict[str, Any]]) -> str:
    """The Markdown of the table: a column for a machine."""
    lines = [
        ["", *(e["kind"] for e in entries)],
        ["---", *("---:" for _ in entries)],
        ["processor", *(f"{e['cpu']}, {e['cores']} cores" for e in entries)],
    ]
    for key, (label, form) in ROWS.items():
        values = [e["values"].get(key) for e in entries]
        lines.append([label, *("–" if v is None else form.format(v) for v in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_with_table(page: str, entries: list[dict[str, Any]]) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(entries)}\n{END}{rest.split(END)[1]}"
