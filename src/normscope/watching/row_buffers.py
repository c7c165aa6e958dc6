"""Rows of values kept on the device in blocks, and brought to the host when full."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 8 << 20  # a commit takes some 10 ms, whatever it holds
BLOCK_ROWS = 1024


class Column(NamedTuple):
    """A stretch of a row: one statistic of one layer, of this shape."""

    layer: str
    statistic: str
    shape: tuple[int, ...]


# Rows repeat the same columns for the whole run: making them once is half of what a row costs.
column = functools.lru_cache(maxsize=1 << 16)(Column)


class HostBlock(NamedTuple):
    """A finished block on the host: int64 steps [R] and values [R, W], W split by the columns."""

    columns: list[Column]
    steps: np.ndarray
    values: np.ndarray

    def arrays(self) -> Iterator[tuple[Column, np.ndarray]]:
        """Yield (column, values [R, *shape]) of each column, as views."""
        start = 0
        for column in self.columns:
            end = start + int(np.prod(column.shape))
            yield column, self.values[:, start:end].reshape(len(self.steps), *column.shape)
            start = end


class _Block:
    """Rows of the same columns on one device, in one preallocated tensor."""

    def __init__(self, columns: list[Column], width: int, device: torch.device, dtype: torch.dtype):
        row_bytes = max(1, width * dtype.itemsize)
        rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
        self.columns = columns
        self.steps: list[int] = []
        self.values = torch.empty(rows, width, dtype=dtype, device=device)

    @property
    def full(self) -> bool:
        return len(self.steps) == len(self.values)

    def append(self, step: int, parts: Sequence[Tensor]) -> None:
        """Add a row in one kernel, whatever the number of layers."""
        flat = [part if part.dim() == 1 else part.reshape(-1) for part in parts]
        torch.cat(flat, out=self.values[len(self.steps)])
        self.steps.append(step)


@dataclass
class _Transfer:
    """A sealed block on its way to the host."""

    columns: list[Column]
    steps: list[int]
    values: Tensor
    arrived: Any  # an event of the device's stream; None where the values are on the host already

    @classmethod
    def of(cls, block: _Block) -> _Transfer:
        values = block.values[: len(block.steps)]
        if values.device.type != "cuda":
            return cls(block.columns, block.steps, values.cpu(), None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(values.device))
        return cls(block.columns, block.steps, host, event)

    def done(self, *, wait: bool) -> bool:
        if self.arrived is None:
            return True
        if wait:
            self.arrived.synchronize()
        return self.arrived.query()

    def host_block(self) -> HostBlock:
        return HostBlock(self.columns, np.array(self.steps, dtype=np.int64), self.values.numpy())


class Blocks:
    """The open blocks of a watcher, by what is measured together and by device.

    Seal them at the end of a step, when one is full. Nothing here waits for a GPU until
    `take(wait=True)`: sealed blocks travel through pinned memory, and are taken when the device
    says that they have arrived.
    """

    def __init__(self):
        self._open: dict[tuple[str, torch.device], _Block] = {}
        self._transfers: list[_Transfer] = []

    def append(self, group: str, step: int, columns: list[Column], parts: list[Tensor]) -> None:
        """Add a row: its parts in the order of the columns, one each, or all columns in one part.

        A group's rows with other columns than its last one start a new block. Call under
        `torch.no_grad()`.
        """
        devices = {part.device for part in parts}
        if len(devices) == 1:
            self._append(group, step, columns, parts)
            return
        for device in devices:
            there = [i for i, part in enumerate(parts) if part.device == device]
            self._append(group, step, [columns[i] for i in there], [parts[i] for i in there])

    def _append(self, group: str, step: int, columns: list[Column], parts: list[Tensor]) -> None:
        key = (group, parts[0].device)
        block = self._open.get(key)
        if block is not None and block.columns != columns:
            self._seal(key)
            block = None
        if block is None:
            dtype = torch.float32 if parts[0].is_floating_point() else parts[0].dtype
            width = sum(part.numel() for part in parts)
            block = self._open[key] = _Block(columns, width, parts[0].device, dtype)
        block.append(step, parts)

    def _seal(self, key: tuple[str, torch.device]) -> None:
        self._transfers.append(_Transfer.of(self._open.pop(key)))

    def seal(self) -> None:
        """Send all open blocks to the host, so that those of the same steps arrive together."""
        for key in list(self._open):
            self._seal(key)

    @property
    def full(self) -> bool:
        """Tell whether a block has no room for another step."""
        return any(block.full for block in self._open.values())

    @property
    def waiting(self) -> bool:
        """Tell whether sealed blocks have not been taken yet."""
        return bool(self._transfers)

    def take(self, *, wait: bool) -> list[HostBlock]:
        """Return all sealed blocks, in order, once the last has arrived; none before that without
        `wait`.
        """
        if not all(transfer.done(wait=wait) for transfer in self._transfers):
            return []
        taken, self._transfers = self._transfers, []
        return [transfer.host_block() for transfer in taken]


PROBE = "probe"  # the statistic that is looked at for every step, and not stored

_NARROW = {"training": np.dtype(np.bool_), "values_per_channel": np.dtype(np.int64)}


def record_arrays(
    blocks: Iterable[HostBlock], eps: dict[str, float]
) -> list[tuple[np.ndarray, dict]]:
    """Return [(steps, {(layer, statistic): values})] for a record's part. `eps` is by layer."""
    batches = []
    for block in blocks:
        kept = [(at, values) for at, values in block.arrays() if at.statistic != PROBE]
        if kept:
            batches.append((block.steps, dict(_stored(at, values, eps) for at, values in kept)))
    return batches


