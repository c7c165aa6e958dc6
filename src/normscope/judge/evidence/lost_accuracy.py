"""What a network loses in small batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normscope.judge.evidence.cells import Cell, Group
from normscope.judge.evidence.quantities import SMALL
from normscope.records.run import RunRecord


def lost(cell: Cell, read: Callable[[RunRecord], float | None]) -> float | None:
    """Accuracy at the largest minus that at the smallest batch size, if the smallest is small; in
    percent.
    """
    smallest, largest = cell.runs[0], cell.runs[-1]
    low, high = read(smallest), read(largest)
    if smallest.spec["batch_size"] > SMALL or low is None or high is None:
        return None
    return high - low


def sizes_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """Which batch sizes the verdict is about, for its notes."""
    found = {
        tuple(cell.runs[place].spec["batch_size"] for place in (0, -1))
        for group in groups
        for cells in group.arms.values()
        for cell in cells.values()
    }
    return tuple(f"Batch sizes: {small} against {large}." for small, large in sorted(found))
