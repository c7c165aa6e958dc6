"""NS5xx, first part: rules about statistics and predictions on a few batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normscope.judge.rule import (
    BATCHES,
    FAR_LOG_VAR,
    FAR_MEAN,
    ForwardRule,
    Results,
    Rule,
    high,
    uses_batch_statistics,
)
from normscope.records.examination import Examination, Forward, Layer, Measured

CHANCE = 1e-3
"""Differences in what is predicted right are reported where chance makes them more rarely."""


class StatisticsDisagree(Rule, code="NS501", severity="error"):
    """Running mean and variance are far from the statistics of the batches that were given.

    z = |running_mean - mean| / sqrt(var + eps) and l = |ln((running_var + eps) / (var + eps))|. A
    running average with momentum m over batches of N samples has the noise floor sd(z)^2 = m / (2 -
    m) Var(batch mean) / var, measured for each channel from the spread of samples within batches,
    and likewise for l; the K batches given add 1/K. The limit of a channel is five floors, and at
    least z 0.25 or l 0.35. Reported where more than 5% of the channels are beyond theirs, or any is
    beyond four times its own. An error where both are large and the outputs suffer.

    Why is this bad: evaluation normalizes with the wrong numbers, often without a visible loss of
        accuracy until the data change.
    When it is fine: the batches are not training data (give training batches); statistics frozen
        on purpose.
    Example:
        model = trained().train()
        for x, y in batches:
            model(3 * x + 2)  # other data than it was trained on
        model.eval()
    Use instead:
        mend.recalibrate(model, batches).eval()
    """

    MEAN_LARGE, VAR_LARGE = 0.75, 1.0
    NOISE_FACTOR, ALONE = 5.0, 4.0
    remedy = "Recalibrate: reset, momentum=None, and 50 to 200 training batches."
    mend = "normscope.mend.recalibrate"
    reference = "https://arxiv.org/abs/2105.07576"
    needs = BATCHES

    def check(self, exam: Examination) -> Results:
        if exam.forward is not None and exam.forward.batch_failure:
            yield self.not_evaluated(
                f"a forward with batch statistics: {exam.forward.batch_failure}"
            )
        elif not exam.untrained:  # an untrained model's statistics are to come
            for layer in exam.of_kind(*self.kinds):
                if layer.live and layer.tracked and layer.measured is not None:
                    yield from self._judge(layer, layer.measured, exam)

    def _judge(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        mean, var, eps = measured.mean, measured.var, layer.eps or 1e-5
        if mean is None or var is None or layer.running_mean is None or layer.running_var is None:
            return
        # Channels that are constant in the batches have no spread to compare with.
        alive = var > eps
        z = np.where(alive, np.abs(layer.running_mean - mean) / np.sqrt(var + eps), np.nan)
        ratio = (np.maximum(layer.running_var, 0) + eps) / (var + eps)
        log = np.where(alive, np.abs(np.log(ratio)), np.nan)
        memory = _memory(layer, measured)
        mean_limits = self._limits(memory, measured.mean_noise, FAR_MEAN)
        var_limits = self._limits(memory, measured.var_noise, FAR_LOG_VAR)
        if not (high(z / mean_limits) > 1 or high(log / var_limits) > 1):
            yield from self._judge_alone(layer, z / mean_limits, log / var_limits)
            return
        large = high(z / np.maximum(mean_limits, self.MEAN_LARGE)) > 1
        large = large or high(log / np.maximum(var_limits, self.VAR_LARGE)) > 1
        worse = large and exam.training is not True and bool(_eval_gap(exam.forward))
        message = "The running statistics are not those of the batches given."
        evidence = {
            "means_apart_in_sd": high(z),
            "limit_in_sd": high(mean_limits, 0.5),
            "log_variances_apart": high(log),
            "log_variance_limit": high(var_limits, 0.5),
        }
        yield self.finding(layer.name, message, evidence, "error" if worse else "warning")

    def _judge_alone(self, layer: Layer, means: np.ndarray, variances: np.ndarray) -> Results:
        """Judge channels one by one; of each how far it is apart, in limits, is given."""
        far = np.flatnonzero(np.fmax(means, variances) > self.ALONE)
        if len(far):
            message = "A channel's running statistics are not those of the batches given."
            evidence = {
                "channels": ", ".join(map(str, far[:5])),
                "means_apart_in_limits": high(means, 1.0),
                "log_variances_apart_in_limits": high(variances, 1.0),
                "limit": self.ALONE,
            }
            yield self.finding(layer.name, message, evidence, "warning", cause="alone")

    def _limits(self, memory: float, noise: np.ndarray | None, least: float) -> np.ndarray:
        """Return the limit of each channel: of rare ones, batches differ more."""
        if noise is None:
            return np.array(least)
        return np.maximum(self.NOISE_FACTOR * np.sqrt(memory * np.maximum(noise, 0)), least)


def _memory(layer: Layer, measured: Measured) -> float:
    """How much of one batch's noise is left: in the running average, and in the K batches."""
    m, k = layer.momentum, max(layer.updates or 0, 1)
    running = 1 / k if layer.cumulative or m is None else m / (2 - m)
    return running + 1 / max(measured.batches, 1)


