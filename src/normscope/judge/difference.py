"""Where two models' normalization layers part: a table, layer by layer, from a record of the pair."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from normscope.records.examination import Pair, PairedLayer

MEAN_LIMIT, VAR_LIMIT = 0.25, 0.35
"""From here on statistics are said to part: those of `check`, far above what a running average's
noise makes.
"""


@dataclass(frozen=True, eq=False)
class Difference:
    """Two models or checkpoints side by side. It is true if they part."""

    pair: Pair
    good: str = "good"
    bad: str = "bad"

    def __bool__(self) -> bool:
        return bool(self.parted or self.pair.only_here or self.pair.only_there)

    @property
    def parted(self) -> tuple[PairedLayer, ...]:
        """The layers whose statistics, class or eps differ, in the model's order."""
        return tuple(layer for layer in self.pair.layers if _parts(layer))

    def text(self) -> str:
        """The table, and in a sentence where it begins."""
        width = max([len("layer"), *(len(layer.name) for layer in self.pair.layers)])
        lines = [
            f"  {'layer':<{width}}  means apart (sd)  ln var apart  updates {self.good} / {self.bad}  eps"
        ]
        lines += [_row(layer, width) for layer in self.pair.layers]
        for names, where in ((self.pair.only_here, self.bad), (self.pair.only_there, self.good)):
            if names:
                lines.append(f"Only in {where}: {', '.join(names)}.")
        return "\n".join([*lines, self._sentence()])

    def json(self) -> str:
        """Everything that is known of the pair."""
        return json.dumps(
            {"good": self.good, "bad": self.bad, "differs": bool(self), **asdict(self.pair)},
            indent=2,
        )

    def _sentence(self) -> str:
        if not self.pair.layers:
            return "They share no normalization layer with running statistics."
        weights = self.pair.weight_distance
        apart = (
            "" if weights is None else f" Their other weights are {weights:.2g} apart (relative)."
        )
        if not self.parted:
            return f"No layer's statistics part.{apart}"
        n, of = len(self.parted), len(self.pair.layers)
        return f"They part at {self.parted[0].name}: {n} of {of} shared layers are beyond the limits (*).{apart}"


def _parts(layer: PairedLayer) -> bool:
    far = (layer.mean_distance or 0) > MEAN_LIMIT or (layer.var_distance or 0) > VAR_LIMIT
    # A distance that could not be taken, of values that are not equal, is one of NaN or of
    # different widths.
    unknown = layer.statistics_equal is False and layer.mean_distance is None
    known_types = bool(layer.type and layer.other_type) and layer.type != layer.other_type
    return far or unknown or known_types or layer.eps != layer.other_eps


def _row(layer: PairedLayer, width: int) -> str:
    mean = "-" if layer.mean_distance is None else f"{layer.mean_distance:.3g}"
    var = "-" if layer.var_distance is None else f"{layer.var_distance:.3g}"
    updates = f"{_or_dash(layer.other_updates)} / {_or_dash(layer.updates)}"
    eps = "" if layer.eps == layer.other_eps else f"{layer.other_eps} / {layer.eps}"
    mark = "*" if _parts(layer) else " "
    return f"{mark} {layer.name:<{width}}  {mean:>16}  {var:>12}  {updates:>20}  {eps}".rstrip()


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
