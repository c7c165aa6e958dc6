"""Shared by the benchmarks: the machine, turns in one process, ratios with ranges, tables."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normscope.studies.environment import describe_environment

BUSY = 0.5
"""Load average of the last minute above which something else is running."""


@dataclass(frozen=True)
class Spread:
    """Median and range of n measurements."""

    median: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return Spread(statistics.median(values), min(values), max(values), len(values))

    def text(self, form: str = ",.0f", unit: str = "") -> str:
        """For example "1,100 (1,080 to 1,130, n = 5)"; the range only where there is more than one
        value.
        """
        if self.n == 1:
            return f"{self.median:{form}}{unit} (n = 1)"
        return f"{self.median:{form}}{unit} ({self.low:{form}} to {self.high:{form}}, n = {self.n})"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Spread of the quotients round by round: what slows both sides of a round alike cancels."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])


_BEGUN = time.monotonic()


def say(what: str) -> None:
    """Tell on standard error what is measured next, with the minutes since the benchmark began."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGUN), 60)
    print(f"{minutes:3d}:{seconds:02d}  {what}", file=sys.stderr, flush=True)


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Return each contender's results, one a round, in an order that turns from round to round;
    warm-up rounds are dropped.
    """
    names = list(contenders)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        kind = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"
        say(f"{kind}: {len(names)} contender{'s' if len(names) > 1 else ''}")
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = contenders[name]()
            if number >= 0:
                measured[name].append(value)
    return measured


@dataclass(frozen=True)
class Table:
    """The result of a part, for people (header, rows, notes) and for programs (values)."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    values: dict[str, Any]

    def markdown(self) -> str:
        """The table with its title and notes."""
        lines = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *self.notes])


def hardware(device: str) -> dict[str, Any]:
    """Hardware and versions, as a run's record has them."""
    return describe_environment(device)


def hardware_line(device: str) -> str:
    """The same in one line."""
    environment = hardware(device)
    machine, versions = environment["hardware"], environment["versions"]
    name = machine["cpu"] if device == "cpu" else f"{machine['device_name']}; {machine['cpu']}"
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{name}; {machine['cores']} cores; {tools}"


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def warn_if_busy() -> float | None:
    """Say on standard error that something else is running, if it is. Returns the load average."""
    load = load_average()
    if load is not None and load > BUSY:
        print(
            f"The load average is {load:.2f}, above {BUSY}: something else is running (or was, a "
            "minute ago). "
            "These numbers are not to be published.",
            file=sys.stderr,
        )
    return load


def keep(table: Table, folder: Path, part: str, device: str, load: float | None) -> Path:
    """Append the table's values to <folder>/<part>.jsonl as one line, with where and when they were
    measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.jsonl"
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": load,
        **hardware(device),
        "values": table.values,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, default=_plain) + "\n")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in the results")
