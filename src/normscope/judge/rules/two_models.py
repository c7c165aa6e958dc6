"""NS7xx: rules about two models that should agree, about state_dicts and exports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normscope.judge.rule import (
    EVERY_KIND,
    FAR_LOG_VAR,
    FAR_MEAN,
    KEYS,
    PairRule,
    Results,
    Rule,
    query_and_key,
)
from normscope.records.examination import BATCH_KINDS, Examination, Layer, Pair, PairedLayer

STATISTICS = ("running_mean", "running_var")
SAME_OUTPUTS = 1e-3


def outputs_agree(pair: Pair) -> bool:
    """Tell whether both models were run, and give the same."""
    return pair.output_difference is not None and pair.output_difference <= SAME_OUTPUTS


class StatisticsLeftBehind(PairRule, code="NS701", severity="error", kinds=EVERY_KIND):
    """One of two models that should agree has buffers, or weights and biases, that were not carried
    along.

    The two are a model and its average, target network, merged, federated or loaded version. The
    values are those of a new layer while the other's are trained; or buffers are far from the
    other's; or weights and biases differ by more than 1% while all other weights are the same.
    Equal buffers under weights that differ by more than 30% are one model's, and not the average's.

    Why is this bad: parameters() has no buffers. An average of parameters keeps statistics of
        weights that are long gone. A state_dict whose names have a prefix loads nothing with
        strict=False.
    When it is fine: an average that runs in train mode and updates its own statistics.
    Example:
        other = trained()
        model = Net()
        for average, p in zip(model.parameters(), other.parameters()):
            average.data.lerp_(p.data, 0.99)
    Use instead:
        model = torch.optim.swa_utils.AveragedModel(Net(), use_buffers=True)
        model.update_parameters(other)
        model = model.module
    """

    MERGED, SAME_WEIGHTS, GAINS_APART = 0.3, 1e-6, 0.01
    remedy = "Average or copy the buffers too (use_buffers=True, state_dict), or recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/CuriousAI/mean-teacher/issues/9"

    def check_pair(self, pair: Pair, exam: Examination) -> Results:
        for layer in pair.layers:
            if layer.statistics_equal is not None:
                yield from self._judge(layer, pair.weight_distance)
            if not (layer.at_initialization or layer.other_at_initialization):
                yield from self._judge_gains(layer, pair)

    def _judge_gains(self, layer: PairedLayer, pair: Pair) -> Results:
        same = pair.weight_distance is not None and pair.weight_distance < self.SAME_WEIGHTS
        apart = layer.gains_distance or 0.0
        evidence = {"weights_apart": pair.weight_distance, "gains_apart": layer.gains_distance}
        if layer.gain_offset is not None:
            return  # another convention: NS702
        if layer.gains_new or layer.other_gains_new:
            new = "here" if layer.gains_new else "in the other model"
            message = f"Weight and bias are those of a new layer {new}; the others are trained."
            if pair.prefix and layer.gains_new:
                message += f" The other's names have the prefix {pair.prefix!r}: it was not loaded."
            yield self.finding(layer.name, message, evidence, cause=f"gains new {new}")
        elif same and apart > self.GAINS_APART and not outputs_agree(pair):
            message = "Weight and bias are not the other model's; all other weights are."
            evidence = {**evidence, "limit": self.GAINS_APART}
            yield self.finding(layer.name, message, evidence, cause="gains apart")

    def _judge(self, layer: PairedLayer, weights: float | None) -> Results:
        mean, var = layer.mean_distance or 0.0, layer.var_distance or 0.0
        if layer.at_initialization != layer.other_at_initialization:
            new = "here" if layer.at_initialization else "in the other model"
            message = f"The statistics are those of a new layer {new}; the others are trained."
            evidence = {"updates": layer.updates, "other_updates": layer.other_updates}
            evidence = {**evidence, "weights_apart": weights}
            yield self.finding(layer.name, message, evidence, cause=new)
        elif layer.statistics_equal:
            if weights is not None and weights > self.MERGED:
                message = "The statistics equal the other model's; the weights are far from its."
                evidence = {"weights_apart": weights, "limit": self.MERGED}
                yield self.finding(layer.name, message, evidence, "warning", cause="equal")
        elif mean > FAR_MEAN or var > FAR_LOG_VAR:
            message = "The two models' statistics are far apart."
            evidence = {
                "means_apart_in_sd": layer.mean_distance,
                "limit_in_sd": FAR_MEAN,
                "log_variances_apart": layer.var_distance,
                "log_variance_limit": FAR_LOG_VAR,
                "weights_apart": weights,
            }
            yield self.finding(layer.name, message, evidence, "warning", cause="apart")


class ConvertedDifferently(PairRule, code="NS702", severity="warning"):
    """The same layer has another eps, or another class, in the two models, or a weight of another
    length, or one that is exactly one more or less.

    BatchNorm and SyncBatchNorm are the same function in eval mode and count as one class. Some
    libraries store a gain as its distance from one and multiply by 1 + weight; where the outputs
    agree, the two models differ in that alone and nothing is reported.

    Why is this bad: the class or setting is not in the checkpoint. Weights load without a word and
        compute something else.
    When it is fine: a deliberate change of normalization.
    Example:
        other = trained()
        model = Net(eps=1e-3)
        model.load_state_dict(other.state_dict())
    Use instead:
        model = Net()
        model.load_state_dict(other.state_dict())
    """

    PLAIN = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"})
    remedy = (
        "Build both models with the same classes and settings; convert gains that are stored as "
        "their distance from one."
    )
    mend = "normscope.mend.convert_gains"
    reference = "https://github.com/LabForComputationalVision/bias_free_denoising/issues/3"

    def check_pair(self, pair: Pair, exam: Examination) -> Results:
        for layer in pair.layers:
            if layer.type and layer.other_type and not self._same(layer.type, layer.other_type):
                message = "The layer is of another class in the other model."
                evidence = {"type": layer.type, "other": layer.other_type}
                severity = "info" if outputs_agree(pair) else "warning"
                yield self.finding(layer.name, message, evidence, severity, cause="class")
            if None not in (layer.eps, layer.other_eps) and layer.eps != layer.other_eps:
                message = "The layer has another eps in the other model."
                evidence = {"eps": layer.eps, "other": layer.other_eps}
                yield self.finding(layer.name, message, evidence, cause="eps")
            if layer.gain_sizes is not None:
                here, there = layer.gain_sizes
                message = "The weight has another length in the other model."
                if query_and_key(layer.name):
                    message += " One may normalize each head, the other all heads together."
                evidence = {"values": here, "other": there}
                yield self.finding(layer.name, message, evidence, cause="length")
            if layer.gain_offset is not None and not outputs_agree(pair):
                message = (
                    "The weights differ by exactly one: one model's layer multiplies by "
                    "1 + weight, or should."
                )
                evidence = {"weight_offset": layer.gain_offset}
                yield self.finding(layer.name, message, evidence, cause="offset")

    def _same(self, first: str, second: str) -> bool:
        types = {first, second}
        return first == second or ("SyncBatchNorm" in types and bool(types & self.PLAIN))


class OutputsDisagree(PairRule, code="NS703", severity="error"):
    """In eval mode the other model's outputs are off by more than 1 part in 1,000, although it has
    the same weights or is a conversion (fused, exported, compiled).

    Also reported: its outputs depend on the batch, which the model's do not.

    Why is this bad: a conversion in train mode, or one that lost a layer or a setting, computes
        another function.
    When it is fine: quantization, whose noise is larger. Models whose weights are meant to differ
        are not reported.
    Example:
        model = trained()
        converted = copy.deepcopy(model).train()
        other = lambda x: converted(x)  # a program that was exported in train mode
    Use instead:
        converted = copy.deepcopy(model).eval()
        other = lambda x: converted(x)
    """

    LIMIT = SAME_OUTPUTS
    SAME_WEIGHTS = 1e-6
    DEPENDENCE = 5e-3
    remedy = "Call eval() before converting; find the layer with `normscope diff`."
    mend = "normscope.mend.fold"
    reference = "https://github.com/microsoft/onnxruntime/issues/3873"

    def check_pair(self, pair: Pair, exam: Examination) -> Results:
        if pair.output_difference is None:
            yield self.not_evaluated(
                pair.output_failure or "a few batches, and the other as a model or callable"
            )
            return
        here = exam.forward.companions_difference if exam.forward is not None else None
        others = pair.other_companions_difference
        if others is not None and others > self.DEPENDENCE and (here or 0.0) <= self.DEPENDENCE:
            message = "The other model's output depends on the batch, this model's does not."
            evidence = {"relative_change": others, "limit": self.DEPENDENCE}
            yield self.finding("", message, evidence, cause="batch")
        weights = pair.weight_distance
        converted = weights is None or bool(pair.only_here) or weights < self.SAME_WEIGHTS
        if converted and pair.output_difference > self.LIMIT:
            message = "The two models compute different functions in eval mode."
            evidence = {"relative_difference": pair.output_difference, "limit": self.LIMIT}
            yield self.finding("", message, evidence, cause="function")


class StatisticsMissing(Rule, code="NS704", severity="error", kinds=()):
    """The state_dict lacks running statistics, weights or biases of normalization layers, or has
    them under other names or in other shapes.

    The counter num_batches_tracked alone may be missing: it matters with momentum=None only. A
    prefix before every name (`module.`, `_orig_mod.`) is told as an info.

    Why is this bad: with strict=False the layers silently keep mean 0 and variance 1, weight 1 and
        bias 0.
    When it is fine: old checkpoints without the counter (an info).
    Example:
        model = Net()
        state = dict(trained().named_parameters())
    Use instead:
        state = trained().state_dict()
    """

    remedy = "Save model.state_dict(), not its parameters, or recalibrate after loading."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/torch/nn/issues/1165"
    needs = KEYS

    def applies(self, exam: Examination) -> bool:
        return exam.source == "state_dict"

    def check(self, exam: Examination) -> Results:
        if exam.keys is None:
            return
        missing, norms = exam.keys.missing, set(exam.keys.norms)
        if exam.keys.prefix:
            message = (
                f"Every name has the prefix {exam.keys.prefix!r}: take it off before you load the "
                "state_dict."
            )
            yield self.finding("", message, {"prefix": exam.keys.prefix}, "info", cause="prefix")
        for key in missing:
            layer, _, name = key.rpartition(".")
            if name in STATISTICS or (layer in norms and name != "num_batches_tracked"):
                instead = [k for k in exam.keys.unexpected if k.rpartition(".")[0] == layer]
                message = f"{name} is missing."
                evidence = {"present": False, "unexpected": ", ".join(instead)}
                yield self.finding(layer, message, evidence, cause=f"{name} missing")
            elif name == "num_batches_tracked" and f"{layer}.running_mean" not in missing:
                message = f"{name} is missing, which does no harm."
                yield self.finding(layer, message, {"present": False}, "info")
        for key in exam.keys.wrong_shape:
            layer, _, name = key.rpartition(".")
            if name in STATISTICS or layer in norms:
                message = f"{name} has another shape than the model's."
                yield self.finding(layer, message, {"present": True}, cause=f"{name} shape")


class IncompleteStatistics(Rule, code="NS705", severity="error", kinds=EVERY_KIND):
    """A layer has only one of running mean and variance, or exactly the statistics, or weight and
    bias, of another layer.

    Why is this bad: a script that renames or copies entries has dropped or doubled some.
    When it is fine: layers that share statistics, or copies of one block that were not trained
        since (a warning; an info where more than a quarter of the layers have another's weights).
        The gains of a query and its key have one gradient without position embeddings, and stay
        equal: they are not reported.
    Example:
        model = trained()
        model[7].load_state_dict(model[4].state_dict())  # the wrong block
    Use instead:
        model[7].load_state_dict(trained()[7].state_dict())
    """

    remedy = "Convert the checkpoint anew and compare the keys one by one."
    reference = "https://github.com/torch/nn/issues/1165"

    def check(self, exam: Examination) -> Results:
        layers = exam.of_kind(*self.kinds)
        for layer in layers:
            if (layer.running_mean is None) != (layer.running_var is None):
                lacks = "running_mean" if layer.running_mean is None else "running_var"
                message = f"The layer has no {lacks}, but the other statistic."
                yield self.finding(layer.name, message, {"missing": lacks}, cause=lacks)
        for name, earlier in _repeated(layers, "running_mean", "running_var"):
            message = "The layer has exactly another layer's statistics."
            yield self.finding(name, message, {"same_as": earlier}, "warning", cause="statistics")
        repeated = _repeated([each for each in layers if not each.tracked], "weight", "bias")
        repeated = [(a, b) for a, b in repeated if not _are_query_and_key(a, b)]
        severity = "warning" if len(repeated) <= max(1, len(layers) // 4) else "info"
        for name, earlier in repeated:
            message = "The layer has exactly another layer's weight."
            yield self.finding(name, message, {"same_as": earlier}, severity, cause="weight")


def _are_query_and_key(first: str, second: str) -> bool:
    return bool(query_and_key(first)) and query_and_key(first) == query_and_key(second)


def _repeated(layers: Sequence[Layer], *names: str) -> list[tuple[str, str]]:
    """Return (layer, earlier layer with the same values); the values are not all the same."""
    first: dict[bytes, str] = {}
    repeated = []
    for layer in layers:
        values = [v for v in (getattr(layer, name) for name in names) if v is not None]
        if not values or len(values[0]) < 4 or np.all(values[0] == values[0][0]):
            continue
        earlier = first.setdefault(b"".join(v.tobytes() for v in values), layer.name)
        if earlier != layer.name:
            repeated.append((layer.name, earlier))
    return repeated


class ExportInTrainMode(Rule, code="NS706", severity="error", kinds=BATCH_KINDS):
    """The model is to be exported, fused, quantized or compiled for inference, and a layer is in
    train mode or has no running statistics.

    Why is this bad: exporters write inference arithmetic, or fail. The exported model is not the
        one that was compared.
    When it is fine: an export for training.
    Example:
        model = trained().train()
        export = True
    Use instead:
        model = trained().eval()
    """

    remedy = "model.eval() before exporting; running statistics for every batch normalization."
    mend = "normscope.mend.fold"
    reference = "https://github.com/microsoft/onnxruntime/issues/3873"

    def applies(self, exam: Examination) -> bool:
        return exam.export and super().applies(exam)

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.live and layer.training and layer.tracked:
            message = "The layer is in train mode."
            yield self.finding(layer.name, message, {"training": True}, cause="mode")
        if layer.kind == "batch" and not layer.tracked:
            message = "The layer has no running statistics."
            yield self.finding(layer.name, message, {"running_mean": "None"}, cause="statistics")