def _stored(
    column: Column, values: np.ndarray, eps: dict[str, float]
) -> tuple[tuple[str, str], np.ndarray]:
    name = column.statistic
    if name == "batch_invstd":
        return (column.layer, "batch_var"), variance(values, eps.get(column.layer, 0.0))
    if name in _NARROW:
        values = values.astype(_NARROW[name])
    elif name.endswith("histogram"):
        fits = values.max(initial=0) <= np.iinfo(np.uint16).max
        values = values.astype(np.uint16 if fits else np.uint32)
    return (column.layer, name), values


def variance(invstd: np.ndarray, eps: float) -> np.ndarray:
    """Return the variance behind 1 / sqrt(variance + eps), exact to 1e-7 of (variance + eps); of a
    layer whose parameters are bf16, which keeps that root in bf16, to 1%.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        exact = 1.0 / np.square(invstd.astype(np.float64)) - eps
        return np.maximum(exact, 0.0).astype(np.float32)


class NonFinite:
    """The first NaN or infinity of each layer, apart for what flows forward and for gradients."""

    def __init__(self):
        self._first: dict[tuple[str, bool], dict[str, Any]] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return [{layer, statistic, step, channels}], the earliest first."""
        return sorted(self._first.values(), key=lambda row: row["step"])

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows of a recording that goes on."""
        for row in rows:
            self._first[row["layer"], "gradient" in row["statistic"]] = row

    def search(self, blocks: Iterable[HostBlock], strides: Mapping[str, int]) -> None:
        """Search blocks of floating values; `strides` are the distances of recorded channels."""
        for block in blocks:
            if block.values.dtype.kind != "f" or np.isfinite(block.values).all():
                continue
            for column, values in block.arrays():
                bad = ~np.isfinite(values.reshape(len(values), -1))
                if bad.any():
                    stride = 1 if column.statistic == PROBE else strides.get(column.layer, 1)
                    self._note(column, block.steps, bad, stride)

    def _note(self, column: Column, steps: np.ndarray, bad: np.ndarray, stride: int) -> None:
        row = int(np.argmax(bad.any(1)))
        key = (column.layer, "gradient" in column.statistic)
        if key in self._first and self._first[key]["step"] <= int(steps[row]):
            return
        per_channel = len(column.shape) == 1 and column.shape != (1,)
        self._first[key] = {
            "layer": column.layer,
            "statistic": "input" if column.statistic == PROBE else column.statistic,
            "step": int(steps[row]),
            "channels": (np.flatnonzero(bad[row]) * stride).tolist() if per_channel else [],
        }
