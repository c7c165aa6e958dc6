"""NS211: a tracking flag that does not fit the buffers."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer


class TrackingSwitchedOff(Rule):
    """track_running_stats and the buffers disagree: the flag was changed after the layer was made."""

    code = "NS211"
    name = "tracking-switched-off"
    severity = "warning"
    kinds = ("batch", "instance")
    why = "With the flag off and buffers there, updates stop, but eval mode still uses the old statistics."
    remedy = (
        "Make the layer anew with the flag that is meant, or set the buffers to None along with it."
    )
    fine = "A deliberate freeze of the statistics; eval mode says so more clearly."
    reference = "https://github.com/pytorch/pytorch/blob/main/torch/nn/modules/batchnorm.py"
    causes = ("J1", "F2")
    replaces = ("S09",)

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """The flag against the buffers."""
        if layer.tracks is None or layer.tracks == layer.tracked:
            return
        message = (
            "track_running_stats is off, but the layer has running statistics: eval mode uses them, training does not."
            if layer.tracked
            else "track_running_stats is on, but there are no running statistics."
        )
        yield self.found(
            layer.name, message, track_running_stats=layer.tracks, buffers=layer.tracked
        )
