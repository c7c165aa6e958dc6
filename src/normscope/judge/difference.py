"""The difference of two models: a table of their normalization layers, and the first to differ."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from normscope.judge.rule import FAR_LOG_VAR, FAR_MEAN
from normscope.records.examination import Pair, PairedLayer


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
        """Return the table, and a sentence on the first difference."""
        width = max([len("layer"), *(len(layer.name) for layer in self.pair.layers)])
        lines = [
            f"  {'layer':<{width}}  means apart (sd)  ln var apart  "
            f"updates {self.good} / {self.bad}  eps"
        ]
        lines += [_row(layer, width) for layer in self.pair.layers]
        for names, where in ((self.pair.only_here, self.bad), (self.pair.only_there, self.good)):
            if names:
                lines.append(f"Only in {where}: {', '.join(names)}.")
        return "\n".join([*lines, self._sentence()])

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
            return f"No shared layer differs.{others}"
        first, of = self.differing[0].name, len(self.pair.layers)
        number = f"{len(self.differing)} of {of} shared layers are beyond the limits (*)"
        return f"First difference: {first}; {number}.{others}"


def _differs(layer: PairedLayer) -> bool:
    """Tell whether a layer's statistics, class or eps differ by more than `check` accepts; without
    statistics, whether its weight or bias differs at all.
    """
    far = (layer.mean_distance or 0) > FAR_MEAN or (layer.var_distance or 0) > FAR_LOG_VAR
    # Without a distance, values that are not equal hold NaN or are of different widths.
    unknown = layer.statistics_equal is False and layer.mean_distance is None
    gains = layer.statistics_equal is None and layer.affine_equal is False
    classes = bool(layer.type and layer.other_type) and layer.type != layer.other_type
    return far or unknown or gains or classes or layer.eps != layer.other_eps


def _row(layer: PairedLayer, width: int) -> str:
    mean = "-" if layer.mean_distance is None else f"{layer.mean_distance:.3g}"
    var = "-" if layer.var_distance is None else f"{layer.var_distance:.3g}"
    updates = f"{_or_dash(layer.other_updates)} / {_or_dash(layer.updates)}"
    eps = "" if layer.eps == layer.other_eps else f"{layer.other_eps} / {layer.eps}"
    mark = "*" if _differs(layer) else " "
    return f"{mark} {layer.name:<{width}}  {mean:>16}  {var:>12}  {updates:>20}  {eps}".rstrip()


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
