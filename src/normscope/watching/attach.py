"""Attach a watcher to a model: the layers, and the file, a new one or one that goes on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normscope.arguments import given_path
from normscope.errors import InputError, NormscopeError, NormscopeWarning, RecordError
from normscope.records.files import is_alive, this_process
from normscope.records.recording import Recording, rank_path
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import FilePart, MemoryPart, Part
from normscope.records.store import writer
from normscope.user_models.functional_norms import functional_norms
from normscope.user_models.wrappers import stepping_optimizer, unwrapped_model
from normscope.version import __version__
from normscope.watching.intervals import Intervals, LogSpacedInterval, check_budget, spread_channels
from normscope.watching.listeners import Listener
from normscope.watching.watched_layers import LayerSelector, find_layers
from normscope.watching.watcher import Watcher, is_being_written, refuse_watched

# At these intervals 30 epochs of SmallResNet at batch 128 (11,730 steps, 560 channels) write about
# 15 MB; of wider networks the budget leaves some out.
EVERY = LogSpacedInterval(25, first=8)
GRADIENTS_EVERY = LogSpacedInterval(100, first=1)
HISTOGRAMS_EVERY = LogSpacedInterval(250, first=1)


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
        part = _truncate_after(rank_path(given_path(path, "path").absolute(), rank), header, after)
        for layer, info in zip(selected, _first_calls(part.header), strict=True):
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


def recorded_steps(path: Path) -> int:
    """Return the step after which the recording was last written.

    Raises:
        InputError, RecordError: if there is none, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"There is no recording at {path}.")
    # A reader cannot undo the transaction in which a process was killed.
    with writer(path, "recording"):
        return FilePart(path).header.cost.steps


def _truncate_after(path: Path, header: Header, step: int) -> FilePart:
    """Drop blocks, marks, events and non-finite values after a step from the recording at `path`.

    Args:
        path: the file of this process.
        header: of what is recorded from there on: the same layers at the same intervals.
        step: the recording was written at its end.

    Raises:
        InputError: if there is no recording that reaches this step, or it is of something else.
        RecordError: if it cannot be read, or was not written at the end of that step.
    """
    reached = recorded_steps(path)
    if reached < step:
        raise InputError(f"{path} ends at step {reached}; it cannot go on after step {step}.")
    part = FilePart(path)
    if _subject(part.header) != _subject(header):
        raise InputError(
            f"{path} is the recording of other layers or at other intervals; it cannot go on."
        )
    kept = replace(part.header, complete=False, cost=replace(part.header.cost, steps=step))
    with writer(path, "recording") as store, store.transaction():
        try:
            store.drop_after(step)
        except RecordError as error:
            raise RecordError(f"{error} Remove it to record from the start.") from error
        store.set_meta(
            header=kept.to_json(),
            non_finite=[row for row in part.non_finite if row["step"] <= step],
        )
    return FilePart(path)


def _first_calls(header: Header) -> list[LayerInfo]:
    """Return the watched layers, each once, in the order of the model."""
    return [info for info in header.layers if info.call == 1]


def _subject(header: Header) -> tuple[object, ...]:
    # which of the normalizations a layer is may be known only when it has run
    layers = [(info.name, info.type, info.kind == "activation") for info in _first_calls(header)]
    # how dense the start was makes no difference behind it: older versions' defaults had more of it
    intervals = [re.sub(r", first=\d+", "", words) for words in header.intervals.values()]
    return layers, header.model, header.unit, intervals, header.rank, header.world_size
