"""The difference of two models: the first layer to differ, and a table of those that do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from normscope.escapes import for_terminal
from normscope.judge.check_formats import filled, text_width
from normscope.judge.rule import FAR_LOG_VAR, FAR_MEAN
from normscope.records.examination import Pair, PairedLayer
from normscope.words import plural

FAR_GAINS = 0.1
"""Relative distance from which weights and biases differ where statistics are compared, too."""


@dataclass(frozen=True, eq=False)
class Difference:
    """Two models or checkpoints side by side. It is true if they differ."""

    pair: Pair
    good: str = "good"
    bad: str = "bad"

    def __bool__(self) -> bool:
        return bool(self.differing or self.pair.only_here or self.pair.only_there)

    @property
    def differing(self) -> tuple[PairedLayer, ...]:
        """The layers whose statistics, class or eps differ, in the model's order."""
        return tuple(layer for layer in self.pair.layers if _differs(layer))

    def text(self) -> str:
        """Return the first difference, and a table of the layers that are not equal."""
        shown = [layer for layer in self.pair.layers if not _is_equal(layer)]
        equal = len(self.pair.layers) - len(shown)
        blocks = [self._sentence()]
        for names, where in ((self.pair.only_here, self.bad), (self.pair.only_there, self.good)):
            if names:
                blocks.append(f"Only in {where}: {', '.join(names)}.")
        if shown:
            blocks.append(
                f"How far {self.bad} is from {self.good}: running means in standard deviations, "
                "running variances in ln, weight and bias relative to their size. A star is beyond "
                "the limits."
            )
        lines = [filled(block, text_width()) for block in blocks]
        if shown:
            lines += ["", *_table(shown)]
        if shown and equal:
            lines += ["", f"{plural(equal, 'equal layer')} not shown."]
        return for_terminal("\n".join(lines))

    def json(self) -> str:
        """Return everything that is known of the pair, as JSON."""
        names = {"good": self.good, "bad": self.bad, "differs": bool(self)}
        return json.dumps({**names, **asdict(self.pair)}, indent=2)

    def _sentence(self) -> str:
        if not self.pair.layers:
            return "They share no normalization layer."
        weights = self.pair.weight_distance
        others = "" if weights is None else f" Their other weights differ by {weights:.2g}."
        if not self.differing:
            return f"No shared normalization layer differs by more than the limits.{others}"
        if offsets := sum(layer.gain_offset is not None for layer in self.pair.layers):
            others += (
                f" The weights of {offsets} layers differ by exactly one: one of the two stores "
                "them as their distance from one, for 1 + weight."
            )
        first, of = self.differing[0].name, len(self.pair.layers)
        are = "are" if len(self.differing) > 1 else "is"
        number = f"{len(self.differing)} of {of} shared layers {are} beyond the limits"
        return f"First difference: {first}; {number}.{others}"


def _differs(layer: PairedLayer) -> bool:
    """Tell whether a layer's statistics, class or eps differ by more than `check` accepts; without
    statistics, whether its weight or bias differs at all.
    """
    far = (layer.mean_distance or 0) > FAR_MEAN or (layer.var_distance or 0) > FAR_LOG_VAR
    # Without a distance, values that are not equal hold NaN or are of different widths.
    unknown = layer.statistics_equal is False and layer.mean_distance is None
    apart = (layer.gains_distance or 0) > FAR_GAINS or layer.gain_offset is not None
    gains = layer.affine_equal is False and (layer.statistics_equal is None or apart)
    classes = bool(layer.type and layer.other_type) and layer.type != layer.other_type
    return far or unknown or gains or classes or layer.eps != layer.other_eps


def _is_equal(layer: PairedLayer) -> bool:
    """Tell whether nothing is known to set a layer apart, not even within the limits."""
    return not (
        _differs(layer)
        or layer.mean_distance
        or layer.var_distance
        or layer.statistics_equal is False
        or layer.affine_equal is False
        or layer.updates != layer.other_updates
    )


def _table(layers: list[PairedLayer]) -> list[str]:
    """A line per layer, columns as wide as they must be."""
    rows = [
        ("", "layer", "mean apart", "var apart", "weight apart", "updates", "eps"),
        *map(_cells, layers),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{row[i]:{'<' if i < 2 else '>'}{widths[i]}}" for i in range(len(row))).rstrip()
        for row in rows
    ]


def _cells(layer: PairedLayer) -> tuple[str, ...]:
    mean = "-" if layer.mean_distance is None else f"{layer.mean_distance:.3g}"
    var = "-" if layer.var_distance is None else f"{layer.var_distance:.3g}"
    gains = "-" if layer.gains_distance is None else f"{layer.gains_distance:.3g}"
    if layer.gain_offset is not None:
        gains = f"{-layer.gain_offset:+.0f}"
    if layer.gain_sizes is not None:
        here, there = layer.gain_sizes
        gains = f"{there} / {here} values"
    same = layer.updates == layer.other_updates
    updates = "same" if same else f"{_or_dash(layer.other_updates)} / {_or_dash(layer.updates)}"
    eps = "same" if layer.eps == layer.other_eps else f"{layer.other_eps} / {layer.eps}"
    return "*" if _differs(layer) else " ", layer.name, mean, var, gains, updates, eps


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
