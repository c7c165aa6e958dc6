"""NS606: DistributedDataParallel overwrites buffers between two forwards of one backward."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import NEEDS, Rule, has_live_batch_norm
from normscope.records.examination import Examination

LIMIT = 1.5


class BuffersBroadcast(Rule):
    """The model is wrapped in DistributedDataParallel, which broadcasts buffers, and runs several
    forwards per step.
    """

    code = "NS606"
    name = "buffers-broadcast"
    severity = "error"
    why = "Every forward overwrites the buffers in place, which the backward of the one before needs: it raises."
    remedy = "Join the inputs in one forward, use SyncBatchNorm, or broadcast_buffers=False."
    mend = "normscope.mend.convert"
    fine = "One forward per backward, as usual; accumulated batches, each with its own backward."
    reference = "https://github.com/pytorch/pytorch/issues/175024"
    causes = ("C2",)
    replaces = ("S15",)

    def applies(self, seen: Examination) -> bool:
        """The wrapper broadcasts buffers that batch normalization updates."""
        return bool(seen.broadcasts_buffers) and has_live_batch_norm(seen)

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Updates per step, beyond accumulation."""
        history = seen.history
        if history is None:
            yield self.undecided(NEEDS["history"])
            return
        shares = [
            (layer.updates or 0) / max(layer.steps, 1) / history.expected(layer)
            for layer in history.layers
        ]
        if (per_step := max(shares, default=0.0)) >= LIMIT:
            message = "Several forwards per step run through a wrapper that broadcasts the buffers before each."
            yield self.found("", message, forwards_per_step=per_step, limit=LIMIT)
