"""NS501: running statistics that are not those of the batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normscope.judge.findings import Finding, Undecided
from normscope.judge.rule import Rule, high
from normscope.judge.rules.train_eval_gap import harm
from normscope.records.examination import Examination, Layer, Measured

MEAN_WARNING, VAR_WARNING = 0.25, 0.35
MEAN_LARGE, VAR_LARGE = 0.75, 1.0
NOISE_FACTOR = 5.0


class StatisticsDisagree(Rule):
    """Running mean and variance are far from the statistics of the batches that were given.

    z = |running_mean - mean| / sqrt(var + eps) and l = |ln((running_var + eps) / (var + eps))|, 95%
    quantile over the channels. A running average with momentum m over batches of N samples has the
    noise floor sd(z)^2 = m / (2 - m) Var(batch mean) / var, measured from the spread of samples
    within batches, and likewise for l; the K batches given add 1/K. Reported above five floors, and
    above z 0.25 or l 0.35. An error where both are large and the outputs suffer.
    """

    code = "NS501"
    name = "statistics-disagree"
    severity = "error"
    why = "Evaluation normalizes with the wrong numbers, often without a visible loss of accuracy until data changes."
    remedy = "Recalibrate: reset, momentum=None, and 50 to 200 training batches."
    mend = "normscope.mend.recalibrate"
    fine = "The batches are not the training data's (give training batches); statistics frozen on purpose."
    reference = "https://arxiv.org/abs/2105.07576"
    causes = ("E1", "E2", "E3", "E4", "I4", "D1", "A2", "A3", "H1", "H2", "H3", "G3", "F3", "B3")
    replaces = ("D02",)
    needs = "batches"

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """Layer by layer; what the outputs suffer decides the severity."""
        if seen.forward is not None and seen.forward.batch_failure:
            yield self.undecided(f"a forward with batch statistics: {seen.forward.batch_failure}")
            return
        if seen.untrained:  # its statistics are to come
            return
        for layer in seen.of_kind(*self.kinds):
            measured = layer.measured
            if layer.live and layer.tracked and measured is not None and measured.mean is not None:
                yield from self._judge(layer, measured, seen)

    def _judge(self, layer: Layer, measured: Measured, seen: Examination) -> Iterator[Finding]:
        mean, var, eps = measured.mean, measured.var, layer.eps or 1e-5
        if mean is None or var is None or layer.running_mean is None or layer.running_var is None:
            return
        # Channels that are constant in the batches have no spread to compare with.
        alive = var > eps
        z = np.where(alive, np.abs(layer.running_mean - mean) / np.sqrt(var + eps), np.nan)
        held = np.maximum(layer.running_var, 0) + eps
        log = np.where(alive, np.abs(np.log(held / (var + eps))), np.nan)
        z95, l95 = high(z), high(log)
        limits = [
            max(NOISE_FACTOR * np.sqrt(_memory(layer, measured) * high(noise, 0.5)), least)
            for noise, least in (
                (measured.mean_noise, MEAN_WARNING),
                (measured.var_noise, VAR_WARNING),
            )
        ]
        if not (z95 > limits[0] or l95 > limits[1]):
            return
        large = z95 > max(limits[0], MEAN_LARGE) or l95 > max(limits[1], VAR_LARGE)
        severity = "error" if large and seen.training is not True and harm(seen) else "warning"
        message = "The running statistics are not those of the batches given."
        yield self.found(
            layer.name,
            message,
            severity,
            mean_off=z95,
            mean_limit=limits[0],
            log_var_off=l95,
            log_var_limit=limits[1],
        )


def _memory(layer: Layer, measured: Measured) -> float:
    """How much of one batch's noise is left in the comparison: in the running average, and in the K
    batches.
    """
    m, k = layer.momentum, max(layer.updates or 0, 1)
    running = 1 / k if layer.cumulative or m is None else m / (2 - m)
    return running + 1 / max(measured.batches, 1)
