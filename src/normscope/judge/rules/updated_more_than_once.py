"""NS801: more than one update of the running statistics per optimizer step."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Examination, LayerHistory

LIMIT = 1.5
FEWEST_STEPS = 5  # so that a trial forward or two before the training do not count


class UpdatedMoreThanOnce(Rule):
    """A layer's statistics are updated more than once per optimizer step: a forward is repeated in
    backward (activation checkpointing), or several forwards precede the step (SAM, extra losses,
    attacks, real and fake batches).

    Several calls of the layer in one forward count once. k updates with momentum m weigh like one
    with 1 - (1 - m)^k. Gradient accumulation is told apart, where a forward is followed by its own
    backward and no weight moves in between, and so are steps that a gradient scaler skips.
    """

    code = "NS801"
    name = "updated-more-than-once"
    severity = "warning"
    why = "The averaging window shrinks, and statistics of other batches or other weights enter it."
    remedy = "Divide the momentum (1 - (1 - m)^(1/k)), or skip the update in the extra forwards."
    fine = "Designs that want every forward to count, such as separate real and fake batches."
    reference = "https://github.com/pytorch/pytorch/issues/96136"
    causes = ("G1", "G2", "H1", "F4")
    replaces = ("L01",)
    needs = "history"
    kinds = ()

    def find(self, seen: Examination) -> Iterator[Finding]:
        """Updates against steps, and where they came from."""
        history = seen.history
        for layer in history.layers if history is not None else ():
            if layer.steps >= FEWEST_STEPS and layer.updates is not None:
                yield from self._judge(layer, seen)

    def _judge(self, layer: LayerHistory, seen: Examination) -> Iterator[Finding]:
        updates = layer.updates or 0
        per_step = updates / layer.steps
        expected = 1.0 if seen.history is None else seen.history.expected(layer)
        if layer.updates_in_backward:
            repeated = layer.updates_in_backward / layer.steps
            message = (
                "The forward is repeated in backward (activation checkpointing), and counts again."
            )
            yield self.found(
                layer.name, message, updates_per_step=per_step, repeated=repeated, limit=1
            )
        elif per_step / expected >= LIMIT:
            message = "The statistics are updated several times per optimizer step."
            yield self.found(
                layer.name, message, updates_per_step=per_step, limit=LIMIT, expected=expected
            )
