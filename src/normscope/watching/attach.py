"""Attach a watcher to a model: the layers, the file, and the steps that are recorded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normscope.arguments import given_path
from normscope.errors import InputError, NormscopeError, NormscopeWarning
from normscope.records.files import is_alive, this_process
from normscope.records.recording import Recording, rank_path
from normscope.records.recording_header import Header
from normscope.records.recording_parts import FilePart, MemoryPart, Part
from normscope.user_models.functional_norms import functional_norms
from normscope.user_models.wrappers import stepping_optimizer, unwrapped_model
from normscope.version import __version__
from normscope.watching.budget import check_budget, spread_channels
from normscope.watching.intervals import Intervals, LogSpacedInterval
from normscope.watching.listeners import Listener
from normscope.watching.resume_recording import first_calls, truncate_after
from normscope.watching.watched_layers import LayerSelector, find_layers
from normscope.watching.watcher import Watcher, is_being_written, refuse_watched

# At these intervals 30 epochs of SmallResNet at batch 128 (11,730 steps, 560 channels) write about
# 15 MB; of wider networks the budget leaves some out.
EVERY = LogSpacedInterval(25, first=8)
GRADIENTS_EVERY = LogSpacedInterval(100, first=2)
HISTOGRAMS_EVERY = LogSpacedInterval(250, first=2)


def attach(
    model: nn.Module,
    layers: LayerSelector | None,
    intervals: Intervals,
    *,
    optimizer: Any = None,
    path: str | Path | None = None,
    budget: float | None = None,
    after: int | None = None,
    listeners: Iterable[Listener] = (),
    recording_type: type[Recording] = Recording,
    stream: bool = False,
) -> Watcher:
    """Attach a watcher. `normscope.watch` is the public function, and documents the arguments.

    Args:
        listeners: are called at each flush and at close.
        recording_type: the class of the watcher's recording.
        stream: whether to look at the residual stream, too.

    Raises:
        InputError, StorageError: as `normscope.watch`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"watch() takes a torch.nn.Module, not {type(model).__name__}.")
    check_budget(budget)
    selected = find_layers(unwrapped_model(model), layers)
    infos = [layer.info for layer in selected]
    rank, world_size = _process()
    header = Header(
        model=type(unwrapped_model(model)).__name__,
        unit="forward" if optimizer is None else "optimizer step",
        intervals=intervals.described(),
        layers=infos,
        versions={"torch": str(torch.__version__), "normscope": __version__},
        device=str(next((p.device for p in model.parameters()), "cpu")),
        rank=rank,
        world_size=world_size,
        budget=budget,
        writer=this_process(),
    )
    optimizer = stepping_optimizer(optimizer, model)
    refuse_watched(selected)
    if after is None:
        spread_channels(infos, budget)
        part = _part(path, header)
    elif path is None:
        raise InputError("after= goes on with a recording in a file; give its path=.")
    else:
        part = truncate_after(rank_path(given_path(path, "path").absolute(), rank), header, after)
        for layer, info in zip(selected, first_calls(part.header), strict=True):
            layer.info = info
    watcher = Watcher(model, selected, part, intervals, optimizer, recording_type, stream=stream)
    if after is not None:
        watcher.resume(after)
    watcher.listen(*listeners)
    if layers is None:
        _name_functions(watcher, unwrapped_model(model))
    return watcher


def _name_functions(watcher: Watcher, model: nn.Module) -> None:
    """Say which normalizations no hook can see: those that forwards call as functions."""
    if found := functional_norms(model):
        name, calls = next(iter(found.items()))
        where = f"{calls[0]} in {name or type(model).__name__}"
        more = f" and in {len(found) - 1} more modules" if len(found) > 1 else ""
        watcher.note(
            "functions",
            f"Normalizations that a forward calls as functions are not recorded: {where}{more}.",
        )


def _process() -> tuple[int, int]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _part(path: str | Path | None, header: Header) -> Part:
    if path is None:
        return MemoryPart(header)
    file = rank_path(
        given_path(path, "path").absolute(), header.rank
    )  # os.chdir() moves no recording
    if not file.parent.is_dir():
        raise InputError(f"The folder of {file} does not exist.")
    if file.exists():
        if not _was_abandoned(file):
            raise InputError(
                f"{file} exists already. Remove it, or give the recording another path."
            )
        file.unlink()
        text = f"{file} was left by a run that was killed before its first step; it is replaced."
        warnings.warn(text, NormscopeWarning, stacklevel=4)
    return FilePart(file, header)


def _was_abandoned(file: Path) -> bool:
    """Tell whether a file is a recording that holds nothing, of a process that is gone."""
    try:
        part = FilePart(file)
        header = part.header
        empty = not (header.complete or header.cost.steps or part.statistics() or part.events())
    except NormscopeError:
        return False
    return empty and not is_being_written(file) and not _writes_still(header.writer)


def _writes_still(writer: str) -> bool:
    """Tell if the process that made a file runs; not if its normscope did not say who it is."""
    if writer in ("", this_process()):  # of an earlier process of our number: we have no such file
        return False
    return is_alive(writer)
