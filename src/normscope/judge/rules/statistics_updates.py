"""NS1xx, second part: running statistics that batches never, or hardly, reached."""

from __future__ import annotations

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rule import Results, Rule, deliberately_frozen
from normscope.records.examination import BATCH_KINDS, Examination, Layer


class StatisticsNeverUpdated(Rule, code="NS103", severity="error"):
    """Running mean 0, running variance 1 and no update counted, in a model that is trained.

    An untrained model is left alone: no weight or bias of its layers has moved, and no counter. A
    layer with fixed statistics (FrozenBatchNorm2d) is judged where parameters of the model hold
    gradients, or were written to as often as by an optimizer.

    Why is this bad: in eval mode the layer does not normalize. It treats its input as if that had
        mean 0 and variance 1.
    When it is fine: a network trained from scratch with its statistics frozen at (0, 1), or a layer
        in a branch that is never used.
    Example:
        model = Net()
        model.load_state_dict(dict(trained().named_parameters()), strict=False)
    Use instead:
        model = Net()
        model.load_state_dict(trained().state_dict())  # with the buffers
    """

    remedy = "Load or copy the buffers too (state_dict, not parameters()), or recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/CuriousAI/mean-teacher/issues/9"

    def check(self, exam: Examination) -> Results:
        layers = [layer for layer in exam.of_kind("batch") if layer.live and layer.tracked]
        others_updated = any(not layer.at_initialization for layer in layers)
        if others_updated or any(layer.affine_trained for layer in layers):
            for layer in layers:
                if layer.at_initialization and not layer.updates:
                    yield self._judge(layer, exam, others_updated)
        for layer in exam.of_kind("batch"):
            if not layer.live and layer.at_initialization and exam.was_trained:
                message = (
                    "The layer's fixed statistics are those of a new one: it does not normalize."
                )
                evidence = {"running_mean": 0, "running_var": 1}
                yield self.finding(layer.name, message, evidence, "warning", cause="fixed")

    def _judge(self, layer: Layer, exam: Examination, others_updated: bool) -> Finding:
        if exam.forward is not None and layer.place is None:
            severity, cause = "info", "unused"
            message = "The statistics were never updated, and the forward does not use the layer."
        elif deliberately_frozen(layer, exam):
            severity, cause = "info", "frozen"
            message = "The layer is frozen with the statistics of a new one: it does not normalize."
        elif others_updated:
            severity, cause = "error", ""
            message = "The statistics were never updated, while those of other layers were."
        else:
            severity, cause = "warning", ""
            message = "Weight and bias are trained; the statistics were never updated or loaded."
        evidence = {"running_mean": 0, "running_var": 1, "num_batches_tracked": layer.updates}
        return self.finding(layer.name, message, evidence, severity, cause=cause)


class StatisticsStuck(Rule, code="NS104", severity="error", kinds=BATCH_KINDS):
    """Running mean 0 and running variance 1, although updates were counted.

    The momentum was 0, or the statistics were reset and no batch came after.

    Why is this bad: batches went by and nothing was kept, so in eval mode the layer does not
        normalize.
    When it is fine: never.
    Example:
        model = nn.BatchNorm2d(1, momentum=0.0)  # meant: an average of all batches
        for x, y in batches:
            model(x)
    Use instead:
        model = nn.BatchNorm2d(1, momentum=None)
        for x, y in batches:
            model(x)
    """

    remedy = "To recalibrate, use momentum=None (a cumulative average), not 0.0."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/Lightning-AI/pytorch-lightning/issues/14866"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.at_initialization and layer.updates:
            message = "Updates were counted, but the statistics are those of a new layer."
            evidence = {"updates": layer.updates, "momentum": layer.momentum}
            yield self.finding(layer.name, message, evidence)


class InitializationRemains(Rule, code="NS105", severity="warning", kinds=BATCH_KINDS):
    """More than 5% of the running statistics is still the initial mean 0 and variance 1.

    After k updates with momentum m the initial values have the weight (1 - m)^k, and no variance
    can lie below it. Where one does, the statistics came another way (a recalibration, a checkpoint
    with a new counter) and nothing is reported. Nor is it where batches are given and the
    statistics are nearer to theirs than to such a mixture.

    Why is this bad: evaluation normalizes with a mixture of real statistics and (0, 1). The
        training had few steps, or the momentum is too small.
    When it is fine: in the middle of a training, before the model is evaluated.
    Example:
        model = nn.BatchNorm2d(1)
        for x, y in batches[:3]:
            model(x)
    Use instead:
        model = nn.BatchNorm2d(1)
        for x, y in batches * 10:
            model(x)
    """

    LIMIT = 0.05
    remedy = "Train longer, use a larger momentum, or recalibrate before evaluating."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/chemprop/chemprop/issues/607"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        m, k, var = layer.momentum, layer.updates, layer.running_var
        if m is None or not 0 < m < 1 or not k or var is None or layer.at_initialization:
            return
        rest = (1 - m) ** k
        if rest > self.LIMIT and np.nanmin(var) >= rest and not _came_another_way(layer, rest):
            message = "The statistics still hold much of their initial values."
            evidence = {"initial_share": rest, "limit": self.LIMIT, "updates": k, "momentum": m}
            yield self.finding(layer.name, message, evidence)


def _came_another_way(layer: Layer, remains: float) -> bool:
    """Tell whether the running statistics are nearer to those of the batches than to a mixture of
    these with mean 0 and variance 1.
    """
    measured = layer.measured
    if measured is None or measured.mean is None or measured.var is None:
        return False
    mean, var = measured.mean, measured.var
    mixed = _distance(layer, (1 - remains) * mean, (1 - remains) * var + remains)
    return _distance(layer, mean, var) < mixed


def _distance(layer: Layer, mean: np.ndarray, var: np.ndarray) -> float:
    """Distance of running statistics from others: sum over channels of z and log variance ratio."""
    eps = layer.eps or 1e-5
    held_mean, held_var = np.asarray(layer.running_mean), np.asarray(layer.running_var)
    z = np.abs(held_mean - mean) / np.sqrt(var + eps)
    log = np.log((np.maximum(held_var, 0) + eps) / (var + eps))
    return float(np.nansum(z + np.abs(log)))
