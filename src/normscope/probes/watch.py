"""`watch`: records what the layers of a model do, in anybody's training loop, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from normscope.errors import InputError
from normscope.probes.intervals import Gradually, Interval, Intervals
from normscope.probes.layers import LayerSelector, find_layers
from normscope.probes.resuming import cut_off
from normscope.probes.watcher import Watcher, refuse_watched
from normscope.records.recording import rank_path
from normscope.records.recording_header import Header
from normscope.records.recording_parts import FilePart, MemoryPart, WritablePart

# At these intervals 30 epochs of SmallResNet at batch 128 (11,730 steps, 560 channels) write about 15 MB.
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
    after: int | None = None,
) -> Watcher:
    """Record what every normalization layer of a model does while it trains; the run stays bitwise the same.

    Per layer and channel: the batch's mean and biased variance, running mean and variance, `num_batches_tracked`,
    weight, bias and their gradients, histograms of the normalized value from which the distributions of input and
    output follow, L2 norms of the gradient at the layer's input and output, values per channel, train or eval mode, and
    the first value that is not finite, wherever it appears. Of layers with per-sample statistics (group, layer,
    instance and RMS norm): the distribution of those over the batch.

    The watcher lives until `close()`, the end of a `with` block, the model's death or the end of the program; each of
    them writes what is left. The recording is the watcher's `recording`, and `normscope.Recording.load(path)`.

    What it costs, on SmallResNet at batch 128: see benchmarks/watching.py. Moments, running statistics, weight and bias
    are the layer's own and cost a copy of a few kilobytes; histograms bin a sixteenth of the batch, and take a third of
    the layer's forward. Batch moments that a layer did not save for backward (in eval mode, without gradients, under
    checkpointing, in group, layer, instance and RMS norm, in modules of other types) take a pass over its input, and
    are recorded at histogram steps only. Bytes per record and channel: 24 for moments, 8 for gradients, 156 for a
    histogram.

    Batch statistics are the layer's own, the ones it normalized with. On contiguous tensors they are within 1e-5 of a
    standard deviation of the exact ones; PyTorch's kernel for channels_last on the CPU is up to four times further off.

    With gradient accumulation, a step's batch statistics are those of its first forward. A layer that is called several
    times in one forward is recorded as `name`, `name#2`, ...; under torch.compile only parameters, buffers and their
    gradients can be recorded, and a warning says so. A watched model cannot be given to `torch.jit.script`, which
    compiles its hooks; a deep copy of it can.

    Args:
        model: the model that the loop calls, or its wrapper in DistributedDataParallel: each process then records into
            a file of its own, and loading merges them.
        layers: names, globs or types of the modules to watch, one or several. They may select any module; one that is
            no normalization layer has its output recorded.
        optimizer: steps are this optimizer's steps. Without it a step is a forward of the model in train mode, and
            gradients are those that the next step of an optimizer of these layers gets.
        path: the file to write. Without it the record is kept in memory, and thinned as it grows.
        every: when to record moments, running statistics, weight and bias: a number of steps, or a function of the
            step, counted from 1. By default every step at first and every 25th in the end.
        histograms_every: when to record histograms; by default every 250th step in the end.
        gradients_every: when to record gradients; by default every 100th step in the end.
        after: go on with the recording at `path` after this step, at whose end it was flushed; what it holds later is
            dropped. For a training that resumes from a checkpoint.

    Raises:
        InputError: for a model without normalization layers, a layer that is not there or watched already, something
            that is no optimizer or interval, or a path that exists.
        StorageError: if the file cannot be written. Later on, that is one warning, and the training goes on.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"watch() takes a torch.nn.Module, not {type(model).__name__}.")
    intervals = Intervals(every, gradients_every, histograms_every)
    found = find_layers(_unwrapped(model), layers)
    steps_of = None if optimizer is None else _torch_optimizer(optimizer)
    rank, world_size = _process()
    header = Header(
        model=type(_unwrapped(model)).__name__,
        unit="forward" if optimizer is None else "optimizer step",
        intervals=intervals.described(),
        layers=[layer.info for layer in found],
        versions={"torch": str(torch.__version__), "normscope": _version()},
        device=str(next((p.device for p in model.parameters()), "cpu")),
        rank=rank,
        world_size=world_size,
    )
    refuse_watched(found)
    if after is None:
        return Watcher(model, found, _part(path, header), intervals, steps_of)
    if path is None:
        raise InputError("after= goes on with a recording in a file; give its path=.")
    part = cut_off(rank_path(Path(path), rank), header, after)
    watcher = Watcher(model, found, part, intervals, steps_of)
    watcher.take_up(after)
    return watcher


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that only change how it is called; its layers have the names that the user knows."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or "_orig_mod" in model._modules:
        inner = model._modules.get("_orig_mod") or model._modules["module"]
        assert inner is not None
        model = inner
    return model


def _torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer itself: wrappers of Lightning and accelerate carry it as `.optimizer`."""
    while not isinstance(optimizer, torch.optim.Optimizer) or type(optimizer).__name__ == "AcceleratedOptimizer":
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            raise InputError(f"optimizer= takes a torch.optim.Optimizer, not {type(optimizer).__name__}.")
        optimizer = inner
    return optimizer


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
    from normscope import __version__

    return __version__