class TrainEvalGap(ForwardRule, code="NS502", severity="error"):
    """The same samples get other predictions in eval mode than with batch statistics (dropout off
    in both).

    With targets: eval mode gets fewer of them right, by more than 3 points (error: 10), and a sign
    test on the samples that only one of the two gets right rules out chance (p < 0.001). Without:
    more than 5% of the classes differ beyond what differs between two compositions of the batches,
    and the outputs differ by more than twice the noise of composition.

    Why is this bad: what was trained is not what is evaluated.
    When it is fine: batches from another domain than the training data.
    Example:
        model = trained().train()
        for x, y in batches:
            model(3 * x + 2)
        model.eval()  # with the statistics of 3 x + 2
    Use instead:
        model = trained().train()
        for x, y in batches:
            model(x)
        model.eval()
    """

    DISAGREEMENT, NOISE_FACTOR = 0.05, 2.0
    POINTS_WARNING, POINTS_ERROR = 0.03, 0.10
    remedy = "Recalibrate; if the gap remains, batches are too small or not alike."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/chemprop/chemprop/issues/607"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        tracked = any(layer.live and layer.tracked for layer in exam.of_kind("batch"))
        if not tracked or exam.untrained:
            return
        if forward.batch_failure:
            yield self.not_evaluated(f"a forward with batch statistics: {forward.batch_failure}")
        elif forward.gap is None:
            yield self.not_evaluated("outputs with one row per sample")
        elif forward.disagreement is None:
            yield self.not_evaluated("class scores as outputs, or a metric of your own")
        elif gap := _eval_gap(forward):
            severe = gap.get("share_lost", 0.0) > self.POINTS_ERROR and exam.training is not True
            cause, message = "classes", "Eval mode predicts other classes than batch statistics do."
            if forward.has_targets:
                cause = "targets"
                message = "Eval mode gets fewer samples right than batch statistics do."
            yield self.finding("", message, gap, "error" if severe else "warning", cause=cause)


def _eval_gap(forward: Forward | None) -> dict[str, Any]:
    """The evidence that eval mode is worse than batch statistics; {} if that may be chance."""
    if forward is None or forward.disagreement is None or forward.gap is None:
        return {}
    rule, samples = TrainEvalGap, forward.samples
    if forward.has_targets:
        lost, won = forward.only_batch_correct, forward.only_eval_correct
        points = (lost - won) / max(samples, 1)
        if points <= rule.POINTS_WARNING or _sign_test(lost, won) >= CHANCE:
            return {}
        remixed, as_they_came = forward.remixed_correct, forward.batch_correct
        return {
            "share_right_in_eval_mode": forward.eval_correct,
            "with_batch_statistics": as_they_came if remixed is None else remixed,
            "share_lost": points, "limit": rule.POINTS_WARNING, "samples": samples,
        }  # fmt: skip
    noise, base = forward.composition_noise, forward.composition_disagreement
    if noise is None or base is None:
        return {}
    share = rule.DISAGREEMENT
    limit = share + base + 3 * math.sqrt(share * (1 - share) / max(samples, 1))
    if forward.disagreement <= limit or forward.gap <= rule.NOISE_FACTOR * noise:
        return {}
    return {
        "share_of_other_classes": forward.disagreement, "limit": limit,
        "output_change": forward.gap, "composition_noise": noise, "samples": samples,
    }  # fmt: skip


