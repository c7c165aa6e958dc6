"""The training of a run once more, to look at what happens on its way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from normscope.models.landmarks import Network
from normscope.studies.measurements.run_context import Subject
from normscope.studies.runner import plan_of
from normscope.training.loop import Callback, train


class Progress(Callback):
    """Tells the measurement's progress, epoch by epoch."""

    def __init__(self, subject: Subject):
        self._subject = subject

    def on_epoch_start(self, epoch: int) -> None:
        """As in `Callback`."""
        self._subject.advance((epoch - 1) / self._subject.spec.epochs)


def retrain(subject: Subject, model: Network, callbacks: Sequence[Callback]) -> None:
    """Train a fresh network of the run's, with the run's settings and images, in fp32 on the CPU."""
    plan = dataclasses.replace(plan_of(subject.spec), device="cpu", precision="fp32")
    train(model, subject.batches(augmented=True), plan, callbacks=[Progress(subject), *callbacks])
