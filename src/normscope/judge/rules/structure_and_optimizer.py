"""NS4xx: rules about what surrounds a layer, and about the optimizer."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import (
    EVERY_KIND,
    SAMPLE_KINDS,
    ForwardRule,
    OptimizerRule,
    PlaceRule,
    Results,
    Rule,
    deliberately_frozen,
    half_unit,
    multiplies_by_one_more,
    multiplies_by_weight,
)
from normscope.records.examination import Examination, Forward, Layer, Optimizer, Place


class NeverTrained(OptimizerRule, code="NS401", severity="warning"):
    """Weight or bias need a gradient, but are not in the optimizer, while the weights around them
    are.

    Why is this bad: a filter on parameters (by dimension, by name) has dropped them. They stay at 1
        and 0 for ever.
    When it is fine: a part that is not trained at all, as under a linear probe (an info).
    Example:
        model = trained()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.dim() > 1], lr=0.1)
    Use instead:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    """

    remedy = "Pass all parameters; to leave decay off for some, give them a group of their own."
    mend = "normscope.mend.weight_decay_groups"
    reference = "https://github.com/official-stockfish/nnue-pytorch/pull/91"

    def check_optimizer(self, optimizer: Optimizer, exam: Examination) -> Results:
        if optimizer.holds == 0 and optimizer.wide_copies:
            return  # what it steps is copied into the model
        if optimizer.holds == 0:
            message = (
                "The optimizer holds no parameter of the model: it was made for another one, or "
                "before the model was copied."
            )
            yield self.finding("", message, {"parameters": 0, "optimizer": optimizer.type}, "error")
        else:
            yield from super().check_optimizer(optimizer, exam)

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.optimized is not False:
            return
        severity, others = "info", "nor are the weights around it."
        if layer.scope_optimized:
            severity, others = "warning", "which trains the weights around it."
        message = f"Its parameters need gradients but are not in the optimizer, {others}"
        evidence = {"parameters": ", ".join(layer.affine_names)}
        yield self.finding(layer.name, message, evidence, severity)


class DecayedNorm(OptimizerRule, code="NS402", severity="info"):
    """The optimizer applies weight decay to the layer's weight and bias.

    Layers that multiply by 1 + weight are left out: zero is the identity there.

    Why is this bad: decay pulls the gain to zero instead of to the identity. Many recipes leave
        these parameters out.
    When it is fine: it is PyTorch's default, and part of many published recipes.
    Example:
        model = trained()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.05)
    Use instead:
        optimizer = torch.optim.SGD(mend.weight_decay_groups(model, 0.05), lr=0.1)
    """

    remedy = "Give them a parameter group without decay."
    mend = "normscope.mend.weight_decay_groups"
    reference = "https://github.com/ultralytics/yolov3/issues/469"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if layer.weight_decay and not multiplies_by_one_more(layer):
            message = "Weight decay is applied to its parameters."
            yield self.finding(layer.name, message, {"weight_decay": layer.weight_decay})


class DeadGain(Rule, code="NS403", severity="warning", kinds=EVERY_KIND):
    """Every weight of the layer is exactly zero, after more than 1,000 updates or where no shortcut
    passes by.

    Layers of libraries' own classes, and of state_dicts, may store the weight as its distance from
    one: there, others of the same kind must be trained and near one.

    A gain of zero at the start is meant where the output is added to a shortcut (zero-init
    residual); it then moves.

    Why is this bad: the layer's output is its bias. Nothing before it has an effect, and nothing
        before it is trained.
    When it is fine: at the start of training on a residual branch; a branch that was pruned.
    Example:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
        nn.init.zeros_(model[1].weight)  # there is no shortcut around it
        batches = [images[:64]]
    Use instead:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    """

    TRAINED = 1000
    remedy = "Initialize the weight to 1, or let the optimizer train it."
    reference = "https://github.com/AlexHex7/Non-local_pytorch/issues/1"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        weight = layer.weight
        if weight is None or not len(weight) or np.any(weight != 0):
            return
        if layer.foreign:
            if _others_are_near_one(layer, exam):
                message = "Every weight is exactly zero, while those of its like are trained."
                yield self.finding(layer.name, message, {"limit": 0}, cause="foreign")
            return
        steps = layer.updates
        if steps is None and exam.optimizer is not None:
            steps = exam.optimizer.steps
        if (steps or 0) > self.TRAINED:
            message = "Every weight is exactly zero although the model was trained."
            evidence = {"updates": steps, "limit": self.TRAINED}
            yield self.finding(layer.name, message, evidence, cause="trained")
        elif layer.place is None:
            yield self.not_evaluated(
                "a few batches: whether the zero weight is on a residual branch"
            )
        elif not layer.place.added_to_a_shortcut:
            message = "Every weight is zero and no shortcut passes by: nothing gets through."
            evidence = {"updates": steps or 0, "limit": 0}
            yield self.finding(layer.name, message, evidence, cause="no shortcut")


def _others_are_near_one(layer: Layer, exam: Examination) -> bool:
    """Tell whether the others of its type have trained weights around one: not 1 + weight."""
    others = [
        other.weight
        for other in exam.of_kind(layer.kind)
        if other.type == layer.type and other.weight is not None and other.affine_trained
    ]
    means = [float(np.mean(weight)) for weight in others if np.any(weight != 0)]
    return bool(means) and float(np.median(means)) > 0.5


class RedundantBias(PlaceRule, code="NS404", severity="info", kinds=("batch", "instance", "group")):
    """The convolution or linear layer that feeds only this layer has a bias, which the
    normalization subtracts.

    Batch and instance normalization cancel a constant per channel, group normalization only with
    one channel a group.

    Why is this bad: the bias gets no gradient, costs memory, and may drift with weight decay or
        noise.
    When it is fine: weights that were trained with it. A frozen layer subtracts a constant and not
        the batch's mean, so there the bias counts.
    Example:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
        batches = [images[:64]]
    Use instead:
        model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8))
    """

    remedy = "Use bias=False in the layer before; in a trained model the bias is harmless."
    reference = "https://github.com/ClementPinard/FlowNetPytorch/issues/81"

    def check_place(self, layer: Layer, place: Place, exam: Examination) -> Results:
        one_a_group = layer.kind != "group" or layer.groups == layer.features
        cancels = one_a_group and not deliberately_frozen(layer, exam)
        if place.bias_before and place.sole_consumer and cancels:
            message = "The bias of the layer before has no effect: the normalization subtracts it."
            evidence = {"bias_of": place.fed_by_module or place.fed_by}
            yield self.finding(layer.name, message, evidence)


class DropoutBeforeBatchNorm(PlaceRule, code="NS405", severity="warning"):
    """A dropout stands between a batch normalization and the normalization before it.

    Dropout keeps the mean of its input and raises its variance. The running variance is that of
    training, and in eval mode there is no dropout. Measured: the variance with dropout over that
    without, median over the channels.

    Why is this bad: in eval mode the layer divides by a variance that its input no longer has
        (variance shift).
    When it is fine: a small p, or many inputs per unit. The measured shift is then small (an info).
    Example:
        model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.BatchNorm1d(64))
        batches = [torch.randn(128, 64) for k in range(8)]
    Use instead:
        model = nn.Sequential(nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.5))
    """

    LIMIT = 1.2
    remedy = "Move the dropout behind the last batch normalization, lower p, or recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://arxiv.org/abs/1801.05134"

    def check_place(self, layer: Layer, place: Place, exam: Examination) -> Results:
        p = place.dropout_before
        ratio = layer.measured.dropout_ratio if layer.measured is not None else None
        if not p or not layer.live or not layer.tracked:
            return
        if ratio is not None and max(ratio, 1 / max(ratio, 1e-9)) > self.LIMIT:
            message = "Dropout before the layer changes the variance of its input in training."
            evidence = {"dropout_p": p, "variance_ratio": ratio, "limit": self.LIMIT}
            yield self.finding(layer.name, message, evidence)
        else:
            message = "There is dropout before the layer."
            evidence = {"dropout_p": p, "variance_ratio": ratio}
            yield self.finding(layer.name, message, evidence, "info")


class NormAfterNorm(PlaceRule, code="NS406", severity="info", kinds=("batch", "instance", "group")):
    """A batch, instance or group normalization is fed by one of its own kind, with nothing in
    between.

    Why is this bad: the first layer's weight and bias are divided out again, so training them has
        no effect.
    When it is fine: normalizing on different axes; layers that are left from joining two networks.
    Example:
        model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
        batches = [images[:64]]
    Use instead:
        model = nn.BatchNorm2d(1)
    """

    remedy = "Keep one of them."
    reference = "https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html"

    def check_place(self, layer: Layer, place: Place, exam: Examination) -> Results:
        feeding = (other.kind for other in exam.layers if other.name == place.fed_by_module)
        if place.fed_by == "norm" and next(feeding, None) == layer.kind:
            message = "The layer normalizes what a layer of its kind has just normalized."
            yield self.finding(layer.name, message, {"fed_by": place.fed_by_module})


class StepBelowResolution(OptimizerRule, code="NS407", severity="warning"):
    """The optimizer's step is below half a unit in the last place of most of the layer's weights.

    Adam and its kin step by about the learning rate (the largest that the scheduler is known to
    reach), SGD by the rate times the gradient that is there, over 1 - momentum. From 1.0 downwards
    half a unit is 0.002 in bf16 and 0.00024 in fp16.

    Why is this bad: weight minus step rounds to the weight again. Gains at 1 stay there for ever,
        while smaller weights of the model do train.
    When it is fine: an optimizer that rounds stochastically, or keeps its own fp32 copy.
    Example:
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).bfloat16()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    Use instead:
        model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))  # and bf16 by autocast
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    """

    SHARE = 0.5
    remedy = "Keep the parameters of normalization layers in fp32 (autocast, or fp32 copies)."
    mend = "normscope.mend.gains_to_float32"
    reference = "https://github.com/vllm-project/speculators/pull/765"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        step, weight = layer.step_size, layer.weight
        if not step or weight is None or not np.isfinite(weight).all() or not len(weight):
            return
        half = half_unit(weight, layer.parameter_dtype)
        share = float(np.mean(step < half))
        if share > self.SHARE:
            message = (
                f"A step of {layer.optimizer} is less than half a unit in the last place of its "
                f"{layer.parameter_dtype} weight: it cannot move."
            )
            evidence = {"step": step, "half_unit": float(np.median(half)), "share_stuck": share}
            cause = f"{layer.optimizer} {layer.parameter_dtype}"
            yield self.finding(layer.name, message, evidence, cause=cause)


class DecayedAway(Rule, code="NS408", severity="warning", kinds=SAMPLE_KINDS):
    """Weight decay has pulled most of the layer's weights near zero.

    The median of |weight| is below 0.05, most of the values differ, and the optimizer, where one is
    given, applies decay. Layers that multiply by 1 + weight are left out: decay pulls these to the
    identity.

    Why is this bad: zero is no neutral gain. The layer's output fades, and in low precision the
        gains lose their bits.
    When it is fine: gains that a network has learnt to be small, on a branch that it does not need.
    Example:
        model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        for step in range(200):
            optimizer.zero_grad()
            F.layer_norm(model(torch.randn(64, 32)), (32,)).square().mean().backward()
            optimizer.step()
    Use instead:
        model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32))
        optimizer = torch.optim.SGD(mend.weight_decay_groups(model, 0.5), lr=0.1)
    """

    NEAR_ZERO = 0.05
    remedy = "Leave decay off for weights of normalization layers, or store them as 1 + weight."
    mend = "normscope.mend.weight_decay_groups"
    reference = "https://github.com/ultralytics/yolov3/issues/469"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        weight = layer.weight
        decayed = exam.optimizer is None or bool(layer.weight_decay)
        if weight is None or len(weight) < 4 or not decayed or len(np.unique(weight)) < 4:
            return
        size = float(np.median(np.abs(weight)))
        if size < self.NEAR_ZERO and multiplies_by_weight(layer):
            message = "Its weights are near zero: decayed, or stored as their distance from one."
            evidence = {"median": size, "limit": self.NEAR_ZERO, "weight_decay": layer.weight_decay}
            yield self.finding(layer.name, message, evidence)


class FinalNormMissing(ForwardRule, code="NS409", severity="warning", kinds=("layer", "rms")):
    """The head reads the residual stream as it is, while the blocks normalize it before they read
    it.

    Two layers or more (LayerNorm, RMSNorm) stand between the stream and weights; between its end
    and the head's weights there is none. A warning where the stream begins with an embedding, as in
    a language model; else an info.

    Why is this bad: the stream grows with every block, and with it the logits. In a converted or
    rebuilt model the last normalization was lost, and the outputs are off.
    When it is fine: a model that was trained so.
    Example:
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.linear = nn.RMSNorm(16), nn.Linear(16, 16)

            def forward(self, x):
                return x + self.linear(self.norm(x))

        embed, head = nn.Embedding(10, 16), nn.Linear(16, 10)
        model = nn.Sequential(embed, Block(), Block(), Block(), head)
        batches = [torch.randint(10, (8, 12))]
    Use instead:
        model = nn.Sequential(embed, Block(), Block(), Block(), nn.RMSNorm(16), head)
    """

    FEWEST = 2
    remedy = "Put a normalization between the last block and the head, and load its weights."
    reference = "https://arxiv.org/abs/2002.04745"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        kinds = {layer.name: layer.kind for layer in exam.of_kind(*self.kinds)}
        readers = [name for name in forward.stream_readers if name in kinds]
        if forward.bare_head and len(readers) >= self.FEWEST:
            message = "It reads the residual stream without the normalization that the blocks have."
            evidence = {"layers_that_read_it": len(readers), "limit": self.FEWEST}
            severity = "warning" if forward.stream_of_tokens else "info"
            yield self.finding(forward.bare_head, message, evidence, severity)