def _sign_test(first: int, second: int) -> float:
    """The chance that of first + second fair coins so many or more fall on the first side."""
    from scipy.special import bdtrc

    total = first + second
    return float(bdtrc(first - 1, total, 0.5)) if total and first else 1.0


class EvalDependsOnBatch(ForwardRule, code="NS503", severity="error", kinds=()):
    """In eval mode the first sample's output changes when it comes alone, beyond rounding and
    beyond any randomness.

    Why is this bad: a prediction is no function of its input. Results depend on batch size and
        order.
    When it is fine: layers that are meant to compare samples (minibatch standard deviation,
        retrieval, attention over a batch).
    Example:
        model = nn.BatchNorm2d(1, track_running_stats=False).eval()
    Use instead:
        model = nn.BatchNorm2d(1).eval()
    """

    LIMIT, LIMIT_REDUCED = 1e-4, 5e-3
    remedy = "Find the layer that is named: it uses batch statistics in eval mode."
    reference = "https://github.com/pytorch/pytorch/pull/115715"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        change = forward.companions_difference
        if change is None:
            yield self.not_evaluated(
                forward.companions_failure or "outputs with one row per sample"
            )
            return
        exact = forward.device == "cpu" and not forward.reduced_precision
        limit = self.LIMIT if exact else self.LIMIT_REDUCED
        limit = max(limit, 3 * (forward.repeat_difference or 0.0))
        if change <= limit:
            return
        first = next((layer for layer in exam.layers if _begins_here(layer, limit)), None)
        if first is not None:
            severity = "warning" if first.live and not first.tracked else "error"
            where = "from this layer on."
        else:
            severity = "error" if forward.functional_batch_norm else "warning"
            where = "but no normalization layer is the cause."
        message = f"In eval mode a sample's output depends on its batch, {where}"
        yield self.finding(
            first.name if first else "",
            message,
            {"relative_change": change, "limit": limit},
            severity,
        )


def _begins_here(layer: Layer, limit: float) -> bool:
    """Tell whether the layer's output depends on the batch, and its input does not."""
    measured = layer.measured
    if measured is None or measured.alone_input is None or measured.alone_output is None:
        return False
    return measured.alone_input <= limit < measured.alone_output


class BatchesNotAlike(ForwardRule, code="NS504", severity="warning"):
    """Batches differ from one another far more than batches of random samples would.

    F = N Var(batch means) / Var(sample means), of the inputs of batch normalization layers in eval
    mode: 1 for shuffled data. Reported where the median of a layer's channels is above 3 and above
    the value that chance exceeds once in 10,000 (F distribution with K - 1 and K(N - 1) degrees of
    freedom). The worst layer is named. Layers whose rows are no independent samples (the nodes of
    graphs, regions of images: more rows than the model has outputs) are left out.

    Why is this bad: each batch is normalized by its own statistics, and no running average fits all
        of them.
    When it is fine: real and fake batches of a GAN, episodes, batches grouped by length: as long as
        eval mode works.
    Example:
        model = trained().train()
        batches = [images[k * 64 : k * 64 + 64] + k for k in range(4)]  # a domain per batch
    Use instead:
        batches = torch.cat(batches)[torch.randperm(256)].split(64)
    """

    LIMIT, CHANCE = 3.0, 1e-4
    remedy = "Shuffle; mix domains within each batch, or give each its own statistics."
    reference = "https://github.com/scikit-adaptation/skada/issues/252"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        medians = {
            layer.name: high(layer.measured.heterogeneity, 0.5)
            for layer in exam.of_kind("batch")
            if layer.live and layer.measured is not None
        }
        if not medians:
            return
        if np.isnan(list(medians.values())).all():
            yield self.not_evaluated("independent samples, one row of each layer's input to each")
            return
        batches = len(forward.batch_sizes)
        freedom = sum(forward.batch_sizes) - batches
        if batches < 3 or freedom < batches:
            yield self.not_evaluated("at least three batches of two or more samples")
            return
        limit = max(self.LIMIT, self._exceeded_by_chance(batches - 1, freedom))
        worst = max(medians, key=lambda name: np.nan_to_num(medians[name]))
        if medians[worst] > limit:
            message = "The batches differ from one another far more than chance allows."
            evidence = {"F": medians[worst], "limit": limit, "batches": batches}
            yield self.finding(worst, message, evidence)

    def _exceeded_by_chance(self, between: int, within: int) -> float:
        """The value of F that chance exceeds once in 10,000."""
        from scipy.special import fdtri

        return float(fdtri(between, within, 1 - self.CHANCE))


