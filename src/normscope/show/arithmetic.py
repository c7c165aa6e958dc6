"""The arithmetic of one channel, line by line with its numbers: what the terminal and the figure both show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normscope.judge.timeline import evenly_spread
from normscope.records.explanation import Channel, Explanation


@dataclass(frozen=True)
class Step:
    """One step: its name, the formula, and the same with the channel's numbers."""

    name: str
    formula: str
    numbers: str


def number(value: float, digits: int = 5) -> str:
    """A number with so many significant digits and a real minus sign."""
    if 10**digits <= abs(value) < 10**7:
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{digits}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return text.replace("-", "−")


def describe_layer(explanation: Explanation) -> str:
    """The layer as PyTorch would write it."""
    momentum = (
        "None (plain average)" if explanation.momentum is None else number(explanation.momentum)
    )
    return f"{explanation.layer_type}({explanation.x.shape[1]}), eps {number(explanation.eps)}, momentum {momentum}"


def seen(explanation: Explanation) -> str:
    """How many batches the running statistics are of; empty where there are none."""
    return (
        "" if explanation.running_before is None else f" ({explanation.batches_before:,} batches)"
    )


def shown_channels(channels: int, chosen: int, most: int) -> list[int]:
    """At most so many channels, evenly spread, the chosen one among them, in order."""
    spread = evenly_spread(channels, most)
    if chosen not in spread:
        spread[int(np.argmin([abs(place - chosen) for place in spread]))] = chosen
    return spread


def chosen_place(explanation: Explanation) -> tuple[int, int, int]:
    """(image, row, column) of the value that is followed: the middle of the first image."""
    _, _, height, width = explanation.x.shape
    return 0, height // 2, width // 2


def batch_steps(explanation: Explanation) -> list[Step]:
    """From the values of the chosen channel to its statistics."""
    channel = explanation.channel(explanation.chosen)
    n, _, height, width = explanation.x.shape
    m = f"{explanation.count:,}"
    total, squares = channel.x.sum(), ((channel.x - channel.mean) ** 2).sum()
    return [
        Step("values pooled", "m = N · H · W", f"{n} · {height} · {width} = {m}"),
        Step("mean", "Σ x / m", f"{number(total)} / {m} = {number(channel.mean)}"),
        Step(
            "variance, biased",
            "Σ (x − mean)² / m",
            f"{number(squares)} / {m} = {number(channel.var)}",
        ),
    ]


def value_steps(explanation: Explanation) -> list[Step]:
    """One value on its way through the layer in train mode."""
    channel = explanation.channel(explanation.chosen)
    place = chosen_place(explanation)
    x, normalized, output = (
        float(part[place]) for part in (channel.x, channel.normalized, channel.output)
    )
    where = f"x[{place[0]}, {channel.index}, {place[1]}, {place[2]}]"
    return [
        Step("one value", where, number(x)),
        Step(
            "normalized",
            "(x − mean) / √(variance + eps)",
            f"({number(x)} − {_signed(channel.mean)}) / √({number(channel.var)} + {number(channel.eps)}) = "
            f"{number(normalized)}",
        ),
        Step(
            "output",
            "weight · normalized + bias",
            f"{number(channel.weight)} · {_signed(normalized)} + {_signed(channel.bias)} = {number(output)}",
        ),
    ]


def memory_steps(explanation: Explanation) -> list[Step]:
    """The update of the running statistics, and the same value in eval mode. Empty where nothing is
    remembered.
    """
    channel = explanation.channel(explanation.chosen)
    if channel.running_before is None or channel.running_after is None:
        return []
    (mean, var), (new_mean, new_var) = channel.running_before, channel.running_after
    share, m = explanation.update_share, explanation.count
    kept, name = _shares(explanation)
    return [
        Step("running mean", f"(1 − {name}) · old + {name} · mean",
             f"{kept} · {_signed(mean)} + {number(share)} · {_signed(channel.mean)} = {number(new_mean)}"),
        Step("variance, unbiased", "variance · m / (m − 1)",
             f"{number(channel.var)} · {m:,} / {m - 1:,} = {number(channel.unbiased_var)}"),
        Step("running variance", f"(1 − {name}) · old + {name} · unbiased",
             f"{kept} · {number(var)} + {number(share)} · {number(channel.unbiased_var)} = {number(new_var)}"),
        _eval_step(explanation, channel),
    ]  # fmt: skip


def step_groups(explanation: Explanation) -> list[list[Step]]:
    """All steps: of the batch, of one value, and of what is remembered."""
    return [batch_steps(explanation), value_steps(explanation), memory_steps(explanation)]


def _eval_step(explanation: Explanation, channel: Channel) -> Step:
    mean, var = channel.eval_moments
    place = chosen_place(explanation)
    return Step(
        "output in eval mode",
        "weight · (x − running mean) / √(running variance + eps) + bias",
        f"{number(channel.weight)} · ({number(float(channel.x[place]))} − {_signed(mean)}) / √({number(var)} + "
        f"{number(channel.eps)}) + {_signed(channel.bias)} = {number(float(channel.eval_output[place]))}",
    )


def _shares(explanation: Explanation) -> tuple[str, str]:
    """What is kept of the old value, as a number, and the name of what is taken of the new one."""
    share = explanation.update_share
    if explanation.momentum is None:
        return number(1 - share), "1/batches"
    return number(1 - share), "momentum"


def _signed(value: float) -> str:
    """A number behind an operator: negative ones in parentheses."""
    return f"({number(value)})" if value < 0 else number(value)
