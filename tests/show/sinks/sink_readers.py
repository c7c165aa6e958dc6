"""What dashboards hold, read with their own readers (TensorBoard) and messages (W&B)."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and every worker of the suite imports every file of tests
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
"""Bytes of a block in W&B's transaction log, which is LevelDB's log format behind a header of 7
bytes.
"""


def tensorboard(folder: Path) -> EventAccumulator:
    """Everything in a log folder, nothing sampled away."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(
        str(folder), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    ).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """[(step, value)] of a tag."""
    return [(event.step, event.value) for event in tensorboard(folder).Scalars(tag)]


def wandb_rows(folder: Path, run: str = "*") -> list[dict]:
    """The history rows of the offline runs in W&B's folder, in order."""
    rows = []
    for record in wandb_records(folder, run):
        if record.HasField("history"):
            items = record.history.item
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
    return rows


def wandb_records(folder: Path, run: str = "*") -> Iterator[Record]:
    """Every record of the offline runs in W&B's folder. W&B's own process may still be writing:
    wait for its last.
    """
    for file in sorted((folder / "wandb").glob(f"offline-run-*/run-{run}.wandb")):
        deadline = time.monotonic() + 20
        while not (records := list(_records(file))) or not records[-1].HasField("exit"):
            assert time.monotonic() < deadline, f"{file} has no end"
            time.sleep(0.05)
        yield from records


def _records(file: Path) -> Iterator[Record]:
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _log_entries(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def _log_entries(content: bytes) -> Iterator[bytes]:
    """The entries of a LevelDB log: fragments of checksum (4), length (2), kind (1: whole, 2:
    first, 3, 4: last).
    """
    assert content[:4] == b":W&B"
    place, parts = 7, []
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []
