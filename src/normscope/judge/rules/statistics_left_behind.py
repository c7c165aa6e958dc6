"""NS701: a copy whose weights moved and whose statistics did not."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, PairedLayer

MEAN_LIMIT, VAR_LIMIT = 0.25, 0.35
MERGED = 0.3


class StatisticsLeftBehind(Rule):
    """Of two models that should agree (an average, a target network, a merged or federated model),
    one has buffers that were not carried along: those of a new layer while the other's are trained,
    or far from the other's.

    Equal buffers under weights that differ by more than 30% are one model's, and not the average's.
    """

    code = "NS701"
    name = "statistics-left-behind"
    severity = "error"
    why = "parameters() has no buffers: an average of parameters keeps statistics of weights that are long gone."
    remedy = "Average or copy the buffers too (AveragedModel(use_buffers=True), state_dict), or recalibrate."
    mend = "normscope.mend.recalibrate"
    fine = "An average that runs in train mode and updates its own statistics; copies of close models: an info."
    reference = "https://github.com/CuriousAI/mean-teacher/issues/9"
    causes = ("E2", "E4", "E3")
    replaces = ("S23",)
    needs = "other"

    def applies(self, seen: Examination) -> bool:
        """Two models that share layers with statistics."""
        return seen.pair is None or any(
            layer.statistics_equal is not None for layer in seen.pair.layers
        )

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Layer by layer."""
        if seen.pair is None:
            return
        distance = seen.pair.weight_distance
        for layer in seen.pair.layers:
            if layer.statistics_equal is not None:
                yield from self._judge(layer, distance)

    def _judge(self, layer: PairedLayer, weights: float | None) -> Iterator[Finding]:
        if layer.at_initialization != layer.other_at_initialization:
            which = "here" if layer.at_initialization else "in the other model"
            message = (
                f"The statistics are those of a new layer {which}, and trained on the other side."
            )
            updates, others = layer.updates, layer.other_updates
            yield self.found(
                layer.name, message, updates=updates, other_updates=others, weights_apart=weights
            )
        elif layer.statistics_equal:
            if weights is not None and weights > MERGED:
                message = (
                    "The statistics are the other model's to the bit, the weights are far from its."
                )
                yield self.found(
                    layer.name, message, "warning", weights_apart=weights, limit=MERGED
                )
        elif _beyond(layer.mean_distance, MEAN_LIMIT) or _beyond(layer.var_distance, VAR_LIMIT):
            message = "The two models' statistics are far apart."
            mean, var = layer.mean_distance, layer.var_distance
            yield self.found(
                layer.name, message, "warning", means_apart=mean, limit=MEAN_LIMIT, log_var_apart=var,
                log_var_limit=VAR_LIMIT, weights_apart=weights,
            )  # fmt: skip


def _beyond(value: float | None, limit: float) -> bool:
    return value is not None and value > limit
