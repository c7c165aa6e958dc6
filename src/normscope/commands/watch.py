"""The public `watch`: a watcher, with sinks and a check that judges the training as it goes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from torch import nn

from normscope.arguments import judged, several
from normscope.errors import InputError
from normscope.show.shown_recording import Recording
from normscope.show.sinks.sink import WatcherSink
from normscope.watching.attach import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY, attach
from normscope.watching.intervals import BUDGET, Interval, Intervals
from normscope.watching.listeners import Listener
from normscope.watching.watched_layers import LayerSelector
from normscope.watching.watcher import Watcher


@judged
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
    stream: bool = False,
    check: bool | Literal["raise"] = False,
    sinks: Iterable[Listener] = (),
) -> Watcher:
    """Record what every normalization layer of a model does while it trains; the run stays bitwise
    the same.

    Per layer and channel: the batch's mean and biased variance, running mean and variance,
    `num_batches_tracked`, weight, bias and their gradients, histograms of the normalized value from
    which the distributions of input and output follow, L2 norms of the gradient at the layer's
    input and output, values per channel, train or eval mode, and the first value that is not
    finite, wherever it appears. Of layers with per-sample statistics (group, layer, instance and
    RMS norm): the distribution of those over the batch.

    The watcher lives until `close()`, the end of a `with` block, the model's death or the end of
    the program; each of them writes what is left. The recording is the watcher's `recording`, and
    `normscope.Recording.load(path)`.

    What it costs, on SmallResNet at batch 128: see benchmarks/watching.py. Moments, running
    statistics, weight and bias are the layer's own and cost a copy of a few kilobytes; histograms
    bin a sixteenth of the batch, and take a third of the layer's forward. Batch moments that a
    layer did not save for backward (in eval mode, without gradients, under checkpointing, in group,
    layer, instance and RMS norm, in modules of other types) take a pass over its input, and are
    recorded at histogram steps only. Bytes per record and channel: 24 for moments, 8 for gradients,
    172 for a histogram; `budget` bounds them.

    Batch statistics are the layer's own, the ones it normalized with. On contiguous tensors they
    are within 1e-5 of a standard deviation of the exact ones; PyTorch's kernel for channels_last on
    the CPU is up to four times further off.

    With gradient accumulation, a step's batch statistics are those of its first forward. A layer
    that is called several times in one forward is recorded as `name`, `name#2`, ...

    Of a model under torch.compile, whole or block by block, before or after `watch`, graphs and
    bits stay as they are. At steps that are recorded the uncompiled model is called once more,
    behind the backward and before the optimizer's step, on the input of the last forward, and put
    back as it was: layers are measured there. With the default intervals these calls take at most
    2% of the time. They cannot show gradients at a layer's input and output, and dropout has other
    masks. Steps are then an optimizer's, also where none was given.

    A watched model cannot be given to `torch.jit.script`, which compiles its hooks; a deep copy
    of it can.

    With `check`, the training is judged as it goes by the rules of `normscope.check` for loops:
    statistics that move without gradients, layers that are trained in eval mode, several updates in
    one step, frozen layers that drift, at the next step; values that are not finite, statistics
    that lag and the rest when the record is next written, which is within half a minute. Each fault
    is said once, as a `NormscopeWarning` that names the step; all of them are in
    `watcher.findings`, and what is normal practice is there only, as an "info". Faults of the model
    itself are for `normscope.check`.

    Args:
        model: the model that the loop calls, or its wrapper in DistributedDataParallel: each
            process then records into a file of its own, and loading merges them.
        layers: names, globs or types of the modules to watch, one or several. They may select any
            module; one that is no normalization layer has its output recorded.
        optimizer: steps are this optimizer's steps; of several in a list, those of the first that
            holds a parameter of the model. Without it a step is a forward of the model in
            train mode, and gradients are those that the next step of an optimizer of these layers
            gets.
        path: the file to write. Without it the record is kept in memory, and thinned as it grows. A
            file that a killed run has left without a step is replaced, with a warning.
        every: when to record moments, running statistics, weight and bias: a number of steps, or a
            function of the step, counted from 1. By default every step up to 15, then ever more
            rarely, and every 25th in the end.
        histograms_every: when to record histograms; by default at steps 1, 3, 5, 9, 17, 33, ever
            more rarely, and every 250th in the end.
        gradients_every: when to record gradients; by default so, and every 100th in the end.
        budget: MB that the recording may take per 10,000 steps, a third of them early on. Where all
            that is due is more, it holds fewer records, and of wide layers evenly spaced channels;
            its summary says so. Networks of up to 3,000 channels keep every channel. None records
            all that is due. Each process has a budget of its own.
        after: go on with the recording at `path` after this step, at whose end it was flushed; what
            it holds later is dropped, and its budget stays as it was. For a training that resumes
            from a checkpoint.
        stream: of transformers and residual networks also record, at histogram steps, the residual
            stream (root mean square, largest value, kurtosis, share of the largest channel, cosine
            between tokens), the largest logit and the entropy of attentions, and how far a step
            moves each gain: see docs/watch.md.
        check: judge the training as it goes. "raise" raises a CheckError instead of warning, out of
            the optimizer's step() when the step is done, or out of close(): the model and the
            recording are whole, and the watcher goes on until it is closed. Without `optimizer`,
            the steps behind which it looks are those of the first optimizer that steps a parameter
            of the model, while the steps that are named remain forwards.
        sinks: what is told of new data at each flush, and of the end:
            `normscope.TensorBoard(folder)`, `normscope.WandB(project)`, or anything
            with `flushed(recording)` and `close()`. An error of theirs ends them with one warning,
            and not the training.

    Raises:
        InputError: for a model without normalization layers, a layer that is not there or watched
            already, something that is no optimizer, interval or budget, a path that exists, or
            another value of `check`.
        StorageError: if the file cannot be written. Later on, that is one warning, and the training
            goes on.
    """
    sinks = several("sinks", sinks)
    for sink in sinks:
        if not all(callable(getattr(sink, name, None)) for name in ("flushed", "close")):
            raise InputError(
                f"A sink has flushed(recording) and close(); {type(sink).__name__} has not."
            )
    with ExitStack() as begun:
        for sink in sinks:
            if isinstance(sink, WatcherSink):
                sink.begin(after)
                begun.callback(sink.close)
        watcher = attach(
            model,
            layers,
            Intervals(every, gradients_every, histograms_every),
            optimizer=optimizer,
            path=path,
            budget=budget,
            after=after,
            listeners=sinks,
            recording_type=Recording,
            stream=stream,
        )
        begun.pop_all()
    if check:
        _judge(watcher, model, optimizer, raises=check == "raise")
    return watcher


def _judge(watcher: Watcher, model: nn.Module, optimizer: Any, *, raises: bool) -> None:
    """Let a check listen, after the watcher's hooks, so that the step is recorded if it raises."""
    from normscope.commands.loop_check import LoopCheck

    loop = LoopCheck(model, optimizer, raises=raises, watcher=watcher)
    watcher.findings = loop.findings
    watcher.listen(loop)
