"""What `normscope explain` prints: one layer on one batch, step by step, and the price of forgetting eval()."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.records.explanation import ORDERS, Channel, Explanation, Forgotten
from normscope.show.arithmetic import (
    Step,
    batch_steps,
    describe_layer,
    memory_steps,
    number,
    seen,
    shown_channels,
    value_steps,
)
from normscope.show.figures.provenance import epochs_of
from normscope.show.terminal import percent

MAX_CHANNELS = 16
"""Channels that the table shows at most, the chosen one among them."""


def show(explanation: Explanation, console: Console) -> None:
    """Print an explanation: plain text where the console is no terminal."""
    _tensor(explanation, console)
    _channels(explanation, console)
    channel = explanation.chosen
    _steps(
        f"3. Channel {channel}: its statistics over the batch", batch_steps(explanation), console
    )
    _steps(
        f"4. Channel {channel}: one value through the layer, in train mode",
        value_steps(explanation),
        console,
    )
    _memory(explanation, console)
    _forgotten(explanation, console)


def _tensor(explanation: Explanation, console: Console) -> None:
    spec = explanation.meta["spec"]
    n, channels, height, width = explanation.x.shape
    _heading(f"1. {explanation.layer}: the tensor and its pooled axes", console)
    _say(
        f"{describe_layer(explanation)}, of {spec['model']} on {spec['data']} after {epochs_of(spec['epochs'])} of "
        f"training{seen(explanation)}.",
        console,
    )
    others = explanation.meta.get("other_layers", [])
    if others:
        _say(
            f"It is the first of {len(others) + 1} layers that were asked for; the next is {others[0]}.",
            console,
        )
    _say(
        f"x is [N, C, H, W] = [{n}, {channels}, {height}, {width}]: {n} images, {channels} channels of {height} x "
        f"{width} positions.\nEach channel is pooled over the axes 0 (images), 2 (rows) and 3 (columns): "
        f"{explanation.count:,} values give one mean and one variance.",
        console,
    )


def _channels(explanation: Explanation, console: Console) -> None:
    _heading(
        "2. Every channel: statistics of the batch, running statistics, weight and bias", console
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in (
        "channel",
        "mean",
        "variance",
        "running mean",
        "running variance",
        "weight",
        "bias",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    channels = explanation.x.shape[1]
    for index in shown_channels(channels, explanation.chosen, MAX_CHANNELS):
        chosen = index == explanation.chosen
        channel = explanation.channel(index)
        table.add_row(
            f"> {index}" if chosen else str(index),
            _short(channel.mean),
            _short(channel.var),
            *_updates(channel),
            "–" if explanation.weight is None else _short(channel.weight),
            "–" if explanation.bias is None else _short(channel.bias),
            style="bold cyan" if chosen else None,
        )
    console.print(table)
    if channels > MAX_CHANNELS:
        _say(f"{MAX_CHANNELS} of {channels} channels; explanation.sqlite holds all.", console)


def _updates(channel: Channel) -> tuple[str, str]:
    """Running mean and variance, before and after the batch."""
    if channel.running_before is None or channel.running_after is None:
        return "–", "–"
    pairs = zip(channel.running_before, channel.running_after, strict=True)
    mean, var = (f"{_short(before)} → {_short(after)}" for before, after in pairs)
    return mean, var


def _short(value: float) -> str:
    """Three decimals where they say something, else three digits."""
    text = f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.3g}"
    return text.replace("-", "−")


def _steps(title: str, steps: list[Step], console: Console) -> None:
    _heading(title, console)
    for step in steps:
        line = Text(f"  {step.name:<20}", style="bold")
        line.append(f"{step.formula}\n", style="not bold dim")
        line.append(f"  {'':<20}{step.numbers}", style="not bold")
        console.print(line, highlight=False, soft_wrap=True)


def _memory(explanation: Explanation, console: Console) -> None:
    steps = memory_steps(explanation)
    if steps:
        share = "momentum" if explanation.momentum is not None else "one over the number of batches"
        _steps(
            f"5. What the layer remembers ({share} {number(explanation.update_share)}), and eval mode",
            steps,
            console,
        )
        _say(
            "  The batch is normalized by its biased variance; the unbiased one goes into the running variance.",
            console,
        )
    else:
        _heading("5. What the layer remembers", console)
        _say(
            "  Nothing (track_running_stats=False): eval mode normalizes by the batch as well.",
            console,
        )
    _say(
        f"  PyTorch's own layer, in float32, gives the same to {explanation.disagreement:.1e} (outputs of both modes "
        "and buffers).",
        console,
    )


def _forgotten(explanation: Explanation, console: Console) -> None:
    forgotten = explanation.forgotten
    _heading("6. When eval() is forgotten: test accuracy in train mode", console)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch size", justify="right")
    for when in ("in train mode", "eval() after"):
        for order in ORDERS:
            table.add_column(f"{when},\n{order}", justify="right", no_wrap=True)
    for column, size in enumerate(forgotten.batch_sizes):
        tables = (forgotten.during, forgotten.afterwards)
        table.add_row(
            str(size),
            *(_spread(values[place, column]) for values in tables for place in range(len(ORDERS))),
        )
    console.print(table)
    _say(
        f"In eval mode: {percent(forgotten.eval_accuracy)}. All on the same {forgotten.images:,} test images; mean ± "
        f"standard deviation over {forgotten.during.shape[2]} orders of the images (batch size 1: one), one trained "
        f"network (seed {explanation.meta['spec']['seed']}).\n"
        "Class-ordered: images sorted by class, as a folder of images is read.",
        console,
    )
    if explanation.running_before is not None:
        _say(
            "After: the pass in train mode has moved the running statistics, and eval() does not bring them back.",
            console,
        )
    _refused(forgotten, console)


def _refused(forgotten: Forgotten, console: Console) -> None:
    sizes = [
        size
        for column, size in enumerate(forgotten.batch_sizes)
        if np.isnan(forgotten.during[:, column]).all()
    ]
    if sizes:
        _say(
            f"Not measured at batch size {', '.join(map(str, sizes))}: a batch has one value per channel in some "
            "layer, and PyTorch ends with an error.",
            console,
        )


def _spread(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return "–"
    std = f" ± {100 * known.std(ddof=1):.1f}" if len(known) > 1 else ""
    return percent(float(known.mean())) + std


def _heading(text: str, console: Console) -> None:
    console.print()
    console.print(Text(text, style="bold"), highlight=False, soft_wrap=True)


def _say(text: str, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
