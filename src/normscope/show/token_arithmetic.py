"""The arithmetic and the properties of a layer that takes every token by itself, in words."""

from __future__ import annotations

import numpy as np

from normscope.records.token_explanation import CENTRED, CHANGES, TokenExplanation
from normscope.show.arithmetic import (
    Step,
    moment_steps,
    normalized_step,
    number,
    output_step,
    signed,
)
from normscope.words import plural

TITLES = {
    "layer": "Layer normalization",
    "rms": "RMS normalization",
    "tanh": "Dynamic tanh",
    "erf": "Dynamic erf",
}

_AXES = {3: ("N", "T", "C"), 4: ("N", "heads", "T", "C")}


def describe_layer(explanation: TokenExplanation) -> str:
    """Return the layer as PyTorch would write it, with where it was found."""
    spec = explanation.meta["spec"]
    eps = f", eps {number(explanation.eps)}" if explanation.kind in CENTRED else ""
    return (
        f"{explanation.layer_type}({explanation.width}){eps}, of {spec['model']} on {spec['data']} "
        f"after {plural(spec['epochs'], 'epoch')} of training."
    )


def pooled_text(explanation: TokenExplanation) -> str:
    """Say which axis is normalized, and what has no part in it."""
    shape = explanation.x.shape
    axes = ", ".join(_AXES.get(len(shape), ("N", *["*"] * (len(shape) - 2), "C")))
    head = f"x is [{axes}] = {list(shape)}: {explanation.tokens:,} tokens of {explanation.width} "
    if explanation.kind not in CENTRED:
        return f"{head}values. Nothing is pooled: every value goes through one function by itself."
    what = "one mean and one variance" if CENTRED[explanation.kind] else "one mean square"
    return (
        f"{head}values. Each token is pooled over the last axis alone: its {explanation.width} "
        f"values give {what}. No other token and no other sample has a part in it."
    )


def token_steps(explanation: TokenExplanation) -> list[list[Step]]:
    """Return the steps of the chosen token: its statistics, and one value through the layer."""
    statistics = _statistics(explanation) if explanation.kind in CENTRED else []
    return [group for group in (statistics, _value(explanation)) if group]


def _statistics(explanation: TokenExplanation) -> list[Step]:
    centred = CENTRED[explanation.kind]
    pooled = Step("values pooled", "m = C", f"{explanation.width:,}")
    return [pooled, *moment_steps(explanation.values, *_moments(explanation), centred=centred)]


def _moments(explanation: TokenExplanation) -> tuple[float, float]:
    """What is subtracted from the chosen token's values, and the mean square of what is left."""
    x = explanation.values
    return float(explanation.subtracted(x)[0]), float(explanation.divided(x)[0])


def _value(explanation: TokenExplanation) -> list[Step]:
    at = explanation.channel
    x, value = explanation.values, float(explanation.values[at])
    normalized = float(explanation.normalized(x)[at])
    gain = 1.0 if explanation.gain is None else float(explanation.gain[at])
    bias = 0.0 if explanation.bias is None else float(explanation.bias[at])
    place = ", ".join(map(str, (*explanation.token, at)))
    stored = " (1 + the stored weight)" if explanation.gain_is_offset else ""
    formula = f"gain · {inner_word(explanation)} + bias{stored}"
    return [
        Step("one value", f"x[{place}]", number(value)),
        _function(explanation, value, normalized),
        output_step(formula, gain, normalized, bias, float(explanation.output(x)[at])),
    ]


def inner_word(explanation: TokenExplanation) -> str:
    """Return what the values are called between the layer's function and its gain."""
    return "normalized" if explanation.kind in CENTRED else "bent"


def _function(explanation: TokenExplanation, value: float, result: float) -> Step:
    if explanation.kind in CENTRED:
        moments, centred = _moments(explanation), CENTRED[explanation.kind]
        return normalized_step(value, *moments, explanation.eps, result, centred=centred)
    shift = explanation.kind == "erf"
    shown = f"{number(explanation.alpha)} · {signed(value)}"
    shown += f" + {signed(explanation.shift)}" if shift else ""
    formula = f"{explanation.kind}(alpha · x{' + shift' if shift else ''})"
    return Step("bent", formula, f"{explanation.kind}({shown}) = {number(result)}")


def losses(explanation: TokenExplanation) -> list[str]:
    """Say what of a token is lost and what stays, with the batch's numbers."""
    x = explanation.x.astype(np.float64)
    output = explanation.normalized(x)
    roots = np.sqrt(np.square(x).mean(-1))
    before, sizes = _range(roots), _range(np.sqrt(np.square(output).mean(-1)))
    if explanation.kind not in CENTRED:
        bent = np.abs(explanation.alpha * x + explanation.shift) > 1
        return [
            "Stays, where values are small: mean and scale of a token, as its values go through a "
            f"line of slope alpha = {number(explanation.alpha, 3)}. Tokens' root mean squares of "
            f"{before} become {sizes}.",
            f"Lost: how far large values lie out. {100 * bent.mean():.1f}% of the values are "
            "beyond 1 after alpha, where the function bends; no output is beyond the gain plus "
            "the bias.",
        ]
    mean = np.square(x.mean(-1)) / np.square(x).mean(-1)
    share = f"on average {100 * mean.mean():.1f}% of a token's mean square is that of its mean"
    kept = "is subtracted, so it is lost" if CENTRED[explanation.kind] else "stays in"
    return [
        f"Lost: the scale. Tokens' root mean squares of {before} become {sizes}.",
        f"The mean {kept}: {share}.",
        "Stays: the direction, the proportions of a token's values to each other"
        + (" after the mean is subtracted." if CENTRED[explanation.kind] else "."),
    ]


def _range(values: np.ndarray) -> str:
    ends = [number(float(end), 3) for end in (values.min(), values.max())]
    return " to ".join(dict.fromkeys(ends))


def invariances(explanation: TokenExplanation) -> list[tuple[str, str, str]]:
    """Return rows (change of every token, largest change of the output before gain and bias, and
    in words what holds).
    """
    rows = []
    for change in CHANGES:
        moved = number(explanation.moved(change), 2)
        rows.append((change, moved, _holds(explanation, change)))
    return rows


def _holds(explanation: TokenExplanation, change: str) -> str:
    undone = change != "x + 1" or CENTRED.get(explanation.kind)
    if explanation.kind not in CENTRED or not undone:
        return "another output"
    if change == "x + 1":
        return "the same output, but for rounding"
    if not explanation.eps_matters:
        return "the same output, but for eps"
    return f"the same output, but for eps; with eps = 0 {number(explanation.moved(change, 0), 2)}"


def modes_text(explanation: TokenExplanation) -> str:
    """Say that both modes are one, as measured on PyTorch's own layer."""
    return (
        "Train and eval mode are the same: there are no running statistics. Largest difference of "
        f"the outputs in both: {number(explanation.between_modes, 2)}; of a sample alone and in "
        f"its batch: {number(explanation.alone, 2)}. PyTorch's own layer, in float32, gives what "
        f"is worked out here to {explanation.disagreement:.1e}."
    )
