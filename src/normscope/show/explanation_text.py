"""The text of `normscope explain`: one layer on one batch, step by step, and eval() forgotten."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from normscope.records.explanation import ORDERS, Channel, Explanation, Forgotten
from normscope.records.token_explanation import TokenExplanation
from normscope.show import token_arithmetic as tokens
from normscope.show.arithmetic import (
    Step,
    batch_steps,
    batches_text,
    describe_layer,
    memory_steps,
    number,
    shown_channels,
    value_steps,
)
from normscope.show.terminal import percent, say
from normscope.words import plural

MAX_CHANNELS = 16
"""Channels that the table shows at most, the chosen one among them."""

INDENT = 2 + 20
"""Columns before the numbers of a step: a margin and the step's name."""


def show(explanation: Explanation, console: Console) -> None:
    """Print an explanation: plain text where the console is no terminal."""
    _tensor(explanation, console)
    _channels(explanation, console)
    title = f"3. Channel {explanation.chosen}: its statistics over the batch"
    _steps(title, batch_steps(explanation), console)
    title = f"4. Channel {explanation.chosen}: one value through the layer, in train mode"
    _steps(title, value_steps(explanation), console)
    _memory(explanation, console)
    _forgotten(explanation, console)


def show_tokens(explanation: TokenExplanation, console: Console) -> None:
    """Print the explanation of a layer that takes every token by itself."""
    _heading(f"1. {explanation.layer}: the tensor and its pooled axis", console)
    say(console, tokens.describe_layer(explanation))
    _others(explanation, console)
    say(console, tokens.pooled_text(explanation))
    _heading("2. Tokens of the first sample, before and after the layer", console)
    _token_table(explanation, console)
    place = ", ".join(map(str, explanation.token))
    title = f"3. Token [{place}], and its value {explanation.channel} through the layer"
    _steps(title, [step for group in tokens.token_steps(explanation) for step in group], console)
    _heading("4. What is lost, and what stays", console)
    for sentence in tokens.losses(explanation):
        say(console, f"  {sentence}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("every token changed to", "largest change of the output", ""):
        table.add_column(name)
    for row in tokens.invariances(explanation):
        table.add_row(*row)
    console.print(table)
    _heading("5. Train mode, eval mode, and other samples", console)
    say(console, tokens.modes_text(explanation))


def _token_table(explanation: TokenExplanation, console: Console) -> None:
    """A row for each shown token beside the chosen one: its moments before and after."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("token", "mean", "root mean square", "output: mean", "root mean square"):
        table.add_column(name, justify="right", no_wrap=True)
    count, chosen = explanation.x.shape[-2], explanation.token[-1]
    x = explanation.x[explanation.token[:-1]]
    for index in shown_channels(count, chosen, MAX_CHANNELS):
        moments = [
            _short(float(value))
            for values in (x[index].astype(np.float64), explanation.output(x[index]))
            for value in (values.mean(), np.sqrt(np.square(values).mean()))
        ]
        mark = "> " if index == chosen else ""
        table.add_row(
            mark + escape(explanation.name_of(index)), *moments, style="bold cyan" if mark else None
        )
    console.print(table)
    if count > MAX_CHANNELS:
        say(console, f"{MAX_CHANNELS} of {count} tokens.")


def _others(explanation: Explanation | TokenExplanation, console: Console) -> None:
    others = explanation.meta.get("other_layers", [])
    if others:
        say(
            console,
            f"It is the first of {len(others) + 1} layers with that name; the next is {others[0]}.",
        )


def _tensor(explanation: Explanation, console: Console) -> None:
    spec = explanation.meta["spec"]
    n, channels, height, width = explanation.x.shape
    _heading(f"1. {explanation.layer}: the tensor and its pooled axes", console)
    say(
        console,
        f"{describe_layer(explanation)}, of {spec['model']} on {spec['data']} after "
        f"{plural(spec['epochs'], 'epoch')} of training{batches_text(explanation)}.",
    )
    _others(explanation, console)
    say(
        console,
        f"x is [N, C, H, W] = [{n}, {channels}, {height}, {width}]: {n} images, {channels} "
        f"channels of {height} x {width} positions.\nEach channel is pooled over the axes 0 "
        f"(images), 2 (rows) and 3 (columns): {explanation.count:,} values give one mean and one "
        "variance.",
    )


def _channels(explanation: Explanation, console: Console) -> None:
    _heading(
        "2. Every channel: statistics of the batch, running statistics, weight and bias", console
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in (
        "channel", "mean", "variance", "running mean", "running variance", "weight", "bias",
    ):  # fmt: skip
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
        say(console, f"{MAX_CHANNELS} of {channels} channels; explanation.sqlite holds all.")


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
        line = Text(f"  {step.name}".ljust(INDENT), style="bold")
        say(console, line.append(step.formula, style="not bold dim"))
        say(console, " " * INDENT + step.numbers)


def _memory(explanation: Explanation, console: Console) -> None:
    steps = memory_steps(explanation)
    if steps:
        share = "momentum" if explanation.momentum is not None else "one over the number of batches"
        kept = f"({share} {number(explanation.update_share)})"
        _steps(f"5. Running statistics {kept}, and eval mode", steps, console)
        say(
            console,
            "  The batch is normalized by its biased variance; the unbiased one goes into the "
            "running variance.",
        )
    else:
        _heading("5. Running statistics", console)
        say(
            console,
            "  None (track_running_stats=False): eval mode normalizes by the batch as well.",
        )
    say(
        console,
        f"  PyTorch's own layer, in float32, gives the same to {explanation.disagreement:.1e} "
        "(outputs of both modes and buffers).",
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
        cells = (_spread(of_order[column]) for values in tables for of_order in values)
        table.add_row(str(size), *cells)
    console.print(table)
    orders, seed = forgotten.during.shape[2], explanation.meta["spec"]["seed"]
    say(
        console,
        f"In eval mode: {percent(forgotten.eval_accuracy)}. All on the same {forgotten.images:,} "
        f"test images; mean ± standard deviation over {orders} orders of the images (batch size 1: "
        f"one), one trained network (seed {seed}).\n"
        "Class-ordered: images sorted by class, as a folder of images is read.",
    )
    if forgotten.batch_sizes[-1] >= forgotten.images:
        say(
            console,
            f"What is lost with all {forgotten.images:,} in one batch is not the noise of a small "
            "one: they are not augmented, as those were on which the network was trained.",
        )
    if explanation.running_before is not None:
        say(
            console,
            "After: the pass in train mode has moved the running statistics, and eval() does not "
            "bring them back.",
        )
    _refused(forgotten, console)


def _refused(forgotten: Forgotten, console: Console) -> None:
    sizes = [
        str(size)
        for column, size in enumerate(forgotten.batch_sizes)
        if np.isnan(forgotten.during[:, column]).all()
    ]
    if sizes:
        say(
            console,
            f"Not measured at batch size {', '.join(sizes)}: a batch has one value per channel in "
            "some layer, and PyTorch raises an error.",
        )


def _spread(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return "–"
    std = f" ± {100 * finite.std(ddof=1):.1f}" if len(finite) > 1 else ""
    return percent(float(finite.mean())) + std


def _heading(text: str, console: Console) -> None:
    console.print()
    say(console, text, "bold")
