"""`watch`: records what the layers of a model do, in anybody's training loop, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normscope.errors import InputError
from normscope.records.recording import Recording, rank_path
from normscope.records.recording_header import Header
from normscope.records.recording_parts import FilePart, MemoryPart, WritablePart
from normscope.user_models.wrappers import torch_optimizer, unwrapped_model
from normscope.watching.budget import BUDGET, check_budget, spread_channels
from normscope.watching.intervals import Gradually, Interval, Intervals
from normscope.watching.listeners import Listener
from normscope.watching.resume_recording import cut_off, first_calls
from normscope.watching.watched_layers import LayerSelector, find_layers
from normscope.watching.watcher import Watcher, refuse_watched

# At these intervals 30 epochs of SmallResNet at batch 128 (11,730 steps, 560 channels) write about
# 15 MB; of wider networks the budget leaves some out.
EVERY = Gradually(25, first=16)
GRADIENTS_EVERY = Gradually(100, first=4)
HISTOGRAMS_EVERY = Gradually(250, first=4)


def watch(
    model: nn.Module,
    *,
    layers: LayerSelector | None = None,
    optimizer: Any = None,
    path: str | Path | None = None,
    every: Interval = EVERY,
    histograms_every: Interval = HISTOGRAMS_EVERY,
    gradients_every: Interval = GRADIENTS_EVERY,
    budget: float | None = BUDGET,
    after: int | None = None,
    listeners: Iterable[Listener] = (),
    recording_type: type[Recording] = Recording,
) -> Watcher:
    """Attach a watcher. The arguments are those of `normscope.watch`, which stands above this room
    and documents them.

    Args:
        listeners: who is told at each flush and at close, besides.
        recording_type: the class of the watcher's recording.

    Raises:
        InputError, StorageError: as `normscope.watch`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"watch() takes a torch.nn.Module, not {type(model).__name__}.")
    intervals = Intervals(every, gradients_every, histograms_every)
    check_budget(budget)
    found = find_layers(unwrapped_model(model), layers)
    infos = [layer.info for layer in found]
    steps_of = None if optimizer is None else torch_optimizer(optimizer)
    rank, world_size = _process()
    header = Header(
        model=type(unwrapped_model(model)).__name__,
        unit="forward" if optimizer is None else "optimizer step",
        intervals=intervals.described(),
        layers=infos,
        versions={"torch": str(torch.__version__), "normscope": _version()},
        device=str(next((p.device for p in model.parameters()), "cpu")),
        rank=rank,
        world_size=world_size,
        budget=budget,
    )
    refuse_watched(found)
    if after is None:
        spread_channels(infos, budget)
        part = _part(path, header)
    elif path is None:
        raise InputError("after= goes on with a recording in a file; give its path=.")
    else:
        part = cut_off(rank_path(Path(path), rank), header, after)
        for layer, info in zip(found, first_calls(part.header), strict=True):
            layer.info = info
    watcher = Watcher(model, found, part, intervals, steps_of, recording_type)
    if after is not None:
        watcher.go_on(after)
    watcher.listen(*listeners)
    return watcher


def _process() -> tuple[int, int]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _part(path: str | Path | None, header: Header) -> WritablePart:
    if path is None:
        return MemoryPart(header)
    file = rank_path(Path(path), header.rank)
    if file.exists():
        raise InputError(f"{file} exists already. Remove it, or give the recording another path.")
    if not file.parent.is_dir():
        raise InputError(f"The folder of {file} does not exist.")
    return FilePart(file, header)


def _version() -> str:
    from normscope.version import __version__

    return __version__