class CompositionMatters(ForwardRule, code="NS505", severity="warning"):
    """With batch statistics the share of right samples changes by more than 3 points when batches
    are mixed anew.

    A sign test on the samples that only one composition gets right rules out chance (p < 0.001).

    Why is this bad: the batch tells the network about its samples. Sorted or paired batches leak
        the answer, or spoil it.
    When it is fine: episodes, where the batch is the task.
    Example:
        model = trained().train()
        order = labels.argsort()
        batches = list(zip(images[order].split(64), labels[order].split(64)))
    Use instead:
        order = torch.randperm(len(labels))
        batches = list(zip(images[order].split(64), labels[order].split(64)))
    """

    LIMIT = 0.03
    remedy = "Shuffle, and evaluate in eval mode; in contrastive training mix before the keys."
    reference = "https://github.com/facebookresearch/moco/issues/137"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        if not uses_batch_statistics(exam):
            return
        if not forward.has_targets or forward.remixed_correct is None:
            yield self.not_evaluated(
                forward.batch_failure or "integer targets, and several batches of one shape"
            )
            return
        first, second = forward.only_given_correct, forward.only_remixed_correct
        points = (first - second) / max(forward.samples, 1)
        chance = _sign_test(max(first, second), min(first, second))
        if abs(points) > self.LIMIT and chance < CHANCE:
            better = "more" if points > 0 else "fewer"
            message = f"The batches given get {better} samples right than the same samples mixed."
            evidence = {
                "share_right_as_given": forward.batch_correct,
                "share_right_mixed": forward.remixed_correct,
                "limit": self.LIMIT,
            }
            yield self.finding("", message, evidence, cause=better)


class NoisyComposition(ForwardRule, code="NS513", severity="warning"):
    """With batch statistics a sample's output changes by more than half its size with the samples
    beside it.

    Measured by mixing the batches anew. A healthy network at batch 64 shows about 0.15, at batch 2
    about 0.9.

    Why is this bad: training sees mostly the noise of the other samples, and gradients with it.
    When it is fine: in eval mode, or an untrained network with an output near zero (an info).
    Example:
        model = trained().train()
        batches = images[:32].split(2)
    Use instead:
        batches = images[:512].split(64)
    """

    LIMIT = 0.5
    remedy = "A larger batch, SyncBatchNorm, or a normalization of single samples."
    mend = "normscope.mend.convert"
    reference = "https://arxiv.org/abs/1803.08494"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        noise = forward.composition_noise
        live = [layer for layer in exam.of_kind("batch") if layer.live]
        if noise is None or noise <= self.LIMIT or not live:
            return
        size = max(forward.batch_sizes)
        trained = exam.training and any(layer.updates for layer in live)
        severity = "warning" if trained and size < 16 else "info"
        message = "With batch statistics outputs change by half their size with the other samples."
        evidence = {"relative_change": noise, "limit": self.LIMIT, "batch_size": size}
        yield self.finding("", message, evidence, severity)
