"""The arithmetic of one channel, line by line with its numbers, for the terminal and the figure."""

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
    """Return a number with so many significant digits and a real minus sign."""
    if 10**digits <= abs(value) < 10**7:
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{digits}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return text.replace("-", "−")


def describe_layer(explanation: Explanation) -> str:
    """Return the layer as PyTorch would write it."""
    momentum = explanation.momentum
    average = "None (plain average)" if momentum is None else number(momentum)
    channels, eps = explanation.x.shape[1], number(explanation.eps)
    return f"{explanation.layer_type}({channels}), eps {eps}, momentum {average}"


def batches_text(explanation: Explanation) -> str:
    """Return the number of batches in the running statistics; empty where there are none."""
    if explanation.running_before is None:
        return ""
    return f" ({explanation.batches_before:,} batches)"


def shown_channels(channels: int, chosen: int, most: int) -> list[int]:
    """Return at most so many channels, evenly spread, the chosen one among them, in order."""
    spread = evenly_spread(channels, most)
    if chosen not in spread:
        spread[int(np.argmin([abs(index - chosen) for index in spread]))] = chosen
    return spread


def followed_value(explanation: Explanation) -> tuple[int, int, int]:
    """Return (image, row, column) of the value that is followed: the middle of the first image."""
    _, _, height, width = explanation.x.shape
    return 0, height // 2, width // 2


def batch_steps(explanation: Explanation) -> list[Step]:
    """Return the steps from the values of the chosen channel to its statistics."""
    channel = explanation.channel(explanation.chosen)
    n, _, height, width = explanation.x.shape
    product = f"{n} · {height} · {width} = {explanation.count:,}"
    pooled = Step("values pooled", "m = N · H · W", product)
    return [pooled, *moment_steps(channel.x, channel.mean, channel.var)]


def moment_steps(x: np.ndarray, mean: float, square: float, *, centred: bool = True) -> list[Step]:
    """Return the steps from pooled values to their mean and biased variance; where no mean is
    subtracted (it is 0) to their mean square.
    """
    m, total = f"{x.size:,}", number(((x - mean) ** 2).sum())
    if not centred:
        return [Step("mean square", "Σ x² / m", f"{total} / {m} = {number(square)}")]
    return [
        Step("mean", "Σ x / m", f"{number(x.sum())} / {m} = {number(mean)}"),
        Step("variance, biased", "Σ (x − mean)² / m", f"{total} / {m} = {number(square)}"),
    ]


def value_steps(explanation: Explanation) -> list[Step]:
    """Return the steps of one value through the layer in train mode."""
    channel, index = explanation.channel(explanation.chosen), followed_value(explanation)
    x, normalized, output = (
        float(part[index]) for part in (channel.x, channel.normalized, channel.output)
    )
    image, row, column = index
    affine = channel.weight, normalized, channel.bias, output
    return [
        Step("one value", f"x[{image}, {channel.index}, {row}, {column}]", number(x)),
        normalized_step(x, channel.mean, channel.var, channel.eps, normalized),
        output_step("weight · normalized + bias", *affine),
    ]


def normalized_step(
    x: float, mean: float, square: float, eps: float, result: float, *, centred: bool = True
) -> Step:
    """Return the step of a value through a normalization, as `moment_steps` has its moments."""
    formula, left = "(x − mean) / √(variance + eps)", f"({number(x)} − {signed(mean)})"
    if not centred:
        formula, left = "x / √(mean square + eps)", signed(x)
    root = f"√({number(square)} + {number(eps)})"
    return Step("normalized", formula, f"{left} / {root} = {number(result)}")


def output_step(formula: str, gain: float, normalized: float, bias: float, output: float) -> Step:
    """Return the step of a normalized value to the layer's output."""
    numbers = f"{number(gain)} · {signed(normalized)} + {signed(bias)} = {number(output)}"
    return Step("output", formula, numbers)


def memory_steps(explanation: Explanation) -> list[Step]:
    """Return the update of the running statistics, and the same value in eval mode; empty where
    the layer has no running statistics.
    """
    channel = explanation.channel(explanation.chosen)
    if channel.running_before is None or channel.running_after is None:
        return []
    (mean, var), (new_mean, new_var) = channel.running_before, channel.running_after
    m, share = explanation.count, number(explanation.update_share)
    kept = number(1 - explanation.update_share)
    name = "1/batches" if explanation.momentum is None else "momentum"
    return [
        Step(
            "running mean", f"(1 − {name}) · old + {name} · mean",
            f"{kept} · {signed(mean)} + {share} · {signed(channel.mean)} = {number(new_mean)}",
        ),
        Step(
            "variance, unbiased", "variance · m / (m − 1)",
            f"{number(channel.var)} · {m:,} / {m - 1:,} = {number(channel.unbiased_var)}",
        ),
        Step(
            "running variance", f"(1 − {name}) · old + {name} · unbiased",
            f"{kept} · {number(var)} + {share} · {number(channel.unbiased_var)} = "
            f"{number(new_var)}",
        ),
        _eval_step(channel, followed_value(explanation)),
    ]  # fmt: skip


def step_groups(explanation: Explanation) -> list[list[Step]]:
    """Return all steps: of the batch, of one value, and of the running statistics."""
    return [batch_steps(explanation), value_steps(explanation), memory_steps(explanation)]


def _eval_step(channel: Channel, index: tuple[int, int, int]) -> Step:
    mean, var = channel.eval_moments
    return Step(
        "output in eval mode",
        "weight · (x − old running mean) / √(old running variance + eps) + bias",
        f"{number(channel.weight)} · ({number(float(channel.x[index]))} − {signed(mean)}) / "
        f"√({number(var)} + {number(channel.eps)}) + {signed(channel.bias)} = "
        f"{number(float(channel.eval_output[index]))}",
    )


def signed(value: float) -> str:
    """A number behind an operator: negative ones in parentheses."""
    return f"({number(value)})" if value < 0 else number(value)
